"""What the benchmarks share: two sides timed in turn, the table, the JSON line, and the exit code.

Each side is a process of its own that stays loaded, so that neither lives with what the other sets (slmkit sets
variables of OpenMP and oneDNN). They work in turn, A B A B, never at once: a machine that slows down slows both. The
ratio is taken a round and the median of the rounds counts. It travels between machines, the rows/s beside it do not.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
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


class Side:
    """An object made and used in a process of its own, for timing.

    Parameters
    ----------
    make : class
        Of a module's top level. It needs a method `run(rows)`, which is timed and keeps what it found, and a method
        `result()`, which is not and gives it in a form that both sides share.
    arguments
        What `make` is called with, in that process.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def call(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Seconds that the method took there, handing over left out, and what it returned."""
        self._pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> tuple[float, Any]:
        try:
            seconds, result = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise SlmkitError(f"a side of the benchmark ended with exit code {self._process.exitcode}") from None
        if seconds is None:
            raise SlmkitError(f"a side of the benchmark failed: {result}")
        return seconds, result

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._pipe.close()  # it ends by itself then
        self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Any, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    logging.disable(logging.WARNING)
    try:
        made = make(*arguments)
        pipe.send((0.0, None))
        while True:
            method, arguments = pipe.recv()
            bound = functools.partial(getattr(made, method), *arguments)
            pipe.send(timed(bound))
    except EOFError:
        return
    except Exception:
        pipe.send((None, traceback.format_exc()))


@dataclass(frozen=True)
class Duel:
    """Seconds of the peer and of slmkit, one pair a round."""

    peer_s: list[float]
    own_s: list[float]

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


def duel(peer: Side, own: Side, rows: Sequence[str], *, rounds: int, names: tuple[str, str]) -> Duel:
    """Time `run(rows)` of both sides in turn and print one line a round. Warm them up before."""
    found = Duel([], [])
    print(f"{'round':>6}  {names[0]:>28}  {names[1]:>28}  {'ratio':>7}")
    for number in range(1, rounds + 1):
        for side, seconds in ((peer, found.peer_s), (own, found.own_s)):
            seconds.append(side.call("run", rows)[0])
        cells = [f"{s:8.2f} s {len(rows) / s:9.1f} rows/s" for s in (found.peer_s[-1], found.own_s[-1])]
        print(f"{number:>6}  {cells[0]:>28}  {cells[1]:>28}  {found.ratios[-1]:6.2f}x", flush=True)
    print(f"{'median':>6}  {'':>28}  {'':>28}  {found.ratio:6.2f}x", flush=True)
    return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and what it returned."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def environment() -> None:
    """What both sides find in their environment; call it before a `Side` is made.

    Nothing is fetched. OpenMP's threads spin as briefly for the peer as slmkit has it for itself: left alone, the peer
    would come out several times slower on a machine that does anything else, which says nothing about its work.
    """
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def set_up(threads: int | None) -> int:
    """Quieten transformers and give torch that many threads, or leave its own choice; how many there are."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    return int(torch.get_num_threads())


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
