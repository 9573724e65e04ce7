"""Excel and OpenDocument tables, read with calamine: values only, no formula is evaluated and no macro is run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slmkit.errors import InputError, listed

KINDS = (".xlsx", ".xlsm", ".xls", ".ods")


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The first sheet that holds rows, its first row as column names, and what should be said about it.

    Raises
    ------
    InputError
        No readable workbook, or no sheet with column names and rows.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    try:
        with pd.ExcelFile(path, engine="calamine") as book:
            sheets = {str(name): book.parse(name, dtype=object) for name in book.sheet_names}
    except Exception as error:  # calamine has an exception of its own for each thing that can be wrong
        raise InputError(f"{path} is not a readable workbook (cut off, altered or with a password): {error}") from error
    filled = [name for name, sheet in sheets.items() if len(sheet) and len(sheet.columns)]
    if not filled:
        raise InputError(f"{path} has no sheet with column names and rows")
    frame = sheets[filled[0]]
    frame = frame.set_axis([str(c).strip() for c in frame.columns], axis=1)
    notes = [f"sheet {filled[0]!r} read; the others were not: {listed(filled[1:])}"] if len(filled) > 1 else []
    return frame, notes
