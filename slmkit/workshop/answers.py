"""What judges ask of an answer first: that it is one number, a share, or one of some names; else a `Hint` says so."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

from slmkit.workshop.exercise import Hint


def number(answer: object, what: str) -> float:
    """The answer as a finite number; `Hint` for text, tables, several numbers and what is not a number."""
    if isinstance(answer, str):
        raise Hint(f"{what} is wanted as a number, without quotes")
    single = answer.item() if getattr(answer, "size", None) == 1 and hasattr(answer, "item") else answer
    if isinstance(single, bool) or not isinstance(single, numbers.Real):
        raise Hint(f"{what} is wanted as one number; this is {_kind(answer)}")
    found = float(single)
    if not math.isfinite(found):
        raise Hint(f"{what} came out as {found}: something was divided by nothing, or a value is missing")
    return found


def share(answer: object, what: str) -> float:
    """The answer as a share from 0 to 1; a percentage gets a hint of its own."""
    found = number(answer, what)
    if 1 < found <= 100:
        raise Hint(f"{what} is wanted as a share from 0 to 1, not in percent: divide by 100")
    if not 0 <= found <= 1:
        raise Hint(f"{what} is a share: it lies from 0 to 1")
    return found


def whole(answer: object, what: str) -> int:
    """The answer as a whole number."""
    found = number(answer, what)
    if found != round(found):
        raise Hint(f"{what} is a whole number")
    return round(found)


def choice(answer: object, allowed: Iterable[str], what: str) -> str:
    """The answer as one of some names, whatever its capitals; the hint lists them."""
    names = list(allowed)
    named = str(answer).strip().casefold() if isinstance(answer, str) else None
    found = next((name for name in names if name.casefold() == named), None)
    if found is None:
        raise Hint(f"{what} is wanted as one of these, in quotes: {', '.join(map(repr, names))}")
    return found


def near(found: float, wanted: float, within: float = 0.005) -> bool:
    """Whether a number is right up to rounding: `within` is absolute for what is below 1, relative above."""
    return abs(found - wanted) <= within * max(1.0, abs(wanted))


def _kind(answer: object) -> str:
    shape = getattr(answer, "shape", None)
    kind = type(answer).__name__
    return f"{kind} with {' x '.join(map(str, shape))} entries" if isinstance(shape, tuple) and shape else kind
