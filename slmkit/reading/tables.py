"""Rows of CSV, TSV, JSONL and Parquet files as they stand, checked to the end before anybody works with them.

One scan finds encoding, delimiter, columns and row count and collects what is wrong with its line number; afterwards
rows stream in bounded memory with their raw bytes, so that a file can be copied with nothing but columns added.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from slmkit.errors import InputError, listed, unknown

KINDS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".parquet": "Parquet"}
DELIMITERS = (",", "\t", ";", "|")
MAX_LINE_BYTES = 64 * 2**20  # a longer line is no row of a table, and reading it would take memory without bound
SHOWN = 5  # problems spelled out in one error
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+\-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+\-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """What the scan of a file found.

    Attributes
    ----------
    path : Path
    kind : {"CSV", "TSV", "JSONL", "Parquet"}
    columns : tuple of str
        In file order; for JSONL every key that occurs, in order of appearance.
    n_rows : int
    encoding : str
    has_bom : bool
        Whether the file starts with the UTF-8 byte order mark.
    delimiter : str
    quoting : int
        `csv.QUOTE_MINIMAL`, or `csv.QUOTE_NONE` for a TSV whose quotes are part of the texts.
    newline : bytes
        How lines end.
    warnings : tuple of str
    """

    path: Path
    kind: str
    columns: tuple[str, ...] = ()
    n_rows: int = 0
    encoding: str = "utf-8"
    has_bom: bool = False
    delimiter: str = ","
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    newline: bytes = b"\n"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One row: the line it starts on, its bytes as they stand (without the line end), and its values by column."""

    line: int
    raw: bytes
    values: dict[str, Any]
    n_cells: int


def fail(where: object, problems: Sequence[str]) -> NoReturn:
    """Raise one `InputError` that names the place and lists every problem found."""
    if len(problems) == 1:
        raise InputError(f"{where}: {problems[0]}")
    shown = "".join(f"\n- {p}" for p in problems[:SHOWN])
    more = f"\n- and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise InputError(f"{where}: {len(problems)} problems{shown}{more}")


def kind_of(path: Path) -> str:
    """The kind of table a file name's ending stands for; `InputError` for a folder or an ending not allowed."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: ending {path.suffix or 'none'!r} is not supported. Allowed: {', '.join(KINDS)}")
    return kind


def scan(path: str | Path) -> Table:
    """Read a file once from beginning to end and describe it.

    Parameters
    ----------
    path : str or Path
        A file ending in .csv, .tsv, .jsonl, .ndjson or .parquet.

    Returns
    -------
    Table

    Raises
    ------
    InputError
        No such file, a folder, an unsupported ending, no rows, bytes that are no text (with their offset), rows
        that do not fit the header (with their line). Every bad row is counted, the first five are spelled out.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file at {path}")
    table = Table(path, kind_of(path))
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    if table.kind == "Parquet":
        return _scan_parquet(table)
    table = _with_encoding(table)
    table = _scan_json(table) if table.kind == "JSONL" else _scan_csv(table)
    if table.n_rows == 0:
        raise InputError(f"{path} has column names and no rows" if table.columns else f"{path} holds no rows")
    return table


def records(table: Table) -> Iterator[Record]:
    """Rows of a scanned CSV, TSV or JSONL file, one at a time; empty lines are no rows."""
    if table.kind == "JSONL":
        for number, raw, text in _lines(table):
            if text.strip():
                values = json.loads(text)
                yield Record(number, raw.strip(), values, len(values))
        return
    for number, raw, cells in _csv_rows(table, skip_header=True):
        padded = cells + [""] * (len(table.columns) - len(cells))
        yield Record(number, raw, dict(zip(table.columns, padded, strict=True)), len(cells))


def header_bytes(table: Table) -> bytes:
    """The first line of a CSV or TSV file as it stands, without its line end."""
    return next(iter(_csv_rows(table)))[1]


