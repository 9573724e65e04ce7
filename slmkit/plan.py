"""Plans a study: every wrong argument is found here, before a process starts and before anything is written.

A model is fetched only when some of its steps have the memory; one that cannot be had fails its own steps only.

A plan is a list of steps in the order they run: seed by seed the floor first (every other run is tested against it),
then model by model, 16 bits before 4 (so that a quantised run finds its twin).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from slmkit import assets, backends, catalog, classify, data, estimate, footprint, tasks
from slmkit.assets import ModelSource
from slmkit.backends.base import check_bits
from slmkit.data import Split
from slmkit.errors import AssetError, InputError, MissingExtra, NotEnoughMemory, SlmkitError, unknown
from slmkit.tasks import Task

MODELS = ("minilm", "smollm2-135m-instruct")
METHODS = ("floor", "embedding", "prompt", "lora")
BITS = (16, 4)
ANY_KIND = "unknown"  # of a model whose files cannot be had
CHARACTERS_A_TOKEN = 4.0
BUILTIN_S, BUILTIN_BYTES = 3.0, 300_000_000  # the dummy backend


@dataclass(frozen=True)
class Step:
    """One evaluation to come.

    Attributes
    ----------
    method : str
        A key of `classify.METHODS`.
    source : ModelSource or None
        None for the floor.
    backend : str or None
        Its name; None until probed, and for the floor.
    bits : int or None
    params : dict
        Every argument of the method beside model, bits, backend and seed.
    seed : int
    problem : SlmkitError or None
        Why the model's files cannot be had.
    """

    method: str
    source: ModelSource | None
    backend: str | None
    bits: int | None
    params: dict[str, Any]
    seed: int
    problem: SlmkitError | None = None

    @property
    def model(self) -> str | None:
        """The model's name, None for the floor."""
        return self.source.name if self.source else None

    @property
    def trains_weights(self) -> bool:
        """Whether fitting needs the memory of a training."""
        return bool(classify.METHODS[self.method].trains_weights)

    @cached_property
    def refusal(self) -> SlmkitError | None:
        """Why it cannot run: no files, or no memory, found before anything is loaded; None if it can."""
        if self.problem or self.source is None or self.bits is None:
            return self.problem
        try:
            estimate.check_fits(self.source, self.bits, training=self.trains_weights, **_sizes(self.params))
        except NotEnoughMemory as error:
            return error
        return None

    def expected(self, split: Split) -> tuple[float, int]:
        """Estimated seconds and bytes; nothing for what is refused."""
        if self.refusal:
            return 0.0, 0
        if self.source is not None and self.source.revision == "builtin":
            return BUILTIN_S, BUILTIN_BYTES
        facts = {
            "method": self.method,
            "model": self.source,
            "bits": self.bits,
            "n_train": len(split.train),
            "n_test": len(split.test),
            "mean_tokens": float(split.test["text"].str.len().mean()) / CHARACTERS_A_TOKEN,
            "epochs": self.params.get("epochs"),
            "shots": self.params.get("shots"),
        }
        found = estimate.study_estimate([{**facts, **_sizes(self.params)}])
        return found["seconds"], found["peak_bytes"]

    @property
    def label(self) -> str:
        """What progress calls it: "lora · smollm2-135m-instruct · 4 bits · seed 0"."""
        bits = f"{self.bits} bits" if self.bits else None
        return " · ".join(part for part in (self.method, self.model, bits, f"seed {self.seed}") if part)

    def run_id(self, task: Task, split_sha256: str, measure_s: float) -> str:
        """Twelve hex digits over all that decides the result, so that a finished run is known again."""
        facts = {
            "task": [task.name, split_sha256, task.positive],
            "model": [self.model, self.source.revision if self.source else None],
            "how": [self.method, self.backend, self.bits, self.params, self.seed],
            "measure_s": float(measure_s),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """What a study will run, on which rows."""

    task: Task
    data_sha256: str
    splits: dict[int, Split]
    steps: tuple[Step, ...]
    out: Path
    measure_s: float
    notes: tuple[str, ...] = ()


def make(
    task: str | Path,
    *,
    text_column: str | None,
    label_column: str | None,
    models: str | Sequence[str],
    methods: str | Sequence[str],
    bits: int | Sequence[int],
    shots: int,
    train: int | None,
    test: int | None,
    epochs: float,
    seeds: int | Sequence[int],
    backend: str | None,
    params: Mapping[str, Mapping[str, Any]] | None,
    measure_s: float,
    out: str | Path,
) -> Plan:
    """Check every argument of `slmkit.study`, read the rows and split them; the arguments are described there.

    Raises
    ------
    InputError
        All problems at once, each naming the thing, what is allowed and what came.
    """
    problems: list[str] = []
    names = _listed("method", methods, str, problems)
    for name in names:
        if name not in classify.METHODS:
            problems.append(str(unknown("method", name, classify.METHODS)))
    widths = [b for b in _listed("bits", bits, int, problems) if _said(check_bits, b, problems=problems)]
    numbers = _listed("seed", seeds, int, problems)
    _check_counts({"shots": (shots, 0), "train": (train, 1), "test": (test, 1)}, problems)
    _check_amounts({"epochs": epochs, "measure_s": measure_s}, problems)
    _check_params(params or {}, problems)
    _said(footprint.memory_limit, problems=problems)
    if backend is not None:
        _said(backends.get, backend, problems=problems)
    folder = Path(out).expanduser()
    _check_out(folder, problems)
    wanted = _listed("model", models, str, problems) if any(_needs(n) for n in names) else []
    here = {name: _said(assets.resolve, name, problems=problems) for name in wanted if not _to_fetch(name)}
    found = None
    if isinstance(task, (str, Path)):
        found = _said(tasks.get, task, text_column, label_column, problems=problems)
    else:
        problems.append(f"task must be a task's name or a file; got {task!r:.200}")
    if problems or found is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    given = _arguments(names, found, shots, epochs, params or {})
    refused: dict[str, SlmkitError] = {}
    sources = [here.get(name) or _fetched(name, names, widths, given, refused) for name in wanted]
    frame = found.load()
    splits = {seed: data.split(frame, seed=seed, train=train, test=test) for seed in numbers}
    steps = [
        replace(step, problem=refused.get(step.model or ""))
        for step in _steps(names, sources, sorted(widths, reverse=True), numbers, backend, given)
    ]
    sha256 = frame.attrs.get("sha256") or data.frame_sha256(frame)
    told = frame.attrs.get("warnings", ()) if str(task) in tasks.names() else ()  # reading a file has logged them
    notes = [*told, *_warnings(splits), *_left_out(names, sources)]
    return Plan(found, sha256, splits, tuple(steps), folder, measure_s, tuple(dict.fromkeys(notes)))


def lines(plan: Plan, todo: Sequence[tuple[Step, float, int]]) -> list[str]:
    """What is about to run, in words; `todo` are the steps not finished, each with its expected seconds and bytes."""
    split = next(iter(plan.splits.values()))
    said = [
        f"{plan.task.name}: {len(plan.steps)} runs on {len(split.train)} train and {len(split.test)} test rows, "
        f"into {plan.out}"
    ]
    if len(todo) < len(plan.steps):
        said.append(f"{len(plan.steps) - len(todo)} of them are finished and are skipped")
    for step, seconds, n_bytes in todo:
        cost = f"about {estimate.duration(seconds)}, {n_bytes / 1e9:.1f} GB"
        if step.refusal:
            cost = f"{'cannot be fetched' if step.problem else 'no memory for it'}, see below"
        said.append(f"- {step.label}: {cost}")
    if any(not step.refusal for step, _, _ in todo):
        whole = estimate.duration(sum(seconds for _, seconds, _ in todo))
        peak = max(n_bytes for _, _, n_bytes in todo)
        said.append(f"Estimates: {whole} in all, at most {peak / 1e9:.1f} GB in one process")
    return [*said, *(f"Note: {note}" for note in plan.notes)]


def split_sha256(split: Split) -> str:
    """Hash of the rows of both parts, with their texts and labels."""
    digest = hashlib.sha256()
    for part in (split.train, split.test):
        digest.update(data.frame_sha256(part).encode() + str(list(part.index)).encode())
    return digest.hexdigest()


def _sizes(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of LoRA that decide its memory, named as `estimate` names them."""
    names = {"max_batch_tokens": "batch_tokens", "last_blocks": "last_blocks", "rank": "rank"}
    return {ours: params[theirs] for theirs, ours in names.items() if params.get(theirs) is not None}


def _steps(
    names: list[str],
    sources: list[ModelSource],
    widths: list[int],
    seeds: list[int],
    backend: str | None,
    given: Mapping[str, dict[str, Any]],
) -> Iterator[Step]:
    for seed in seeds:
        yield Step("floor", None, None, None, given["floor"], seed)
        for source in sources:
            engine = "dummy" if backend is None and source.name == "dummy" else backend
            for bits in widths:
                for name in names:
                    if _suits(name, source):
                        yield Step(name, source, engine, bits, given[name], seed)


def _arguments(
    names: list[str], task: Task, shots: int, epochs: float, params: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """All arguments of every method in use, defaults included: the study's, the task's, and `params` above both."""
    common = {"shots": shots, "epochs": epochs, "noun": task.noun.capitalize()}
    common |= {"instruction": task.instruction, "label_words": dict(task.label_words)}
    found = {}
    for name in dict.fromkeys(["floor", *names]):
        known = classify.METHODS[name]().get_params()
        own = {key: value for key, value in known.items() if key not in ("model", "bits", "backend", "seed")}
        found[name] = {**own, **{key: value for key, value in common.items() if key in own}, **params.get(name, {})}
    return found


def _to_fetch(name: str) -> bool:
    """Whether a model's files may not be on this disk: a catalog name without a copy, or a hub id."""
    if name in catalog.MODELS:
        return not assets.on_disk(name)
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf")
    return hub and not Path(name).exists()


def _fetched(
    name: str,
    names: list[str],
    widths: list[int],
    given: Mapping[str, dict[str, Any]],
    refused: dict[str, SlmkitError],
) -> ModelSource:
    """The model, fetched if any of its steps has the memory; without files a stand-in, its reason among `refused`."""
    entry = catalog.MODELS.get(name)
    stand_in = ModelSource(name, Path(), "not fetched", entry.kind if entry else ANY_KIND, bool(entry and entry.chat))
    steps = [s for s in _steps(names, [stand_in], widths, [0], None, given) if s.source]
    if entry and all(step.refusal for step in steps):
        return stand_in
    try:
        return assets.resolve(name)
    except (AssetError, MissingExtra) as error:
        refused[name] = error
        return stand_in


def _needs(name: str) -> str | None:
    return classify.METHODS[name].needs if name in classify.METHODS else None


def _suits(name: str, source: ModelSource) -> bool:
    return _needs(name) in ("any", source.kind) or (source.kind == ANY_KIND and _needs(name) is not None)


def _left_out(names: list[str], sources: list[ModelSource]) -> list[str]:
    """Say which model a method cannot use; refuse a method that could use none."""
    notes = []
    for source in sources:
        without = [n for n in names if _needs(n) and not _suits(n, source)]
        if without:
            notes.append(f"{source.name} ({source.kind}) takes no part in {' and '.join(without)}: a decoder is needed")
    for name in names:
        if _needs(name) and not any(_suits(name, s) for s in sources):
            came = ", ".join(f"{s.name} ({s.kind})" for s in sources) or "no model"
            raise InputError(f"method {name!r} needs a {_needs(name)} model, for example {MODELS[1]}; got {came}")
    return notes


def _listed(kind: str, value: Any, of: type, problems: list[str]) -> list[Any]:
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


def _check_counts(counts: Mapping[str, tuple[Any, int]], problems: list[str]) -> None:
    for name, (value, least) in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name} must be a whole number of at least {least}; got {value!r}")


def _check_amounts(amounts: Mapping[str, Any], problems: list[str]) -> None:
    for name, value in amounts.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            problems.append(f"{name} must be above 0 and finite; got {value!r}")


def _check_params(params: Any, problems: list[str]) -> None:
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


def _check_out(folder: Path, problems: list[str]) -> None:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        problems.append(f"out must be a folder; {there} is a file")
    elif not os.access(there, os.W_OK | os.X_OK):
        problems.append(f"out must be a folder that can be written to; {there} cannot")


def _said(function: Any, *arguments: Any, problems: list[str]) -> Any:
    """The function's value, or None with its complaint noted."""
    try:
        return function(*arguments)
    except SlmkitError as error:
        problems.append(str(error))
        return None


def _warnings(splits: Mapping[int, Split]) -> list[str]:
    return [warning for split in splits.values() for warning in split.warnings]


def job_values(step: Step, plan: Plan, run_id: str, split_file: Path) -> dict[str, Any]:
    """What `evaluate.Job` is made from, as JSON values."""
    return {
        "run_id": run_id,
        "task": {name: getattr(plan.task, name) for name in ("name", "positive", "licence")},
        "data_sha256": plan.data_sha256,
        "split_file": str(split_file.absolute()),
        "out": str(plan.out.absolute()),
        "method": step.method,
        "model": step.model,
        "backend": step.backend,
        "bits": step.bits,
        "params": step.params,
        "seed": step.seed,
        "measure_s": plan.measure_s,
    }
