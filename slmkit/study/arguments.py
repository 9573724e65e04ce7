"""Checks what a person asked a study for; every problem is noted, so that one message can name them all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit import classify
from slmkit.assets import ModelSource, stored
from slmkit.errors import SlmkitError, unknown
from slmkit.tasks import Task


def listed(kind: str, value: Any, of: type, problems: list[str]) -> list[Any]:
    """A list without repetitions from one value, a text with commas, or a sequence; empty ones are problems."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    found = []
    for item in items:
        item = item.strip() if isinstance(item, str) else item
        try:
            found.append(of(item))
            if of is int and (isinstance(item, bool) or int(item) != float(item)):
                raise ValueError(item)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{kind} must be a whole number; got {item!r}")
    found = [item for item in dict.fromkeys(found) if item != ""]
    if not found and not problems:
        problems.append(f"at least one {kind} is needed; got {value!r}")
    return found


def check_counts(counts: Mapping[str, tuple[Any, int]], problems: list[str]) -> None:
    for name, (value, least) in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name} must be a whole number of at least {least}; got {value!r}")


def check_amounts(amounts: Mapping[str, Any], problems: list[str]) -> None:
    for name, value in amounts.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            problems.append(f"{name} must be above 0 and finite; got {value!r}")


def check_params(params: Any, problems: list[str]) -> None:
    """Check every key against its method's class, also of methods that take no part."""
    if not isinstance(params, Mapping) or not all(isinstance(values, Mapping) for values in params.values()):
        problems.append(f"params must be a mapping of methods to mappings; got {params!r:.200}")
        return
    for name, values in params.items():
        if name not in classify.METHODS:
            problems.append(str(unknown("method", name, classify.METHODS)))
            continue
        known = [
            key for key in classify.METHODS[name]().get_params() if key not in ("model", "bits", "backend", "seed")
        ]
        problems += [str(unknown(f"argument of {name}", key, known)) for key in values if key not in known]


def check_out(folder: Path, problems: list[str]) -> None:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        problems.append(f"out must be a folder; {there} is a file")
    elif not os.access(there, os.W_OK | os.X_OK):
        problems.append(f"out must be a folder that can be written to; {there} cannot")


def said(function: Any, *arguments: Any, problems: list[str]) -> Any:
    """The function's value, or None with its complaint noted."""
    try:
        return function(*arguments)
    except SlmkitError as error:
        problems.append(str(error))
        return None


def widths(
    source: ModelSource | None, asked: Sequence[int] | None, backend: str | None, default: Sequence[int]
) -> Sequence[int]:
    """The bits a model runs in: those asked for, or `default`; of one that is stored in few bits just these.

    Raises `InputError` when those, or the backend that reads them, are others than were asked for.
    """
    form = source.stored if source else None
    if source is None or form is None:
        return default if asked is None else asked
    wrong = asked[0] if asked and form.bits not in asked else None
    stored.check(form, source.name, wrong, backend)
    return (form.bits,)


def one_width(sources: Sequence[ModelSource], asked: Sequence[int] | None) -> Iterator[str]:
    """Say which model runs in fewer widths than were asked for, since it is stored in one."""
    for source in sources:
        if source.stored and asked and len(asked) > 1:
            yield f"{source.name} is stored in {source.stored.bits} bits and runs in these only"


def of_methods(
    names: list[str], task: Task, shots: int, epochs: float, params: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """All arguments of every method in use, defaults included: the study's, the task's, and `params` above both."""
    common = {"shots": shots, "epochs": epochs, "noun": task.noun.capitalize()}
    common |= {"instruction": task.instruction, "label_words": dict(task.label_words)}
    found = {}
    for name in dict.fromkeys(["floor", *names]):
        known = classify.METHODS[name]().get_params()
        own = {key: value for key, value in known.items() if key not in ("model", "bits", "backend", "seed")}
        chosen = {**own, **{key: value for key, value in common.items() if key in own}, **params.get(name, {})}
        found[name] = classify.METHODS[name].settled(chosen)
    return found
