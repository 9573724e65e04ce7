"""Finds labels that are probably meant to be one: they differ in spaces, case or separators, or by a slip of the pen.

Nothing is changed here. A person looks at the proposals and says whether they hold. What may be another class is left
alone: a word more or less ("not fraud"), other digits or letters ("class b", "type ii"), signs ("-1", "A-"), and words
that differ by a part that turns their meaning ("illegal", "abnormal", "employee").
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from slmkit.errors import short

NEAR = 0.85  # difflib's ratio
RARE = 0.05  # a slip is at most this share of the label it stands for
SHORTEST = 5  # characters; shorter words differ too easily
LONGEST = 200  # characters; longer labels are no names, and comparing them would take long
MAX_LABELS = 200  # more are no classes, and comparing them all would take long
_TURN = re.compile(
    r"^(?:un|in|il|im|ir|dis|non|not|no|anti|contra|counter|de|ab|a|mis|mal|pre|post|hyper|hypo|macro|micro|over|under"
    r"|inter|intra|extra|ex|sub|super|re|pro|up|down|on|off|out)"
)
_SIDE = re.compile(r"(?:er|or|ee|ful|less|free)(?=s?$)")


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
            f"label {short(self.found)!r} ({self.n_found:,} rows) may be meant as {short(self.into)!r} "
            f"({self.n_into:,} rows): "
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
    """One form for spellings of a name; a sign at its beginning or end ("-1", "A-") is part of it."""
    plain = unicodedata.normalize("NFC", label).casefold().strip(" _")
    return re.sub(r"(?<=[^\W_])[\s_\-]+(?=[^\W_])", " ", plain)


def _slip(folded: str, sizes: dict[str, int]) -> str | None:
    """The frequent label that a rare one is nearly the same as."""
    best = (0.0, "")
    for other, size in sizes.items():
        if other != folded and sizes[folded] <= RARE * size and _is_near(folded, other):
            best = max(best, (difflib.SequenceMatcher(None, folded, other).ratio(), other))
    return best[1] or None


def _is_near(one: str, other: str) -> bool:
    """Whether two names are probably one: word by word, and never where the difference may be the meaning."""
    if max(len(one), len(other)) > LONGEST:
        return False
    words, others = one.split(), other.split()
    if len(words) != len(others):
        return "".join(words) == "".join(others) and not re.search(r"\d", one)
    return all(_is_slip(a, b) for a, b in zip(words, others, strict=True) if a != b)


def _is_slip(word: str, other: str) -> bool:
    turned = any(part.sub("", word) == part.sub("", other) for part in (_TURN, _SIDE))
    alone = _TURN.sub("", word) == other or _TURN.sub("", other) == word
    if turned or alone or re.findall(r"\d+", word) != re.findall(r"\d+", other):
        return False
    near = difflib.SequenceMatcher(None, word, other).ratio() >= NEAR
    return min(len(word), len(other)) >= SHORTEST and near
