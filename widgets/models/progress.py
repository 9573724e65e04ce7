"""How far a job is, as a reader sees it: a share, a sentence, figures with their units, the curve of the loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from slmkit import console, text
from slmkit.jobs.background import Snapshot

MOST_POINTS = 120  # of a live curve: what one update sends stays below 2 kB


@dataclass(frozen=True)
class Shown:
    """A state as the page has it.

    Attributes
    ----------
    done, total : int
        Steps; 0 in all while nobody knows how many.
    busy : bool
    said : str
        What is read out: it changes with the state and each tenth, not with every step.
    figures : str
    points : tuple of (int, float)
        Step and loss, at most `MOST_POINTS` of them.
    """

    done: int = 0
    total: int = 0
    busy: bool = False
    said: str = ""
    figures: str = ""
    points: tuple[tuple[int, float], ...] = ()

    def facts(self) -> dict[str, Any]:
        """As values for JSON."""
        return asdict(self)


class Curve:
    """Points of a curve that grows: of more than `MOST_POINTS` every other one is dropped, the newest always stays."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, float]] = []
        self._newest: tuple[int, float] | None = None
        self._every, self._seen = 1, 0

    def add(self, step: int, loss: float) -> None:
        """Add a point; one of a step that was seen is passed over."""
        if self._newest is not None and step <= self._newest[0]:
            return
        self._newest = (step, float(f"{loss:.4g}"))
        if self._seen % self._every == 0:
            self._kept.append(self._newest)
        self._seen += 1
        if len(self._kept) == MOST_POINTS:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """What there is to draw."""
        last = [self._newest] if self._newest is not None and self._newest not in self._kept[-1:] else []
        return (*self._kept, *last)


def figures(now: Snapshot) -> str:
    """Step, loss, speed, time, memory and energy of a snapshot, as far as they are known."""
    known = [
        f"step {now.step:,} of {now.steps:,}" if now.step is not None and now.steps else None,
        f"loss {now.loss:.3f}" if now.loss is not None else None,
        f"{now.tokens_per_s:,.0f} tokens/s" if now.tokens_per_s else None,
        f"about {console.duration(now.seconds_left)} left" if now.seconds_left is not None else None,
        cost(now),
    ]
    return " · ".join(part for part in known if part)


def cost(now: Snapshot) -> str:
    """Time, memory and energy so far."""
    known = [
        f"{console.duration(now.seconds)} so far"
        if now.state == "running"
        else f"{console.duration(now.seconds)} in all",
        f"{text.megabytes(now.peak_ram_bytes)} of memory at most" if now.peak_ram_bytes else None,
        f"{text.rounded(now.energy_j)} J ({now.energy_origin})" if now.energy_j is not None else None,
    ]
    return " · ".join(part for part in known if part)
