"""The course of a training, the same on every engine: steps, checkpoints, ways to stop, and what may go wrong.

An engine gives gradients and takes steps (`Learner`); this file decides when. Nothing in a step draws random numbers:
order of rows and first weights come from the seed, so a state is the trained weights and the optimiser's.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import numpy as np

from slmkit.assets import ModelSource
from slmkit.backends import _checkpoints as checkpoints
from slmkit.backends import _memory
from slmkit.backends import _shared as shared
from slmkit.backends._records import Progress, Watch
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError, NotEnoughMemory, SlmkitError

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.25
SAVING_SHARE = 0.05  # of the time that may go into checkpoints, those at the end of an epoch apart
UNDO_BYTES = 1 << 28  # trained weights up to this size are copied before each step, to be put back if it breaks them
Arrays = dict[str, np.ndarray]
Entry = dict[str, float]
T = TypeVar("T")


class Learner(Protocol):
    """What an engine does in a training."""

    def ready(self) -> AbstractContextManager[Any]:
        """What the steps need around them."""

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        """Compute and clip the gradients of a batch in micro-batches below `max_tokens`: mean loss, and norm."""

    def update(self, rate: float) -> None:
        """Take the step."""

    def free(self) -> None:
        """Forget gradients, those of half a batch too."""

    def recompute(self) -> bool:
        """Keep less for the way back, and compute it anew; False where that is done already, or cannot be."""

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that are spoken of as trained on."""

    def measure(self, max_tokens: int) -> dict[str, float]:
        """ "loss" on the held-out rows, and "accuracy" where there are labels."""

    def weights(self) -> Arrays:
        """The trained weights, as the optimiser has them."""

    def moments(self) -> Arrays:
        """The optimiser's state."""

    def restore(self, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray] | None = None) -> None:
        """Put weights back, and the optimiser's state if it is given."""


def problems(watch: Watch, n_classes: int | None = None) -> list[str]:
    """What is wrong with how a training is to be watched, in words."""
    wrong = [] if watch.every_s >= 0 else [f"every_s must be 0 or above; got {watch.every_s!r}"]
    if watch.patience is not None and (watch.patience < 1 or watch.held_out is None):
        wrong.append(f"patience must be at least 1, and go with held-out rows; got {watch.patience!r}")
    if watch.held_out is not None:
        texts, targets = watch.held_out
        if len(texts) != len(targets) or not len(texts):
            wrong.append(
                f"held-out rows must be two sequences of one length, at least 1; got {len(texts)}, {len(targets)}"
            )
        elif n_classes is not None and not all(0 <= y < n_classes for y in targets):
            wrong.append(f"held-out y must lie in 0 .. {n_classes - 1}; got {min(targets)} .. {max(targets)}")
    return wrong


def identity(
    source: ModelSource, backend: str, bits: int, dtype: str, rows: Sequence[Sequence[int]], targets: Iterable[Any]
) -> dict[str, Any]:
    """What a training is of: model, how it is stored and computed, and a hash of the token rows with their targets."""
    digest = hashlib.sha256()
    for row, target in zip(rows, targets, strict=True):
        for part in (row, np.atleast_1d(target)):
            digest.update(len(part).to_bytes(8, "little") + np.asarray(part, dtype=np.float64).tobytes())
    facts = {"model": source.revision, "backend": backend, "bits": bits, "dtype": dtype}
    return {**facts, "rows": len(rows), "their sha256": digest.hexdigest()}


def exact(*packages: str, **more: Any) -> dict[str, Any]:
    """What decides the last bits of a training: versions, the machine, and what else an engine names."""
    return {**{name: version(name) for name in ("numpy", *packages)}, "machine": platform.platform(), **more}


@dataclass
class History:
    """One entry an optimiser step, and a callback that is told at most four times a second."""

    steps: int
    callback: Progress | None
    entries: list[Entry] = field(default_factory=list)
    known: int = 0  # entries of a process before this one
    started: float = field(default_factory=time.perf_counter)
    _last_report: float = -math.inf
    _last_step: float = 0.0

    def add(self, epoch: int, loss: float, learning_rate: float, tokens: int, max_batch_tokens: int) -> None:
        """Note a finished step."""
        now = time.perf_counter() - self.started
        seconds, self._last_step = now - self._last_step, now
        entry = {"step": len(self.entries) + 1, "epoch": epoch, "loss": loss, "learning_rate": learning_rate}
        entry |= {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / max(seconds, 1e-9)}
        self.entries.append({**entry, "max_batch_tokens": max_batch_tokens})

    def tell(self) -> None:
        """Call the callback, if it is time."""
        now, last = time.perf_counter() - self.started, self.entries[-1]
        if self.callback is None or now - self._last_report < REPORT_EVERY_S:
            return
        self._last_report = now
        new = self.entries[self.known :]
        rate = sum(e["tokens"] for e in new) / max(now, 1e-9)
        left = now / len(new) * (self.steps - len(self.entries))
        progress: dict[str, Any] = {"step": last["step"], "steps": self.steps, "epoch": last["epoch"]}
        progress |= {"loss": last["loss"], "tokens_per_s": rate, "seconds_left": left}
        self.callback(progress | ({"resumed_at": self.known} if self.known else {}))


