"""Runs a study: task x model x method x bits x seed, one child process after the other, each yielding one `Run`.

Finished runs are known again by their id and skipped, so a study killed at any moment goes on where it stopped; one
combination that fails is reported and the rest goes on. The module can be called as the function it holds, because
`import slmkit.study` puts the module where `slmkit.study(...)` looks.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import assets, backends, console, evaluate, files, footprint, jobs
from slmkit.errors import SlmkitError
from slmkit.jobs.nursery import Nursery
from slmkit.runs import Run, read_probabilities, read_run, to_frame, write_run
from slmkit.splits import splitfile
from slmkit.study import folder
from slmkit.study import plan as planning
from slmkit.study.plan import Plan, Step

log = logging.getLogger(__name__)
Progress = Callable[[Mapping[str, Any]], None]
_ENGINES: dict[str | None, str] = {}  # by the name asked for: what a machine can run does not change meanwhile


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes
    ----------
    runs : list of Run
        In the order of the plan; those that were finished before among them.
    failed : list of dict
        model, method, bits, seed and error of every combination that brought no run.
    seconds : float
        Wall time of this call.
    peak_rss_bytes : int
        Largest resident memory of any process of this call, this one included.
    out : Path
        The folder with runs, probabilities, models and logs.
    stopped : bool
        Whether `cancel` ended it early.
    """

    runs: list[Run]
    failed: list[dict[str, Any]]
    seconds: float
    peak_rss_bytes: int
    out: Path
    stopped: bool = False

    @property
    def frame(self) -> pd.DataFrame:
        """The runs as a frame, one row a run."""
        return to_frame(self.runs)


