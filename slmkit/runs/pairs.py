"""Two configurations on the same rows: means, McNemar's exact test a seed, and the interval of the difference.

Seeds are not pooled into one p value, since they share test rows: it is said in how many of them p is below 0.05. The
interval over several seeds is the mean of theirs, which is right if they err together and too wide if they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from slmkit import metrics, text
from slmkit.errors import InputError
from slmkit.runs import Run, read_probabilities
from slmkit.runs.configurations import Configuration

ALPHA = 0.05
Folder = Path | Callable[[Run], Path | None] | None  # where the probabilities of a run lie: one place, or one for each


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the seeds both have: mean accuracies, and one p a seed (None: not tested)."""

    ours: float
    theirs: float
    p_values: tuple[float | None, ...]

    @property
    def points(self) -> float:
        """Difference in percentage points, of the figures as they are shown, so that a reader can check the sum."""
        return round(round(100 * self.ours, 1) - round(100 * self.theirs, 1), 1) + 0.0

    @property
    def known(self) -> list[float]:
        return [p for p in self.p_values if p is not None]

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05 in more than half of the seeds."""
        return 2 * sum(p < ALPHA for p in self.known) > len(self.p_values)

    @property
    def better(self) -> bool:
        return self.significant and self.ours > self.theirs

    @property
    def worse(self) -> bool:
        return self.significant and self.ours < self.theirs

    @property
    def test(self) -> str:
        """The test in words: "p = 0.002", "p = 0.61, not significant", "p < 0.05 in 2 of 3 seeds"."""
        if not self.known:
            return "not tested"
        if len(self.p_values) > 1:
            hits = sum(p < ALPHA for p in self.known)
            untested = len(self.p_values) - len(self.known)
            words = f"p < 0.05 in {hits} of {len(self.known)} seeds" + (f", {untested} not tested" if untested else "")
            return words if self.significant else f"{words}, not significant"
        return text.p_value(self.known[0]) + ("" if self.significant else ", not significant")


def compare(
    ours: Configuration, theirs: Configuration, recorded: Callable[[Run], float | None], folder: Folder
) -> Comparison:
    """Compare two configurations seed by seed; the p that a run records counts, else it is computed from `folder`."""
    shared = [seed for seed in ours.seeds if seed in theirs.seeds]
    if not shared:
        return Comparison(ours.accuracy, theirs.accuracy, tuple(recorded(run) for run in ours.runs))
    pairs = [(ours.seeds[seed], theirs.seeds[seed]) for seed in shared]
    p_values = [recorded(a) if recorded(a) is not None else paired_p(a, b, folder) for a, b in pairs]
    return Comparison(fmean(a.accuracy for a, _ in pairs), fmean(b.accuracy for _, b in pairs), tuple(p_values))


def paired_p(a: Run, b: Run, folder: Folder) -> float | None:
    """McNemar's p of two runs from their probabilities; None if those are missing or are of other rows."""
    found = paired(a, b, folder)
    return None if found is None else float(found["p"])


def paired(a: Run, b: Run, folder: Folder) -> dict[str, Any] | None:
    """What `metrics.mcnemar` says of two runs, a minus b, and n; None without probabilities of the same rows."""
    homes = [folder(run) if callable(folder) else folder for run in (a, b)]
    if None in homes:
        return None
    try:
        left, right = (
            read_probabilities(run, home).set_index("row").sort_index()
            for run, home in zip((a, b), homes, strict=True)
            if home is not None
        )
    except (InputError, KeyError, ValueError):
        return None
    if not left.index.equals(right.index) or not len(left) or (left["label"] != right["label"]).any():
        return None
    hits = [(frame["predicted"] == frame["label"]).to_numpy() for frame in (left, right)]
    return {**metrics.mcnemar(*hits), "n": len(left)}


def interval(ours: Configuration, theirs: Configuration, folder: Folder) -> tuple[float, float] | None:
    """95 % interval of the difference in accuracy (ours minus theirs), a share; None where a seed was not paired."""
    seeds = [seed for seed in ours.seeds if seed in theirs.seeds]
    found = [paired(ours.seeds[seed], theirs.seeds[seed], folder) for seed in seeds]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    return fmean(one["low"] for one in known), fmean(one["high"] for one in known)


def twins(configs: Sequence[Configuration]) -> list[tuple[Configuration, Configuration]]:
    """Each configuration below 16 bits with the same method at 16 bits of its model, or of the one it was made from."""

    def same(low: Configuration, high: Configuration) -> bool:
        a, b = low.first, high.first
        settings = [{k: v for k, v in run.params.items() if k != "seed"} for run in (a, b)]
        made_from = a.base_revision is not None and a.base_revision == b.revision
        return ((made_from or a.model == b.model) and (a.method, a.backend) == (b.method, b.backend)) and settings[
            0
        ] == settings[1]

    small = [c for c in configs if c.first.bits is not None and c.first.bits < 16]
    return [(low, high) for low in small for high in configs if high.first.bits == 16 and same(low, high)]