@dataclass
class Course:
    """One training from its first step, or from its newest checkpoint, to its end.

    Attributes
    ----------
    learner : Learner
    lengths : sequence of int
        Tokens of the rows to learn.
    config : LoRAConfig
    watch : Watch
    callback : Progress or None
    identity, exact : mapping
        See `_checkpoints.Store`; the settings of `config` are added.
    """

    learner: Learner
    lengths: Sequence[int]
    config: LoRAConfig
    watch: Watch
    callback: Progress | None
    identity: Mapping[str, Any]
    exact: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.plan = shared.training_plan(self.lengths, self.config)
        self.history = History(len(self.plan), self.callback)
        self.budget = self.config.max_batch_tokens
        self.best: dict[str, float] | None = None  # step and loss of the epoch with the lowest loss on held-out rows
        self.best_weights: Arrays = {}
        self.over = self.recomputes = False
        self._store: checkpoints.Store | None = None
        self._undo: Arrays | None = None  # weights of before the last step
        self._whole, self._saved, self._next_save_s = True, 0, time.perf_counter() + self.watch.every_s

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.history.entries)

    def run(self) -> list[Entry]:
        """Train; see `Backend.train_lora` for what comes back and what is raised."""
        folder = self.watch.checkpoints
        whole = {**self.identity, **asdict(self.config), "patience": self.watch.patience}
        with nullcontext() if folder is None else checkpoints.opened(folder, whole, self.exact) as self._store:
            self._resume()
            if self.recomputes or self.watch.recompute:
                self.recomputes = self.learner.recompute()
            try:
                if self._goes_on() or (self._unmeasured() and not self._told_to_stop()):
                    with self.learner.ready():
                        self._walk()
            except BaseException:
                self._save_what_is_there()
                raise
            return self._finish()

    def _resume(self) -> None:
        found = self._store and self._store.newest()
        if not found:
            return
        facts = found.facts
        self.learner.restore(_under("weights", found.arrays), _under("moments", found.arrays))
        self.best, self.best_weights = facts["best"], _under("best", found.arrays)
        self.budget, self.over = facts["max_batch_tokens"], facts["over"]
        self.recomputes = facts.get("recomputes", False)
        self.history.entries, self.history.known = facts["history"], len(facts["history"])
        self._saved = self.step
        log.info("goes on from step %d of %d (%s)", self.step, len(self.plan), found.folder)
        if facts["failed"] and not self._told_to_stop():
            raise InputError(facts["failed"])

    def _told_to_stop(self) -> bool:
        return self.watch.stop is not None and self.watch.stop.is_set()

    def _goes_on(self) -> bool:
        return self.step < len(self.plan) and not self.over and not self._told_to_stop()

    def _ends_epoch(self) -> bool:
        last = self.plan[self.step - 1][0]
        return self.step > 0 and (self.step == len(self.plan) or self.plan[self.step][0] != last)

    def _unmeasured(self) -> bool:
        """Whether an epoch has ended and its held-out rows were not measured yet."""
        wanted = self.watch.held_out is not None and self._ends_epoch()
        return wanted and "held_out_loss" not in self.history.entries[-1]

    def _walk(self) -> None:
        self.history.started = time.perf_counter()
        if self._unmeasured():  # interrupted while it was measured
            self._measure()
            self._save()
        while self._goes_on():
            epoch, batch = self.plan[self.step]
            rate = shared.rate_of(self.step, len(self.plan), self.config)
            loss, norm = self._within_memory(batch, partial(self.learner.gradients, batch))
            losses = [*(entry["loss"] for entry in self.history.entries), loss]
            if self.config.lowest_rate is not None and shared.has_diverged(losses):
                self.over = True
                break
            if not math.isfinite(loss):
                self._fail("loss", loss, self.step + 1)
            if not math.isfinite(norm):
                self._fail("gradient's norm", norm, self.step + 1, good=True)
            self._remember()
            self._whole = False
            self.learner.update(rate)
            self.history.add(epoch, loss, rate, self.learner.count(batch), self.budget)
            if self.recomputes:
                self.history.entries[-1]["recomputed"] = 1
            self._whole = True
            if self._unmeasured():
                self._measure()
            self.history.tell()
            if self._ends_epoch() or time.perf_counter() >= self._next_save_s:
                self._save()
        if self.step > self._saved:
            self._save()

    def _within_memory(self, batch: np.ndarray, work: Callable[[int], T]) -> T:
        """Do it with as many tokens at once as memory bears; what it has done in vain is forgotten."""
        longest = max(self.lengths[i] for i in batch)
        while True:
            try:
                return work(self.budget)
            except Exception as error:
                if not _memory.ran_out(error):
                    raise
                _memory.drop_frames(error)
                why = str(error)[:200]
            self.learner.free()
            _memory.give_back()
            in_use = min(self.budget, len(batch) * longest)
            if in_use <= longest:
                self._recompute_or_fail(longest, why)
                continue
            before, self.budget = self.budget, max(longest, in_use // 2)
            log.warning(
                "memory ran out at step %d: at most %d tokens at once from here on (%d before), still %d rows a step",
                self.step + 1, self.budget, before, len(batch),
            )  # fmt: skip

    def _recompute_or_fail(self, longest: int, why: str) -> None:
        """Compute blocks anew on the way back from here on; `NotEnoughMemory` where that is done already."""
        where = f"memory ran out at step {self.step + 1} with one row of {longest} tokens ({why})"
        if not self.learner.recompute():
            raise NotEnoughMemory(f"{where}. Take a smaller max_length, fewer last_blocks or fewer bits")
        self.recomputes = True
        log.warning("%s: each trained block is computed a second time on the way back from here on", where)

    def _remember(self) -> None:
        weights = self.learner.weights()
        if self._undo is None and sum(array.nbytes for array in weights.values()) <= UNDO_BYTES:
            self._undo = {name: array.copy() for name, array in weights.items()}
        elif self._undo is not None:
            for name, array in weights.items():
                np.copyto(self._undo[name], array)

    def _measure(self) -> None:
        held_out = np.arange(len(self.lengths))  # as many rows as can share a pass
        told = self._within_memory(held_out, self.learner.measure)
        self.history.entries[-1] |= {f"held_out_{name}": value for name, value in told.items()}
        if not math.isfinite(told["loss"]):
            self._fail("loss on the held-out rows", told["loss"], self.step)
        epoch = self.history.entries[-1]["epoch"]
        if self.best is None or told["loss"] < self.best["loss"]:
            self.best = {"step": self.step, "loss": told["loss"], "epoch": epoch}
            self.best_weights = {name: array.copy() for name, array in self.learner.weights().items()}
        elif self.watch.patience is not None and epoch - self.best["epoch"] >= self.watch.patience:
            self.over = True
            self.history.entries[-1]["stopped_early"] = 1

    def _fail(self, what: str, value: float, step: int, *, good: bool = False) -> None:
        """Put back the weights that last gave a finite loss (`good`: the present ones), keep them, say what to try."""
        self.learner.free()
        if not good:
            self._go_back()
        if not self.step:
            kept = "Nothing was learned before"
        elif self._store is None:
            kept = f"The weights of step {self.step} are good, but only a folder for checkpoints would keep them"
        else:
            kept = (
                f"The weights of step {self.step} are kept in {self._store.folder}: remove it to begin anew, or make "
                "an adapter of them (slmkit tune --keep-partial)"
            )
        peak, half = self.config.learning_rate, self.identity.get("dtype") == "float16"
        message = (
            f"the {what} became {value} at step {step} of {len(self.plan)}: take a smaller learning_rate ({peak / 10:g}"
            f" instead of {peak:g}){', or a device that computes in bfloat16 or float32' if half else ''}. {kept}"
        )
        if self.step:
            self._save(failed=message)
        self._saved = self.step
        raise InputError(message)

    def _go_back(self) -> None:
        """To the weights of before the last step; without a copy of them, to those of a checkpoint before it."""
        step = self.step - 1
        weights = self._undo
        if weights is None:
            found = self._store.before(self.step) if self._store is not None else None
            step, weights = (found.facts["step"], _under("weights", found.arrays)) if found else (0, None)
        if weights is not None:
            self.learner.restore(weights)
        del self.history.entries[max(step, 0) :]

    def _save(self, failed: str | None = None) -> None:
        if self._store is None:
            return
        begun = time.perf_counter()
        parts = {"weights": self.learner.weights(), "moments": self.learner.moments(), "best": self.best_weights}
        arrays = {f"{part}/{name}": array for part, found in parts.items() for name, array in found.items()}
        facts = {"step": self.step, "steps": len(self.plan), "history": self.history.entries, "best": self.best}
        facts |= {"max_batch_tokens": self.budget, "over": self.over, "failed": failed}
        facts |= {"recomputes": self.recomputes}
        self._store.save(arrays, facts)
        now = time.perf_counter()
        self._saved, self._next_save_s = self.step, now + max(self.watch.every_s, (now - begun) / SAVING_SHARE)

    def _save_what_is_there(self) -> None:
        """On the way out of an error: a last checkpoint, unless it would be of half a step."""
        if self._whole and self.step > self._saved:
            try:
                self._save()
            except SlmkitError as error:
                log.warning("no checkpoint of step %d: %s", self.step, error)

    def _finish(self) -> list[Entry]:
        entries = self.history.entries
        if not entries:
            raise InputError("the training was stopped before its first step: there is nothing to keep")
        if self.step < len(self.plan) and not self.over:
            entries = [*entries[:-1], {**entries[-1], "stopped": 1}]
        if self.best is not None and self.best["step"] != self.step:
            self.learner.restore(self.best_weights)
        return entries


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}