def study(
    task: str | Path | pd.DataFrame,
    *,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    split: str | Path | None = None,
    test_file: str | Path | None = None,
    relabel: str | Mapping[str, str] | None = None,
    allow_leaks: bool = False,
    accept_license: bool = False,
    models: str | Sequence[str] = planning.MODELS,
    methods: str | Sequence[str] = planning.METHODS,
    bits: int | Sequence[int] | None = None,
    shots: int = 0,
    train: int | None = None,
    test: int | None = None,
    epochs: float = 3,
    seeds: int | Sequence[int] = (0,),
    backend: str | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    measure_s: float = 10.0,
    out: str | Path = "runs",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Measure accuracy against footprint over a grid of models, methods and bits.

    Parameters
    ----------
    task : str, path or DataFrame
        A task's name, a file of your own (CSV, TSV, JSONL, Parquet, Excel), or the frame that `slmkit.read` gave.
    text_column, label_column : str or None
        Columns of that file; None looks for the usual names. Several text columns are joined.
    split : str, path or None
        None splits by the seed so that nothing leaks. A split file (.json) repeats that split. Otherwise the column
        that says train or test; "part" for the published parts of a task.
    test_file : path or None
        A second file with the same columns: its rows are tested, those of the first are learned from.
    relabel
        As `slmkit.read` takes it.
    allow_leaks : bool
        A given split that leaks is refused. True goes on, and marks every record made from it.
    accept_license : bool
        Accept the terms of the task's data and of the models, once on this machine (`slmkit data show NAME` and
        `slmkit models NAME` print them).
    models : sequence of str
        Catalog names, hub ids or paths. An encoder takes part in `embedding` only.
    methods : sequence of str
        Of "floor", "embedding", "prompt", "lora". The floor always runs: it is what the others have to beat.
    bits : sequence of int or None
        Of 16, 8, 4. With 16 among them, a quantised run is tested against its 16-bit twin. None takes 16 and 4, and of
        a folder that `slmkit quantize` wrote what it is stored in.
    shots : int
        Examples in the prompt. More: often better, always slower.
    train, test : int or None
        Rows of each part; None takes 80 and 20 %. Fewer test rows: wider intervals.
    epochs : float
        Passes of LoRA over the training rows; time grows with them.
    seeds : sequence of int
        Each seed splits, shuffles and initialises anew: several show how much is luck.
    backend : str or None
        "bnb", "mlx" or "dummy"; None probes for the best.
    params : mapping or None
        Further arguments by method, for example {"lora": {"last_blocks": 8}}.
    measure_s : float
        About how long latency, throughput and energy of each run are measured; an energy counter needs ten seconds.
    out : path
        Where everything is written.
    progress : callable or None
        Gets every event as a dict; None shows a progress bar.
    cancel : threading.Event or None
        Set it from another thread to stop; what is finished is kept and returned.

    Returns
    -------
    StudyResult

    Raises
    ------
    InputError
        Wrong arguments, all at once, before a process starts and before anything is written.
    """
    plan = planning.make(
        task,
        text_column=text_column,
        label_column=label_column,
        split=split,
        test_file=test_file,
        relabel=relabel,
        allow_leaks=allow_leaks,
        accept_license=accept_license,
        models=models,
        methods=methods,
        bits=bits,
        shots=shots,
        train=train,
        test=test,
        epochs=epochs,
        seeds=seeds,
        backend=backend,
        params=params,
        measure_s=measure_s,
        out=out,
    )
    return carry_out(plan, progress, cancel)


def carry_out(plan: Plan, progress: Progress | None = None, cancel: threading.Event | None = None) -> StudyResult:
    """Run what a plan holds and is not finished; see `study`."""
    engines = {step.backend for step in plan.steps if step.source} - {"dummy"}
    imports = [module for engine in engines for module in backends.imports(engine)]
    with folder.lock(plan.out), Nursery(evaluate.__name__, imports) as nursery:
        return _Study(plan, progress or console.Bar(), cancel, nursery).run()


@dataclass
class _Item:
    """A step with what is known of it: its id, its rows, its expected cost, and its run once there is one."""

    step: Step
    run_id: str
    split_file: Path
    expected_s: float
    expected_bytes: int
    run: Run | None = None


@dataclass
class _Study:
    """The state of one call."""

    plan: Plan
    progress: Progress
    cancel: threading.Event | None
    nursery: Nursery
    failed: list[dict[str, Any]] = field(default_factory=list)
    peak_rss_bytes: int = 0
    done: int = 0
    spent_s: float = 0.0
    spent_of_s: float = 0.0
    own_s: float = 0.0  # what the item at work is expected to take
    began: float = 0.0

    def run(self) -> StudyResult:
        """Go through the plan."""
        began = time.monotonic()
        folder.sweep(self.plan.out)
        stopped = False
        items: list[_Item] = []
        try:
            folder.write_card(self.plan.out, self.plan.data_sha256, self.plan.task.card)
            items = self._items()
            todo = [item for item in items if item.run is None]
            costs = [(item.step, item.expected_s, item.expected_bytes) for item in todo]
            self._say("plan", lines=planning.lines(self.plan, costs), todo=len(todo))
            self._prepare(todo)
            for item in items:
                self._do(item, items)
        except jobs.Cancelled:
            stopped = True
        runs = _paired([item for item in items if item.run is not None], self.plan.out)
        peak = max(self.peak_rss_bytes, footprint.peak_ram_bytes() or 0)
        result = StudyResult(runs, self.failed, time.monotonic() - began, peak, self.plan.out, stopped)
        self._say("end", runs=len(runs), failed=len(self.failed), seconds=result.seconds)
        return result

    def _items(self) -> list[_Item]:
        engine = self._engine()
        hashes = {portion: splitfile.split_sha256(split) for portion, split in self.plan.splits.items()}
        items = []
        for step in self.plan.steps:
            step = replace(step, backend=step.backend or engine) if step.source else step
            split_file = self.plan.out / "splits" / f"{hashes[step.portion][:12]}.parquet"
            run_id = step.run_id(self.plan.task, hashes[step.portion], self.plan.measure_s)
            expected = step.expected(self.plan.splits[step.portion])
            item = _Item(step, run_id, split_file, *expected, folder.finished(self.plan.out, run_id))
            if item.run is None:
                folder.write_split(
                    self.plan.splits[step.portion], split_file, self.plan.data_sha256, step.seed, self.plan.task.licence
                )
            items.append(item)
        return items

    def _engine(self) -> str | None:
        """The backend's name. It is probed in a child, which imports torch so that this process need not."""
        steps = [step for step in self.plan.steps if step.source and not step.problem]
        asked = {step.backend for step in steps if step.source and not step.source.stored}
        if asked <= {"dummy"}:
            return None
        name = next(iter(asked - {"dummy"}))
        if name not in _ENGINES:
            _ENGINES[name] = str(self._child({"stage": "probe", "backend": name}, "probe")["backend"])
        return _ENGINES[name]

    def _prepare(self, todo: list[_Item]) -> None:
        """Opened and quantised copies are made in a process of their own, so that no measured peak contains that work.

        A process that loads an engine takes seconds, so there is none where the files can be read as they are.
        """
        steps = [item.step for item in todo if item.step.source and item.step.backend != "dummy"]
        steps = [step for step in steps if step.source and not step.source.stored and not step.refusal]
        models = dict.fromkeys((step.model, step.bits, step.backend) for step in steps if not _is_plain(step))
        if not models:
            return
        message = {"stage": "prepare", "models": [list(m) for m in models]}
        whole_s = sum(item.expected_s for item in todo)
        try:
            found = self._child(message, "prepare", "prepare models", left_s=whole_s)
            for error in found["errors"]:
                log.warning("not prepared: %s", error)
        except jobs.JobFailed as error:
            log.warning("models could not be prepared ahead: %s", error)

    def _do(self, item: _Item, items: list[_Item]) -> None:
        """Run, skip or fail one item; an error of its own never stops the study."""
        label = item.step.label
        if item.run is not None:
            self.done += 1
            return self._say("skipped", label=label, run=item.run)
        self.own_s, self.began = item.expected_s, time.monotonic()
        self._say("start", label=label, seconds_left=self._left(None, self._later(items)))
        try:
            if item.step.refusal:
                raise item.step.refusal
            item.run = self._evaluate(item, items)
        except jobs.Cancelled:
            raise
        except (SlmkitError, OSError) as error:
            self.done += 1
            step = item.step
            why = jobs.describe(error, self.plan.out)
            self.failed.append(
                {"model": step.model, "method": step.method, "bits": step.bits, "seed": step.seed, "error": why}
            )
            return self._say("failed", label=label, error=why)
        self.done += 1
        self.spent_s += time.monotonic() - self.began
        self.spent_of_s += item.expected_s
        self._say("finished", label=label, run=item.run)

    def _evaluate(self, item: _Item, items: list[_Item]) -> Run:
        """One child that scores; before it one that trains, where training would spoil the peak of scoring."""
        values = planning.job_values(item.step, self.plan, item.run_id, item.split_file)
        values |= {"floor": self._other(item, items, "floor"), "twin": self._other(item, items, "twin")}
        left = self._later(items)
        if item.step.trains_weights and evaluate.fitted(evaluate.Job(**values)) is None:
            self._child({"stage": "fit", "job": values}, item.run_id, item.step.label, left)
        found = self._child({"stage": "score", "job": values}, item.run_id, item.step.label, left)
        return read_run(Path(found["run_file"]))

    def _later(self, items: list[_Item]) -> float:
        """Expected seconds of what comes after the item at work."""
        return sum(other.expected_s for other in items[self.done + 1 :] if other.run is None)

    def _other(self, item: _Item, items: list[_Item], which: str) -> str | None:
        other = _counterpart(item, items, which)
        return str(evaluate.probabilities_file(other, self.plan.out).absolute()) if other else None

    def _child(self, message: dict[str, Any], log_name: str, label: str = "", left_s: float = 0.0) -> dict[str, Any]:
        def hand_on(event: Mapping[str, Any]) -> None:
            facts = {key: value for key, value in event.items() if key not in ("event", "seconds_left")}
            self._say("progress", label=label, **facts, seconds_left=self._left(event.get("seconds_left"), left_s))

        began = time.monotonic()
        how: dict[str, Any] = {"cancel": self.cancel, "log_path": self.plan.out / "logs" / f"{log_name}.log"}
        if "job" not in message or message["job"]["model"]:  # the floor's memory contains no engine
            how["nursery"] = self.nursery
        try:
            found = jobs.run_child(message, on_event=hand_on, **how)
        except jobs.JobFailed as error:
            self.peak_rss_bytes = max(self.peak_rss_bytes, error.peak_rss_bytes)
            raise
        self.peak_rss_bytes = max(self.peak_rss_bytes, found["peak_rss_bytes"])
        took = time.monotonic() - began
        log.info(
            "%s of %s: %.1f s, peak %.0f MB", message["stage"], label or "backend", took, found["peak_rss_bytes"] / 1e6
        )
        return found

    def _left(self, own_s: float | None, later_s: float) -> float:
        """Seconds left: the step's own (None: as expected), and what later ones should take at the pace so far."""
        pace = self.spent_s / self.spent_of_s if self.spent_of_s else 1.0
        if own_s is None:
            own_s = max(0.0, self.own_s * pace - (time.monotonic() - self.began))
        return own_s + later_s * pace

    def _say(self, event: str, **facts: Any) -> None:
        self.progress({"event": event, "done": self.done, "total": len(self.plan.steps), **facts})


