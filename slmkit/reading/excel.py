"""Excel and OpenDocument tables, read with calamine: values only, no formula is evaluated and no macro is run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slmkit.errors import InputError, listed
from slmkit.reading import tables

KINDS = (".xlsx", ".xlsm", ".xls", ".ods")


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The first sheet that holds rows, its first filled row as column names, and what should be said about it.

    Words such as NA or null are texts, as in a CSV file; a column without a name and without values is left out.

    Raises
    ------
    InputError
        No readable workbook, or no sheet with column names and rows.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    try:
        sheets = pd.read_excel(
            path, sheet_name=None, header=None, dtype=object, keep_default_na=False, na_values=[""], engine="calamine"
        )
    except Exception as error:  # calamine has an exception of its own for each thing that can be wrong
        raise InputError(f"{path} is not a readable workbook (cut off, altered or with a password): {error}") from error
    filled = {str(name): frame for name, sheet in sheets.items() if not (frame := _with_names(sheet)).empty}
    if not filled:
        raise InputError(f"{path} has no sheet with column names and rows")
    first, *others = filled
    notes = [f"sheet {first!r} read; the others were not: {listed(others)}"] if others else []
    return filled[first], notes


def _with_names(sheet: pd.DataFrame) -> pd.DataFrame:
    """A sheet whose first filled row has become the names of its columns."""
    sheet = sheet.dropna(how="all")
    if sheet.empty:
        return sheet
    names = [tables.as_text(None if pd.isna(value) else value).strip() for value in sheet.iloc[0]]
    frame = sheet.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    return frame.loc[:, [bool(name) or bool(frame.iloc[:, i].notna().any()) for i, name in enumerate(names)]]