def as_text(value: object) -> str:
    """A cell as text: nothing for a missing value, whole floats without ".0", no broken surrogates, no NUL."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        value = int(value) if value.is_integer() else value
    return _UNUSABLE.sub("\ufffd", str(value))


def _scan_parquet(table: Table) -> Table:
    from slmkit.reading import parquet

    with parquet.open_parquet(table.path) as file:
        columns, n_rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    if n_rows == 0:
        raise InputError(f"{table.path} has column names and no rows")
    return replace(_named(table, columns), n_rows=n_rows)


def _named(table: Table, columns: Sequence[str]) -> Table:
    twice = sorted(name for name, n in Counter(columns).items() if n > 1)
    if twice:
        raise InputError(f"{table.path}: column names must differ; more than once: {listed(twice)}")
    return replace(table, columns=tuple(columns))


def _numbered(names: list[str]) -> list[str]:
    """Column names; where several have none they are called by their place, as spreadsheets leave them at the end."""
    several = names.count("") > 1
    return [name or (f"column {i + 1}" if several else "") for i, name in enumerate(names)]


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        offset = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"{path}: the line at byte {offset} is longer than {MAX_LINE_BYTES // 2**20} MB")
            yield offset, line
            offset += len(line)


def _with_encoding(table: Table) -> Table:
    """UTF-8 where every line decodes; else Windows-1252 unless most lines say that it is UTF-8 with broken bytes."""
    broken: list[tuple[int, int]] = []  # byte offset, value
    n_multibyte, n_nul, first = 0, 0, b""
    for offset, line in _raw_lines(table.path):
        first = first or line
        if b"\0" in first:
            _refuse_nul(table.path, offset + line.index(b"\0"), first)
        n_nul += b"\0" in line
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            broken.append((offset + error.start, line[error.start]))
        else:
            n_multibyte += not line.isascii()
    newline = b"\r\n" if first.endswith(b"\r\n") else b"\n"
    notes = (f"{n_nul:,} lines hold NUL bytes, which are read as \ufffd",) if n_nul else ()
    table = replace(table, newline=newline, has_bom=first.startswith(b"\xef\xbb\xbf"), warnings=notes)
    if not broken:
        return table
    offset, value = broken[0]
    if n_multibyte >= len(broken) or table.has_bom:
        raise InputError(
            f"{table.path}: byte {value:#04x} at offset {offset} is not UTF-8, though {n_multibyte} other "
            f"lines are ({len(broken)} lines broken). Save the file as UTF-8 again"
        )
    for start, line in _raw_lines(table.path):
        try:
            line.decode("cp1252")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{table.path}: byte {line[error.start]:#04x} at offset {start + error.start} is neither "
                "UTF-8 nor Windows-1252. Save the file as UTF-8"
            ) from error
    warning = f"the file is not UTF-8 (byte {value:#04x} at offset {offset}); read as Windows-1252"
    return replace(table, encoding="cp1252", warnings=(*table.warnings, warning))


def _refuse_nul(path: Path, offset: int, first: bytes) -> NoReturn:
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16 (NUL at byte {offset}). Save it as UTF-8")
    raise InputError(f"{path} is not a text file: NUL at byte {offset}")


def _lines(table: Table) -> Iterator[tuple[int, bytes, str]]:
    """Line number from 1, raw bytes and text with its line end, both without the byte order mark."""
    for number, (_, raw) in enumerate(_raw_lines(table.path), start=1):
        if number == 1 and table.has_bom:
            raw = raw[3:]
        yield number, raw, raw.decode(table.encoding)


class _Taken:
    """The lines a csv reader has taken since the last `take`."""

    def __init__(self, table: Table) -> None:
        self._source = _lines(table)
        self._raw: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        _, raw, text = next(self._source)
        self._raw.append(raw)
        return text

    def take(self) -> bytes:
        raw = b"".join(self._raw).rstrip(b"\r\n")
        self._raw.clear()
        return raw


def _csv_rows(table: Table, *, skip_header: bool = False) -> Iterator[tuple[int, bytes, list[str]]]:
    """Start line, raw bytes and cells of every row that is not an empty line, the header first."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    taken = _Taken(table)
    reader = csv.reader(taken, delimiter=table.delimiter, quoting=table.quoting, strict=True)
    start, header = 1, True
    try:
        for cells in reader:
            raw = taken.take()
            if cells and not (header and skip_header):
                yield start, raw, cells
            header = header and not cells
            start = reader.line_num + 1
    except csv.Error as error:
        why = {"unexpected end of data": 'a quote (") is opened and never closed'}.get(str(error), str(error))
        raise InputError(f"{table.path}, row starting at line {start}: {why}") from error


