"""Plans a study: every wrong argument is found here, before a process starts and before anything is written.

A plan is a list of steps in the order they run: seed by seed the floor first (every other run is tested against it),
then model by model, 16 bits before 4 (so that a quantised run finds its twin).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit import assets, backends, classify, data, estimate, tasks
from slmkit.assets import ModelSource
from slmkit.backends.base import check_bits
from slmkit.data import Split
from slmkit.errors import InputError, NotEnoughMemory, SlmkitError, unknown
from slmkit.tasks import Task

MODELS = ("minilm", "smollm2-135m-instruct")
METHODS = ("floor", "embedding", "prompt", "lora")
BITS = (16, 4)
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
    """

    method: str
    source: ModelSource | None
    backend: str | None
    bits: int | None
    params: dict[str, Any]
    seed: int

    @property
    def model(self) -> str | None:
        """The model's name, None for the floor."""
        return self.source.name if self.source else None

    @property
    def trains_weights(self) -> bool:
        """Whether fitting needs the memory of a training."""
        return bool(classify.METHODS[self.method].trains_weights)

    @property
    def refusal(self) -> NotEnoughMemory | None:
        """Why this machine has no memory for it, found before anything is loaded; None if it has."""
        if self.source is None or self.bits is None:
            return None
        try:
            estimate.check_fits(self.source, self.bits, training=self.trains_weights, **_sizes(self.params))
        except NotEnoughMemory as error:
            return error
        return None

    def expected(self, split: Split) -> tuple[float, int]:
        """Estimated seconds and bytes."""
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

    def run_id(self, task: Task, split_sha256: str) -> str:
        """Twelve hex digits over all that decides the result, so that a finished run is known again."""
        facts = {
            "task": [task.name, split_sha256, task.positive],
            "model": [self.model, self.source.revision if self.source else None],
            "how": [self.method, self.backend, self.bits, self.params, self.seed],
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
    if not (isinstance(epochs, (int, float)) and epochs > 0):
        problems.append(f"epochs must be above 0; got {epochs!r}")
    if backend is not None:
        _said(backends.get, backend, problems=problems)
    folder = Path(out).expanduser()
    _check_out(folder, problems)
    wanted = _listed("model", models, str, problems) if any(_needs(n) for n in names) else []
    sources = [s for name in wanted if (s := _said(assets.resolve, name, problems=problems))]
    found = _said(tasks.get, task, text_column, label_column, problems=problems)
    if problems or found is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    given = _arguments(names, found, shots, epochs, params or {})
    frame = found.load()
    splits = {seed: data.split(frame, seed=seed, train=train, test=test) for seed in numbers}
    steps = tuple(_steps(names, sources, sorted(widths, reverse=True), numbers, backend, given))
    sha256 = frame.attrs.get("sha256") or data.frame_sha256(frame)
    notes = [*frame.attrs.get("warnings", ()), *_warnings(splits), *_left_out(names, sources)]
    return Plan(found, sha256, splits, steps, folder, tuple(dict.fromkeys(notes)))


def lines(plan: Plan, todo: Sequence[Step]) -> list[str]:
    """What is about to run, for how long and in how much memory, in words; `todo` are the steps not finished."""
    split = next(iter(plan.splits.values()))
    expected = {id(step): step.expected(plan.splits[step.seed]) for step in todo}
    said = [
        f"{plan.task.name}: {len(plan.steps)} runs on {len(split.train)} train and {len(split.test)} test rows, "
        f"into {plan.out}"
    ]
    if len(todo) < len(plan.steps):
        said.append(f"{len(plan.steps) - len(todo)} of them are finished and are skipped")
    for step in todo:
        seconds, n_bytes = expected[id(step)]
        cost = (
            "no memory for it, see below"
            if step.refusal
            else f"about {estimate.duration(seconds)}, {n_bytes / 1e9:.1f} GB"
        )
        said.append(f"- {step.label}: {cost}")
    if todo:
        whole = estimate.duration(sum(s for s, _ in expected.values()))
        peak = max(n_bytes for _, n_bytes in expected.values())
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
            engine = "dummy" if backend is None and source.name.startswith("dummy") else backend
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
        extra = dict(params.get(name, {}))
        for key in extra:
            if key not in own:
                raise unknown(f"argument of {name}", key, own)
        found[name] = {**own, **{key: value for key, value in common.items() if key in own}, **extra}
    for name in params:
        if name not in classify.METHODS:
            raise unknown("method", name, classify.METHODS)
    return found


def _needs(name: str) -> str | None:
    return classify.METHODS[name].needs if name in classify.METHODS else None


def _suits(name: str, source: ModelSource) -> bool:
    return _needs(name) in ("any", source.kind)


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
        except (TypeError, ValueError):
            problems.append(f"{kind} must be a whole number; got {item!r}")
    found = [item for item in dict.fromkeys(found) if item != ""]
    if not found and not problems:
        problems.append(f"at least one {kind} is needed; got {value!r}")
    return found


def _check_counts(counts: Mapping[str, tuple[Any, int]], problems: list[str]) -> None:
    for name, (value, least) in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name} must be a whole number of at least {least}; got {value!r}")


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


def job_values(step: Step, plan: Plan, run_id: str, split_file: Path, measure_s: float) -> dict[str, Any]:
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
        "measure_s": measure_s,
    }
