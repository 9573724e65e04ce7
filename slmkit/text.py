"""How text and figures are written for a reader: cleaned, escaped, rounded.

Rows, labels, file names and model names come from outside. A page, a picture or a terminal gets them through `clean` or
`escape` only, so that no row can run a script, colour a terminal or turn the reading direction around.
"""

from __future__ import annotations

import html
import re
import unicodedata

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x9b[0-?]*[ -/]*[@-~]|\x1b[@-Z\\^_]")
_JOINERS = "\u200c\u200d"  # zero-width joiners: letters of Persian and of emoji, harmless
_SPACES = {"Zs", "Zl", "Zp"}
_DROPPED = {"Cc", "Cf", "Cs"}  # control, format (bidi marks are here), lone surrogates


def clean(text: object, limit: int = 200, *, newlines: bool = False) -> str:
    """Plain, printable text of at most `limit` characters.

    Parameters
    ----------
    text : object
        Turned into a string first; None gives "".
    limit : int
        A longer text is cut and ends in "...", so that one long row cannot fill a page.
    newlines : bool
        Keep line breaks; otherwise they become spaces.

    Returns
    -------
    str
        Without ANSI sequences, control characters, bidi and other invisible format characters and lone surrogates.
    """
    raw = _ANSI.sub("", "" if text is None else str(text).replace("\r\n", "\n"))
    kept = "".join(_one(character, newlines) for character in raw)
    pattern = r"[^\S\n]+" if newlines else r"\s+"
    kept = re.sub(pattern, " ", kept).strip()
    return kept if len(kept) <= limit else kept[: max(limit - 3, 0)].rstrip() + "..."


def clean_document(document: str, limit: int) -> str:
    """`clean` line by line: breaks and the spaces that lines begin with stay, as Markdown needs them."""
    lines = document[:limit].splitlines()
    return "\n".join(" " * (len(line) - len(line.lstrip(" "))) + clean(line, limit) for line in lines)


def _one(character: str, newlines: bool) -> str:
    if (character.isascii() and character.isprintable()) or character in _JOINERS:
        return character
    if character in "\n\r\t\v\f":
        return "\n" if character == "\n" and newlines else " "
    category = unicodedata.category(character)
    return " " if category in _SPACES else "" if category in _DROPPED else character


def escape(text: object, limit: int = 2000, *, newlines: bool = False) -> str:
    """`clean` text for HTML (elements and quoted attributes) and for plotly's labels.

    Quotes and the dollar sign become numeric entities: plotly reads those, does not know `&quot;`, and would take
    `$...$` for TeX.
    """
    safe = html.escape(clean(text, limit, newlines=newlines), quote=False)
    return safe.replace('"', "&#34;").replace("'", "&#39;").replace("$", "&#36;")


def script_json(document: str) -> str:
    """A JSON document that may stand inside `<script>`: no character in it can end the element or open a comment."""
    for character in "<>&\u2028\u2029":
        document = document.replace(character, f"\\u{ord(character):04x}")
    return document


def percent(share: float) -> str:
    """0.8917 as "89.2 %"."""
    return f"{100 * share:.1f} %"


def with_interval(share: float, low: float, high: float) -> str:
    """A share with its interval: "89.2 % (85.1 to 92.3)"."""
    return f"{percent(share)} ({100 * low:.1f} to {100 * high:.1f})"


def rounded(value: float) -> str:
    """Three significant digits without an exponent: 1240, 269, 26.9, 0.27."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", " ") if size >= 10_000 else f"{value:.{digits}f}"


def megabytes(n_bytes: float) -> str:
    """Bytes as "269 MB" (a million bytes)."""
    return f"{rounded(n_bytes / 1e6)} MB"


def p_value(p: float) -> str:
    """A p value as "p = 0.002" or "p < 0.001"; near 0.05 with the digit that decides."""
    if p < 0.001:
        return "p < 0.001"
    digits = 4 if 0.0495 <= p < 0.0505 else 3 if p < 0.1 else 2
    return f"p = {p:.{digits}f}".rstrip("0").rstrip(".") if p < 1 else "p = 1"
