"""The table in docs/architectures.md: read, rendered from what tests/test_conformance.py found, and written.

`python -m tools.conformance_table` runs the checks and writes what they found; the checks compare the two otherwise.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architectures.md"
BEGIN = "<!-- made by python -m tools.conformance_table -->\n"
END = "<!-- end -->\n"
BACKENDS = ("bnb", "mlx")
COLUMNS = ("scores", "generate", "embed", "LoRA", "EOS", "merged")
HEADINGS = ("architecture", "kept in the checkpoint", *(f"{name} 16/8/4" for name in BACKENDS), *COLUMNS)
REASONS = {"runs decoders only": "no: decoders only"}  # words of a backend's refusal -> what the table says
Found = dict[tuple[str, str], dict[str, str]]  # (architecture, backend) -> column -> "yes", "no" or why it was refused


def short_reason(message: str) -> str:
    """A backend's refusal in a few words; `ValueError` for one that is not foreseen."""
    for words, short in REASONS.items():
        if words in message:
            return short
    raise ValueError(f"no short form for the refusal {message!r}; add it to REASONS")


def render(cases: Sequence[tuple[str, str, str]], found: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """The table's lines for cases (name, traits, kind); `KeyError` for a pair that was not checked."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for name, traits, _ in cases:
        results = {backend: found[name, backend] for backend in BACKENDS}
        loads = [results[backend].get("refused") or results[backend]["bits"] for backend in BACKENDS]
        rows.append((name, traits, *loads, *(_cell(results, column) for column in COLUMNS)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(results: Mapping[str, Mapping[str, str]], column: str) -> str:
    """ "yes" where every backend that runs the architecture has it, "-" where it does not apply."""
    values = {backend: r[column] for backend, r in results.items() if column in r}
    held = [backend for backend, value in values.items() if value == "yes"]
    if not values:
        return "-"
    return "yes" if len(held) == len(values) else f"{held[0]} only" if held else "no"


def read(text: str | None = None) -> dict[str, dict[str, str]]:
    """The page's table: architecture -> heading -> cell."""
    text = PAGE.read_text(encoding="utf-8") if text is None else text
    lines = text.split(BEGIN)[1].split(END)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(HEADINGS, row, strict=True)) for row in rows[2:]}


def claim(row: Mapping[str, str], backend: str, column: str) -> str:
    """What a row says about a backend: "yes", "no", "-" or why it refuses; `column` may be "bits" or "refused"."""
    if column in ("bits", "refused"):
        return row[f"{backend} 16/8/4"]
    cell = row[column]
    return {f"{backend} only": "yes"}.get(cell, "no" if cell.endswith(" only") else cell)


def write(table: str) -> None:
    """Put the table between its marks in the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1], encoding="utf-8")


def main() -> int:
    """Run the checks and write the table; 0 when every check held."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_conformance.py", "--write-conformance"]
    return subprocess.call(command, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
