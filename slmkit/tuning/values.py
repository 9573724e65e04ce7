"""Whether a text states a value (an amount, a time, a name) in any usual way of writing, and which ones it states.

A value and a text become words of one spelling ("£4.50", "4.50 pounds" and "GBP 4.5" are the same two words), and the
value's words must stand in the text side by side: no "5" in "15", no "12 percent" in "112 percent". English only. What
is said about a value is not understood: "not 45 euros" states 45 euros.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from decimal import Decimal

UNITS = {
    "percent": "% percent pct",
    "second": "second seconds sec secs",
    "minute": "minute minutes min mins",
    "hour": "hour hours hr hrs",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "eur": "€ eur euro euros",
    "gbp": "£ gbp pound pounds quid",
    "usd": "$ usd dollar dollars",
}
_UNIT_OF = {word: unit for unit, words in UNITS.items() for word in words.split()}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: i for i, word in enumerate(_ONES.split())} | {w: 10 * i for i, w in enumerate(_TENS.split(), 2)}
_BIG = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_MONTH = "(january|february|march|april|may|june|july|august|september|october|november|december)"
_DASHES = dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), "-")
_N = r"(\d+(?:\.\d+)?)"
_END = r"(\d+(?:\.\d+)?|\d\d:\d\d)"


def _time(found: re.Match[str]) -> str:
    hour, minute, half = int(found[1]), found[2] or "00", found[3]
    return f" {hour % 12 + 12 * (half == 'p'):02}:{minute} " if 1 <= hour <= 12 else found[0]


_Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_ON_TEXT: list[_Rule] = [  # (pattern, replacement), in this order, on lower case
    (r"per cent\b", "percent"),
    (r"(?<![\d.,])\d{1,3}(?:[, ]\d{3})+(?!\d)", lambda found: re.sub("[, ]", "", found[0])),  # 1,350 and 1 350
    (r"(?<![\d:.])(\d{1,2})(?:[:.]([0-5]\d))?\s?([ap])\.?m\b\.?", _time),
    (r"(?<![\d:.])(\d):([0-5]\d)(?![\d:])", r"0\1:\2"),
    (r"(?<![\d.,])(\d{3})[-. ](\d{4})(?![\d]|[.,]\d)", r" phone\1\2 "),
    (r"\bv(?:ersion)?\.? ?(\d+(?:\.\d+)*)", r" version\1 "),
    (rf"(€|£|\$|\b(?:eur|gbp|usd)) ?{_N}", r"\2 \1"),
    (rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?\b(?! ?percent| ?%)", r"\2 \1"),
    (rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}\b", r"\1 \2"),
]
_ON_WORDS: list[_Rule] = [  # on words of one spelling with one space between them
    (rf"{_N} (eur|gbp|usd) (?:and )?(\d\d?) cent\b", lambda f: f"{Decimal(f[1]) + Decimal(f[3]) / 100:f} {f[2]}"),
    (r"\bbusiness day\b", "working day"),
    (rf"\b{_END} ((?:working )?[a-z]+) (?:to|until|till|and|-) {_END} \2\b", r"\1 to \3 \2"),  # 9 months to 78 months
    (rf"\bbetween {_END} (?:and|to|-) (?={_END})", r"\1 to "),
    (rf"\b{_END} (?:until|till|-) (?={_END})", r"\1 to "),
    (r"(?<= )- ", ""),
]
_WORD = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\d\d:\d\d|(?:phone|version)[\d.]*\d|\d+(?:\.\d+)?|[^\W\d_]+|[€£$%-]")
_MEASURE = re.compile(
    rf"(?<= )(?:\S+@\S+|\d\d:\d\d|(?:phone|version)\S+|{_N}(?= (?:to {_N} )?(?:working )?({'|'.join(UNITS)}) ))(?= )"
)


@functools.lru_cache(maxsize=4096)
def spell(text: str) -> str:
    """A text in one spelling, a space before and behind each word.

    Numbers come in digits without commas and closing zeros, units in the singular, times as "09:15", ranges with "to".
    """
    plain = (
        unicodedata.normalize("NFKC", text).casefold().translate({0x2010: "-", 0x2011: "-", 0x2013: "-", 0x2014: "-"})
    )
    for pattern, replacement in _ON_TEXT:
        plain = re.sub(pattern, replacement, plain)
    spelt = f" {' '.join(_in_digits([_one(word) for word in _WORD.findall(plain)]))} "
    for pattern, replacement in _ON_WORDS:
        spelt = re.sub(pattern, replacement, spelt)
    return spelt


def states(text: str, value: str) -> bool:
    """Whether a text states a value.

    "From 9:15 am until 4:45 pm" states "09:15 to 16:45", and "we close at 4:45 pm and open at 9:15 am" does not.
    """
    wanted = spell(value)
    return bool(wanted.strip()) and wanted in spell(text)


def measures(text: str) -> list[str]:
    """What a text states that can be looked up: amounts with their unit, times, phone numbers, versions, addresses.

    Returns
    -------
    list of str
        As "3.2 eur", "09:15", "26 month", each once, in the order of the text. A number in front of any other word is
        left out, since "two of them" is seldom a fact, and so are names, which nothing tells from other words.
    """
    found = [f"{one[1]} {one[3]}" if one[3] else one[0] for one in _MEASURE.finditer(spell(text))]
    return list(dict.fromkeys(found))


def invented(text: str, known: Iterable[str]) -> list[str]:
    """Measures of a text that stand in none of the known texts (the sheet, and what was said before)."""
    allowed = {measure for one in known for measure in measures(one)}
    return [measure for measure in measures(text) if measure not in allowed]


def _one(word: str) -> str:
    """A word in its one spelling."""
    if word in _UNIT_OF:
        return _UNIT_OF[word]
    if word[0].isdigit() and ":" not in word:
        return _plain(Decimal(word))
    return word[:-1] if word.isalpha() and word.endswith("s") and len(word) > 3 and word[-2] not in "s'" else word


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _in_digits(said: list[str]) -> list[str]:
    """Numbers in words as digits: "two hundred and ten", "twenty-five" (twenty, -, five)."""
    out: list[str] = []
    while said:
        value, used = _read_number(said)
        out.append(str(value) if used else said[0])
        said = said[used or 1 :]
    return out


def _read_number(said: list[str]) -> tuple[int, int]:
    """The number that words begin with, and how many of them it takes; 0 of them for none."""
    total, part, used, below = 0, 0, 0, 100
    for i, word in enumerate(said):
        if word in ("and", "-") and used == i and below > 1 and i:
            continue  # counts once a number follows
        if i > used + 1:
            break
        if word in _SMALL and _SMALL[word] < below:
            part += _SMALL[word]
            below = 10 if _SMALL[word] >= 20 else 1
        elif word in _BIG and part and used == i:
            part, below = part * _BIG[word], 100
            if _BIG[word] > 100:
                total, part, below = total + part, 0, 1000
        else:
            break
        used = i + 1
    return total + part, used
