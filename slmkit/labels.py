"""Finds labels that are probably meant to be one: they differ in spaces, case or separators, or by a slip of the pen.

Nothing is changed here. A person looks at the proposals and says whether they hold.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

NEAR = 0.85  # difflib's ratio
RARE = 0.05  # a slip is at most this share of the label it stands for
SHORTEST = 5  # characters; shorter labels differ too easily
MAX_LABELS = 200  # more are no classes, and comparing them all would take long
_OPPOSITE = re.compile(r"^(?:un|in|il|im|ir|dis|non|not|no|anti|de|a)[ \-]?")


@dataclass(frozen=True)
class Proposal:
    """One label that probably stands for another.

    Attributes
    ----------
    found, into : str
        The label as it stands, and the one it should become.
    n_found, n_into : int
        Rows of each.
    why : str
        In words.
    """

    found: str
    into: str
    n_found: int
    n_into: int
    why: str

    def sentence(self) -> str:
        """ "label 'Spam' (3 rows) may be meant as 'spam' (400 rows): they differ in case or spaces only"."""
        return (
            f"label {self.found!r} ({self.n_found:,} rows) may be meant as {self.into!r} ({self.n_into:,} rows): "
            f"{self.why}"
        )


def propose(labels: Iterable[str]) -> list[Proposal]:
    """Labels to merge, by the rows' labels; empty when all are clear. The more frequent spelling wins."""
    counts = Counter(labels)
    if len(counts) > MAX_LABELS:
        return []
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda name: (-counts[name], name)):
        spellings[_folded(label)].append(label)
    found = [
        Proposal(other, first, counts[other], counts[first], "they differ in case, spaces or separators only")
        for first, *others in spellings.values()
        for other in others
    ]
    sizes = {folded: sum(counts[name] for name in names) for folded, names in spellings.items()}
    for folded, names in spellings.items():
        into = _slip(folded, sizes)
        if into is not None:
            first = spellings[into][0]
            found += [Proposal(n, first, counts[n], counts[first], "the names are nearly the same") for n in names]
    return found


def mapping(proposals: Iterable[Proposal]) -> dict[str, str]:
    """Old label to new, chains followed to their end."""
    into = {p.found: p.into for p in proposals}
    for label in into:
        seen = {label}
        while into[label] in into and into[label] not in seen:
            seen.add(into[label])
            into[label] = into[into[label]]
    return into


def _folded(label: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", label.casefold())).strip()


def _slip(folded: str, sizes: dict[str, int]) -> str | None:
    """The frequent label that a rare one is nearly the same as; opposites and numbers are never slips."""
    best = (NEAR, "")
    for other, size in sizes.items():
        if other == folded or sizes[folded] > RARE * size or min(len(folded), len(other)) < SHORTEST:
            continue
        opposite = _OPPOSITE.sub("", folded, count=1) == other or _OPPOSITE.sub("", other, count=1) == folded
        if opposite or re.findall(r"\d+", folded) != re.findall(r"\d+", other):
            continue
        best = max(best, (difflib.SequenceMatcher(None, folded, other).ratio(), other))
    return best[1] or None
