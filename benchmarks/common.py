"""What the benchmarks share: two sides timed in turn, the table, the JSON line, and the exit code.

Both sides run in one process, A B A B, so that a machine that slows down slows both; the ratio is taken a round, and
the median of the rounds counts. A ratio travels between machines, the rows/s beside it do not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slmkit.errors import SlmkitError

DTYPES = ("bfloat16", "float32", "float16")


@dataclass(frozen=True)
class Target:
    """A figure and the bound it must reach."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Duel:
    """Seconds of the peer and of slmkit, one pair a round, and what each returned in the last round."""

    peer_s: list[float]
    own_s: list[float]
    peer_result: Any
    own_result: Any

    @property
    def ratios(self) -> list[float]:
        """Peer's seconds over slmkit's, one a round: above 1, slmkit is the faster."""
        return [peer / own for peer, own in zip(self.peer_s, self.own_s, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(self.ratios)

    def facts(self, n: int) -> dict[str, Any]:
        """The figures for the JSON line, `n` rows a round; rows/s are those of the median round."""
        return {
            "ratio": self.ratio,
            "ratios": self.ratios,
            "peer_rows_per_s": n / statistics.median(self.peer_s),
            "rows_per_s": n / statistics.median(self.own_s),
        }


def duel(peer: Callable[[], Any], own: Callable[[], Any], *, rounds: int, n: int, names: tuple[str, str]) -> Duel:
    """Time both sides in turn and print one line a round. Warm them up before."""
    peer_s: list[float] = []
    own_s: list[float] = []
    peer_result = own_result = None
    print(f"{'round':>6}  {names[0]:>28}  {names[1]:>28}  {'ratio':>7}")
    for number in range(1, rounds + 1):
        seconds, peer_result = timed(peer)
        peer_s.append(seconds)
        seconds, own_result = timed(own)
        own_s.append(seconds)
        cells = [f"{s:8.2f} s {n / s:9.1f} rows/s" for s in (peer_s[-1], own_s[-1])]
        print(f"{number:>6}  {cells[0]:>28}  {cells[1]:>28}  {peer_s[-1] / own_s[-1]:6.2f}x", flush=True)
    result = Duel(peer_s, own_s, peer_result, own_result)
    print(f"{'median':>6}  {'':>28}  {'':>28}  {result.ratio:6.2f}x", flush=True)
    return result


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and what it returned."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def offline() -> None:
    """Nothing is fetched while a benchmark runs, by either side. Call before transformers or lm_eval are imported."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def load_average() -> float | None:
    """Processes that wanted a core in the last minute, or None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe() -> dict[str, Any]:
    """Machine, versions (the peer's among them) and load, for the JSON line. Call it before the work begins."""
    from slmkit import footprint

    load = load_average()
    if load is not None and load > 1:
        print(f"load average is {load}: others use this machine, so read the times as provisional", file=sys.stderr)
    return {"machine": footprint.machine(), "versions": footprint.versions() | _peers(), "load_average_before": load}


def _peers() -> dict[str, str]:
    try:
        return {"lm_eval": importlib.metadata.version("lm_eval")}
    except importlib.metadata.PackageNotFoundError:
        return {}


def finish(name: str, facts: dict[str, Any], targets: Sequence[Target]) -> int:
    """Print what was reached and the JSON line; 0 if every target was, else 1."""
    print()
    for target in targets:
        sign, word = (">=" if target.at_least else "<="), ("reached" if target.reached else "MISSED")
        print(f"{word:>8}  {target.name}: {target.value:.4g} ({sign} {target.bound:g})")
    judged = [asdict(target) | {"reached": target.reached} for target in targets]
    print(json.dumps({"benchmark": name, **facts, "targets": judged}))
    return int(not all(target.reached for target in targets))


def run(main: Callable[[], int]) -> None:
    """Call a script's main; an error of ours is one line on stderr and exit code 2."""
    try:
        sys.exit(main())
    except SlmkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
