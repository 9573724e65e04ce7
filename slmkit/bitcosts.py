"""What fewer bits save and what they cost: each configuration below 16 bits beside the same one at 16.

Accuracy is compared on the same rows, costs as ratios to 16 bits on the same machine. A smaller file alone is called
just that: 4 bits are often slower than 16, and bytes on the disk are not memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit.runs import Run
from slmkit.runs.configurations import (
    FOOTPRINTS,
    Configuration,
    as_runs,
    configurations,
    is_recorded,
    machine_name,
    setups,
)
from slmkit.runs.pairs import Comparison, compare, interval, twins

SAME = {  # a smaller change of a cost than this says nothing: two runs on one machine differ by as much
    "stored_bytes": 0.02,
    "peak_ram_bytes": 0.02,
    "latency_p50_s": 0.1,
    "energy_j_per_1000_rows": 0.1,
}
WORDS = {"peak_ram_bytes": "memory", "latency_p50_s": "time", "energy_j_per_1000_rows": "energy"}
HOLDS = 0.01  # a loss of accuracy that the interval keeps below one point is called none


@dataclass(frozen=True)
class BitsPair:
    """A configuration in few bits and its twin in 16.

    Attributes
    ----------
    few, sixteen : Configuration
    comparison : Comparison
        Accuracy of the first against the second.
    interval : tuple of float, or None
        95 % interval of the difference in accuracy, as a share; None where rows could not be paired.
    """

    few: Configuration
    sixteen: Configuration
    comparison: Comparison
    interval: tuple[float, float] | None

    @property
    def same_machine(self) -> bool:
        """Whether costs can be compared: both measured, or both recorded, on one machine."""
        a, b = ((machine_name(c.first.machine), is_recorded(c.first)) for c in (self.few, self.sixteen))
        return a == b

    def ratio(self, key: str) -> float | None:
        """A cost as a multiple of that at 16 bits; None where it is unknown or was measured on another machine."""
        few, many = (c.mean(FOOTPRINTS[key].of) for c in (self.few, self.sixteen))
        if few is None or not many or not (self.same_machine or key == "stored_bytes"):
            return None
        return few / many

    @property
    def saved(self) -> list[str]:
        """What is less than at 16 bits, in words, the file apart."""
        return [word for key, word in WORDS.items() if (ratio := self.ratio(key)) and ratio < 1 - SAME[key]]

    @property
    def paid(self) -> list[str]:
        """What is more than at 16 bits, and accuracy if it is significantly lower."""
        more = [word for key, word in WORDS.items() if (ratio := self.ratio(key)) and ratio > 1 + SAME[key]]
        return (["accuracy"] if self.comparison.worse else []) + more

    @property
    def in_all(self) -> str:
        """The balance in a few words."""
        if not any(self.ratio(key) for key in WORDS) and not self.comparison.worse:
            return "only the stored size is known"
        if self.paid and self.saved:
            return f"a trade: saves {_listed(self.saved)}, costs {_listed(self.paid)}"
        if self.paid:
            return f"costs more than it saves: {_listed(self.paid)} for a smaller file"
        return f"saves {_listed(self.saved)} too" if self.saved else "a smaller file, and nothing else"

    @property
    def accuracy_in_words(self) -> str:
        """What can be said of the accuracy, as a clause."""
        n = self.few.first.n_test
        if self.comparison.significant:
            return f"accuracy is {'lower' if self.comparison.worse else 'higher'} by more than chance"
        if self.interval is None:
            return "accuracy was not compared row by row" if not self.comparison.known else "no loss was shown"
        low, high = (100 * end for end in self.interval)
        if low >= -100 * HOLDS:
            return f"accuracy holds: at most {max(-low, 0):.1f} points are lost"
        rows = f"{n} rows" if len(self.few.runs) == 1 else f"{n} rows a seed"
        return f"what it does to accuracy cannot be told from {rows} ({low:+.1f} to {high:+.1f} points)"

    @property
    def sentence(self) -> str:
        """The balance and the accuracy as a sentence."""
        words = f"{self.in_all}; {self.accuracy_in_words}."
        return words[0].upper() + words[1:]


def pairs_of(configs: Sequence[Configuration], folder: Path | None) -> list[BitsPair]:
    """Every configuration below 16 bits that has its twin, in the order of `configs`.

    Parameters
    ----------
    configs : sequence of Configuration
        Of one task and size.
    folder : Path or None
        Where the per-example probabilities lie; without them there is no interval.
    """
    return [
        BitsPair(few, many, compare(few, many, lambda run: run.p_vs_16bit, folder), interval(few, many, folder))
        for few, many in twins(configs)
    ]


def families(pairs: Iterable[BitsPair]) -> list[tuple[Configuration, list[BitsPair]]]:
    """Pairs by their 16-bit twin, the one with more bits first."""
    found: dict[int, tuple[Configuration, list[BitsPair]]] = {}
    for pair in pairs:
        found.setdefault(pair.sixteen.number, (pair.sixteen, []))[1].append(pair)
    return [(one, sorted(few, key=lambda pair: -(pair.few.first.bits or 0))) for one, few in found.values()]


def frame(runs: Iterable[Run] | pd.DataFrame, folder: str | Path | None = None) -> pd.DataFrame:
    """What the bits cost as a table: 16 bits of each model and method, below them the fewer ones.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
    folder : path or None
        Where the per-example probabilities lie: they make the difference a paired one with an interval.

    Returns
    -------
    DataFrame
        task, configuration, bits, n_test, accuracy, points (less or more than 16 bits), low, high (its 95 % interval),
        p (of one seed) and the test in words, then each cost with its ratio to 16 bits, where the energy comes from,
        and the balance in words. Unknown is missing.
    """
    place = Path(folder) if folder is not None else None
    rows: list[dict[str, Any]] = []
    for group in setups(as_runs(runs)):
        for sixteen, pairs in families(pairs_of(configurations(group), place)):
            rows += [_row(sixteen, None), *(_row(pair.few, pair) for pair in pairs)]
    return pd.DataFrame(rows)


def _row(config: Configuration, pair: BitsPair | None) -> dict[str, Any]:
    run = config.first
    low, high = pair.interval if pair and pair.interval else (None, None)
    found: dict[str, Any] = {"task": run.task, "configuration": config.name, "bits": run.bits, "n_test": run.n_test}
    found |= {"accuracy": config.accuracy, "points": pair.comparison.points if pair else None}
    found |= {"low": None if low is None else 100 * low, "high": None if high is None else 100 * high}
    known = pair.comparison.known if pair else []
    found |= {"p": known[0] if len(known) == 1 else None, "test": pair.comparison.test if pair else None}
    found |= {"bytes_per_parameter": config.mean(lambda r: r.bytes_per_parameter)}
    for key, name in _columns():
        found[name] = config.mean(FOOTPRINTS[key].of)
        found[f"{name.rsplit('_', 1)[0]}_ratio"] = (pair.ratio(key) if pair else 1.0) if found[name] else None
    return found | {"energy_is": run.energy_origin, "in_all": pair.in_all if pair else None}


def _columns() -> Iterator[tuple[str, str]]:
    names = ("stored_MB", "peak_memory_MB", "latency_ms", "energy_J")
    yield from zip(FOOTPRINTS, names, strict=True)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)
