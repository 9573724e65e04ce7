"""Eight yes-or-no results as two words that can be called across a room, and back.

The first word holds the first four checks, the second the last four. Within a list the words begin with other letters,
so that half a word is enough. The order of words and checks never changes: a teacher may have the table on paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slmkit import text
from slmkit.errors import unknown

WORDS = (
    "amber brisk calm dusty eager frosty gentle humble icy jolly keen lively mellow noble olive plucky",
    "acorn badger comet dune ember falcon garden harbour island jigsaw kettle lantern meadow nutmeg orchid pebble",
)
LISTS = [line.split() for line in WORDS]
N_CHECKS = 8


def encode(failed: Sequence[bool]) -> str:
    """The code word of eight results, True for a check that failed: "amber-acorn" where none did."""
    assert len(failed) == N_CHECKS
    halves = (failed[:4], failed[4:])
    numbers = [sum(bit << place for place, bit in enumerate(half)) for half in halves]
    return "-".join(words[number] for words, number in zip(LISTS, numbers, strict=True))


def decode(word: str) -> list[bool]:
    """The eight results of a code word, whatever its capitals and with any sign between its halves; `InputError` for
    another."""
    halves = re.findall(r"[a-z]+", text.clean(word).casefold())
    if len(halves) != 2:
        raise unknown("code word", word, ["-".join(words[0] for words in LISTS)])
    for half, words in zip(halves, LISTS, strict=True):
        if half not in words:
            raise unknown("half of a code word", half, words)
    numbers = [words.index(half) for half, words in zip(halves, LISTS, strict=True)]
    return [bool(number >> place & 1) for number in numbers for place in range(4)]