def _is_plain(step: Step) -> bool:
    """Whether the model's files need neither be opened nor quantised first."""
    assert step.source is not None
    return step.bits == 16 and (step.source.gguf is None or assets.is_whole(step.source.folder))


def _counterpart(item: _Item, items: list[_Item], which: str) -> Run | None:
    """The finished floor of the same seed, or the same method and model at 16 bits; None where there is none."""
    step = item.step
    for other in items:
        there = other.step
        if other is item or other.run is None or there.portion != step.portion:
            continue
        same = there.method == step.method and there.bits == 16 and step.bits != 16 and step.has_model_of(there)
        if there.method == "floor" if which == "floor" else same:
            return other.run
    return None


def _paired(items: list[_Item], out: Path) -> list[Run]:
    """Fill in paired tests whose other half was finished later, in an earlier or this call."""
    for item in items:
        assert item.run is not None
        found: dict[str, Any] = {}
        for which, key in (("floor", "p_vs_floor"), ("twin", "p_vs_16bit")):
            other = _counterpart(item, items, which)
            if other is not None and getattr(item.run, key) is None:
                p = evaluate.paired_p(read_probabilities(item.run, out), evaluate.probabilities_file(other, out))
                found |= {key: p} if p is not None else {}
        if found:
            origins = item.run.origins | dict.fromkeys(found, "measured")
            item.run = replace(item.run, origins=origins, **found)
            with files.on_disk(out / f"{item.run.stem}.json", folder.KEPT):
                write_run(item.run, out)
    return [item.run for item in items if item.run is not None]


class _Callable(types.ModuleType):
    __call__ = staticmethod(study)


sys.modules[__name__].__class__ = _Callable