def _scan_csv(table: Table) -> Table:
    table = replace(table, delimiter=_delimiter(table))
    try:
        return _scan_rows(table)
    except InputError:
        if table.delimiter != "\t":
            raise
        plain = _scan_rows(replace(table, quoting=csv.QUOTE_NONE))
        return replace(plain, warnings=(*plain.warnings, 'quotes (") are not balanced; read as part of the texts'))


def _scan_rows(table: Table) -> Table:
    rows = iter(_csv_rows(table))
    header = next(rows, None)
    if header is None:
        raise InputError(f"{table.path} holds no rows")
    table = _named(table, _numbered([name.strip() for name in header[2]]))
    problems, n_rows, width = [], 0, len(table.columns)
    for line, _, cells in rows:
        n_rows += 1
        if len(cells) > width:
            problems.append(f"line {line} has {len(cells)} fields, the header {width} (delimiter {table.delimiter!r})")
        elif table.delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
            problems.append(f"line {line}: a quoted field runs over line ends and tabs")
    if problems:
        fail(table.path, problems)
    return replace(table, n_rows=n_rows)


def _delimiter(table: Table) -> str:
    """The candidate that cuts the first rows into the same number of fields as the header, the most fields first."""
    best = (False, 1, 0)
    found = "\t" if table.kind == "TSV" else ","
    for order, candidate in enumerate(DELIMITERS):
        widths = _first_widths(replace(table, delimiter=candidate))
        if widths and widths[0] > 1:
            score = (len(set(widths)) == 1, widths[0], -order)
            best, found = max((best, found), (score, candidate))
    return found


def _first_widths(table: Table, n: int = 50) -> list[int]:
    widths: list[int] = []
    try:
        for _, _, cells in _csv_rows(table):
            widths.append(len(cells))
            if len(widths) == n:
                break
    except InputError:
        pass  # the full scan reports it, with the delimiter chosen
    return widths


def _scan_json(table: Table) -> Table:
    columns: dict[str, None] = {}
    problems, n_rows = [], 0
    for number, _, text in _lines(table):
        if not text.strip():
            continue
        n_rows += 1
        try:
            row = json.loads(text.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            problems.append(f"line {number} is not JSON: {error.msg} (column {error.colno})")
            continue
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number} is not JSON: {error}")
            continue
        if not isinstance(row, dict):
            problems.append(f"line {number} is a {type(row).__name__}, not an object; JSONL has one {{...}} a line")
            continue
        columns.update(dict.fromkeys(row))
    if problems:
        fail(table.path, problems)
    return replace(table, columns=tuple(columns), n_rows=n_rows)


def near_column(name: str, columns: Iterable[str]) -> str:
    """Return `name` if it is one of `columns`, else raise `InputError` with the nearest names."""
    allowed = list(columns)
    if name not in allowed:
        raise unknown("column", name, allowed)
    return name


def is_formula(value: object) -> bool:
    """Whether a spreadsheet would run a cell: it begins like a formula and is no number."""
    return isinstance(value, str) and bool(_FORMULA.match(value)) and not _NUMBER.fullmatch(value)


def guarded(value: str) -> str:
    """A cell for a CSV that people open: what begins like a formula gets an apostrophe in front."""
    return f"'{value}" if is_formula(value) else value


def unguarded(value: str) -> str:
    """What `guarded` was given."""
    return value[1:] if value.startswith("'") and is_formula(value) else value
