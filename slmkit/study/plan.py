"""Plans a study: every wrong argument is found here, before a process starts and before anything is written.

A model is fetched only when some of its steps have the memory; one that cannot be had fails its own steps only.

A plan is a list of steps in the order they run: seed by seed the floor first (every other run is tested against it),
then model by model, 16 bits before 4 (so that a quantised run finds its twin).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from slmkit import assets, backends, catalog, classify, data, estimate, footprint, tasks
from slmkit.assets import ModelSource, licences
from slmkit.backends.base import check_bits
from slmkit.data import Split
from slmkit.errors import AssetError, InputError, MissingExtra, NotEnoughMemory, SlmkitError, unknown
from slmkit.splits import splitfile
from slmkit.splits.splitfile import GivenSplit
from slmkit.study import arguments, portions
from slmkit.tasks import Task

MODELS = ("minilm", "smollm2-135m-instruct")
METHODS = ("floor", "embedding", "prompt", "lora")
BITS = (16, 4)
ANY_KIND = "unknown"  # of a model whose files cannot be had
NOWHERE = Path(os.devnull)  # where they are not
CHARACTERS_A_TOKEN = 4.0
BUILTIN_S, BUILTIN_BYTES = 3.0, 300_000_000  # the dummy backend


class Reading(TypedDict, total=False):
    """Which rows are read, and how they are split: arguments of `slmkit.study`, which says what they mean."""

    text_column: str | Sequence[str] | None
    label_column: str | None
    split: str | Path | None
    test_file: str | Path | None
    relabel: str | Mapping[str, str] | None
    allow_leaks: bool
    accept_license: bool


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
    rows : int or None
        How many rows are learned from, in a plan with several sizes.
    """

    method: str
    source: ModelSource | None
    backend: str | None
    bits: int | None
    params: dict[str, Any]
    seed: int
    problem: SlmkitError | None = None
    rows: int | None = None

    @property
    def portion(self) -> portions.Portion:
        """Key of its rows among the plan's splits."""
        return self.seed, self.rows

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
            check = estimate.check_training if self.trains_weights else estimate.check_fits
            check(self.source, self.bits, **_sizes(self.params))
        except NotEnoughMemory as error:
            return error
        return None

    def expected(self, split: Split) -> tuple[float, int]:
        """Estimated seconds and bytes; nothing for what is refused."""
        if self.refusal:
            return 0.0, 0
        if self.source is not None and self.source.revision == "builtin":
            return BUILTIN_S, BUILTIN_BYTES
        facts: dict[str, Any] = {
            "method": self.method,
            "model": self.source,
            "bits": self.bits,
            "n_train": len(split.train),
            "n_test": len(split.test),
            "mean_tokens": float(split.test["text"].str.len().mean()) / CHARACTERS_A_TOKEN,
            "epochs": self.params.get("epochs"),
            "shots": self.params.get("shots"),
        }
        if self.trains_weights:
            facts["train_tokens"] = round(facts["mean_tokens"] * len(split.train))
        found = estimate.study_estimate([{**facts, **_sizes(self.params)}])
        return found["seconds"], found["peak_bytes"]

    @property
    def label(self) -> str:
        """What progress calls it: "lora · smollm2-135m-instruct · 4 bits · seed 0"."""
        bits = f"{self.bits} bits" if self.bits else None
        rows = f"{self.rows} rows" if self.rows else None
        return " · ".join(part for part in (self.method, self.model, bits, rows, f"seed {self.seed}") if part)

    def has_model_of(self, sixteen: Step) -> bool:
        """Whether its model is that of another step, or what `slmkit quantize` made from it."""
        if self.source is None or sixteen.source is None:
            return False
        form = self.source.stored
        made_from = form is not None and form.base_revision == sixteen.source.revision
        return made_from or self.source.name == sixteen.source.name

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
    splits: dict[portions.Portion, Split]
    steps: tuple[Step, ...]
    out: Path
    measure_s: float
    leaked: dict[portions.Portion, int]
    notes: tuple[str, ...] = ()


