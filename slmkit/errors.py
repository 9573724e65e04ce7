"""The errors slmkit raises: each names the thing, what is allowed and what came, so that it can be shown as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 30  # names in one message
_ALIKE = 0.6  # share of equal characters from which a name is worth suggesting


class SlmkitError(Exception):
    """Something the person can mend. The CLI prints the message without a traceback and exits with code 2."""


class InputError(SlmkitError, ValueError):
    """A wrong value: an unknown name, a missing column, an unusable file."""


class MissingExtra(SlmkitError, ImportError):
    """A part of slmkit that is not installed; the message holds the pip line that brings it."""


class NotEnoughMemory(SlmkitError, MemoryError):
    """A model that would not fit, refused before it is loaded; the message holds the arithmetic."""


class AssetError(SlmkitError, OSError):
    """A model or data file that is missing, truncated, altered or not to be trusted."""


def unknown(kind: str, name: object, allowed: Iterable[object]) -> InputError:
    """Build the error for a name that is not among the allowed ones, with the nearest first.

    Parameters
    ----------
    kind : str
        What was asked for, in the singular: "model", "task", "column".
    name : object
        What came.
    allowed : iterable
        Every name that would have been right.

    Returns
    -------
    InputError
        To be raised by the caller.
    """
    names = [str(item) for item in allowed]
    near = _nearest(str(name)[:200], names)
    hint = f" Did you mean {' or '.join(repr(short(one)) for one in near)}?" if near else ""
    known = ", ".join(map(short, names[:SHOWN])) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")
    return InputError(f"unknown {kind} {short(name)!r}.{hint} Known: {known or 'none'}.")


def short(name: object, limit: int = 100) -> str:
    """A name cut to a length that fits a message."""
    whole = str(name)
    return whole if len(whole) <= limit else f"{whole[:limit]}... ({len(whole):,} characters)"


def listed(names: Iterable[object]) -> str:
    """Names in quotes for a message, the first 30 of many, long ones cut."""
    found = [repr(short(name)) for name in names]
    return ", ".join(found[:SHOWN]) + (f", ... ({len(found)} in all)" if len(found) > SHOWN else "")


def _nearest(name: str, names: list[str]) -> list[str]:
    """At most three names like `name`, the nearest first: like the whole, its beginning, or the part before a "-"."""
    scores = {}
    for known in names if name else []:
        if len(known) > 1000:
            continue  # no name a person mistypes
        parts = (known, known[: len(name)], known.partition("-")[0])
        alike = [difflib.SequenceMatcher(None, part.casefold(), name.casefold()).ratio() for part in parts]
        scores[known] = (max(alike), alike[0])
    near = [known for known, (best, _) in scores.items() if best >= _ALIKE]
    return sorted(near, key=lambda known: scores[known], reverse=True)[:3]