def make(
    task: str | Path | pd.DataFrame,
    *,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    split: str | Path | None = None,
    test_file: str | Path | None = None,
    relabel: str | Mapping[str, str] | None = None,
    allow_leaks: bool = False,
    accept_license: bool = False,
    models: str | Sequence[str],
    methods: str | Sequence[str],
    bits: int | Sequence[int] | None,
    shots: int,
    train: int | Sequence[int] | None,
    test: int | None,
    epochs: float,
    seeds: int | Sequence[int],
    backend: str | None,
    params: Mapping[str, Mapping[str, Any]] | None,
    measure_s: float,
    out: str | Path,
    known: Sequence[str] = (),
) -> Plan:
    """Check every argument of `slmkit.study`, read the rows and split them; the arguments are described there.

    Several sizes as `train` give every step once a size, learning from nested subsets. Problems `known` to the caller
    are raised with those found here.

    Raises
    ------
    InputError
        All problems at once, each naming the thing, what is allowed and what came.
    """
    problems = list(known)
    names = arguments.listed("method", methods, str, problems)
    for name in names:
        if name not in classify.METHODS:
            problems.append(str(unknown("method", name, classify.METHODS)))
    asked_bits = arguments.listed("bits", BITS if bits is None else bits, int, problems)
    widths = sorted((b for b in asked_bits if arguments.said(check_bits, b, problems=problems)), reverse=True)
    numbers = arguments.listed("seed", seeds, int, problems)
    sizes = list(train) if isinstance(train, Sequence) else [train]
    for size in sizes:
        arguments.check_counts({"shots": (shots, 0), "train": (size, 1), "test": (test, 1)}, problems)
    arguments.check_amounts({"epochs": epochs, "measure_s": measure_s}, problems)
    arguments.check_params(params or {}, problems)
    arguments.said(footprint.memory_limit, problems=problems)
    if backend is not None:
        arguments.said(backends.get, backend, problems=problems)
    folder = Path(out).expanduser()
    arguments.check_out(folder, problems)
    wanted = arguments.listed("model", models, str, problems) if any(_needs(n) for n in names) else []
    for name in wanted if accept_license else ():
        if name in catalog.MODELS:
            licences.accept_model(catalog.MODELS[name])
    here = {name: arguments.said(assets.resolve, name, problems=problems) for name in wanted if not _to_fetch(name)}
    asked = None if bits is None else tuple(widths)
    for source in here.values():
        arguments.said(arguments.widths, source, asked, backend, BITS, problems=problems)
    given_split = arguments.said(GivenSplit.of, split, test_file, problems=problems)
    found = arguments.said(tasks.get, task, text_column, label_column, given_split, relabel, problems=problems)
    if found is not None and not found.labels:
        problems.append(f"task {found.name!r} turns texts into texts; a study classifies")
    if problems or found is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    if accept_license:
        found.accept_license()
    frame = found.load()
    splits = portions.cut(frame, given_split, numbers, sizes, test)
    leaked, leak_notes = portions.guard(splits, allow_leaks=allow_leaks)
    given = arguments.of_methods(names, found, shots, epochs, params or {})
    refused: dict[str, SlmkitError] = {}  # models are fetched last, for rows that are known to be usable
    sources = [here.get(name) or _fetched(name, names, asked, given, refused) for name in wanted]
    steps = [
        replace(step, problem=refused.get(step.model or ""), rows=size if len(sizes) > 1 else None)
        for size in sizes
        for step in _steps(names, sources, asked, numbers, backend, given)
    ]
    sha256 = frame.attrs.get("sha256") or data.frame_sha256(frame)
    told = frame.attrs.get("warnings", ()) if found.name in tasks.names() else ()  # reading a file has logged them
    notes = [
        *told,
        *portions.warnings(splits),
        *leak_notes,
        *_left_out(names, sources),
        *arguments.one_width(sources, asked),
    ]
    return Plan(found, sha256, splits, tuple(steps), folder, measure_s, leaked, tuple(dict.fromkeys(notes)))


def lines(plan: Plan, todo: Sequence[tuple[Step, float, int]]) -> list[str]:
    """What is about to run, in words; `todo` are the steps not finished, each with its expected seconds and bytes."""
    split = next(iter(plan.splits.values()))
    train = f"{len(split.train):,}"
    if len({step.rows for step in plan.steps}) > 1:
        train = f"{min(step.rows or 0 for step in plan.steps):,} to {max(step.rows or 0 for step in plan.steps):,}"
    said = [
        f"{plan.task.name}: {len(plan.steps)} run{'s' * (len(plan.steps) > 1)} on {train} train and "
        f"{len(split.test):,} test rows, into {plan.out}"
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


def _sizes(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of LoRA that decide its memory, named as `estimate` names them; the length of a text only where a
    single one may be longer than a batch."""
    names = {"max_batch_tokens": "batch_tokens", "last_blocks": "last_blocks", "rank": "rank"}
    if "max_batch_tokens" in params and (params.get("max_length") or 0) > (params["max_batch_tokens"] or 0):
        names["max_length"] = "seq"
    return {ours: params[theirs] for theirs, ours in names.items() if params.get(theirs) is not None}


def _steps(
    names: list[str],
    sources: list[ModelSource],
    asked: tuple[int, ...] | None,
    seeds: list[int],
    backend: str | None,
    given: Mapping[str, dict[str, Any]],
) -> Iterator[Step]:
    for seed in seeds:
        yield Step("floor", None, None, None, given["floor"], seed)
        for source in sources:
            engine = "dummy" if backend is None and source.name == "dummy" else backend
            engine = source.stored.backend if source.stored else engine
            for bits in arguments.widths(source, asked, backend, BITS):
                for name in names:
                    if _suits(name, source):
                        yield Step(name, source, engine, bits, _settled(given[name], source, bits, backend), seed)


def _settled(params: dict[str, Any], source: ModelSource, bits: int, backend: str | None) -> dict[str, Any]:
    """Arguments with the number of tokens that a training takes at once on this machine, so that the run names it."""
    unknown_size = source.folder == NOWHERE and source.name not in catalog.MODELS
    if params.get("max_batch_tokens", 0) is not None or unknown_size:
        return params
    how = {"last_blocks": params.get("last_blocks"), "rank": params["rank"], "backend": backend}
    return params | {"max_batch_tokens": estimate.training_tokens(source, bits, **how)}


def _to_fetch(name: str) -> bool:
    """Whether a model's files may not be on this disk: a catalog name without a copy, or a hub id."""
    if name in catalog.MODELS:
        return not assets.on_disk(name)
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf")
    return hub and not Path(name).exists()


def _fetched(
    name: str,
    names: list[str],
    asked: tuple[int, ...] | None,
    given: Mapping[str, dict[str, Any]],
    refused: dict[str, SlmkitError],
) -> ModelSource:
    """The model, fetched if any of its steps has the memory; without files a stand-in, its reason among `refused`."""
    entry = catalog.MODELS.get(name)
    stand_in = ModelSource(name, NOWHERE, "not fetched", entry.kind if entry else ANY_KIND, bool(entry and entry.chat))
    steps = [s for s in _steps(names, [stand_in], asked, [0], None, given) if s.source]
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
        "split": {
            "kind": "given" if plan.splits[step.portion].given else "seeded",
            "sha256": splitfile.split_sha256(plan.splits[step.portion]),
            "leaked_test_rows": plan.leaked[step.portion],
        },
    }
