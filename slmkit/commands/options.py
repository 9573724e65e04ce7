"""Options that several commands have, said once: which rows are read, how they are split, and with what settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slmkit.errors import InputError

TextColumn = Annotated[str | None, typer.Option(help="Column that holds the texts; several with commas are joined.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the file that holds the labels.")]
Split = Annotated[
    str | None, typer.Option(metavar="SPLIT", help="A split file (.json), or the column that says train or test.")
]
TestFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A second table: its rows are tested, those of the first learned.")
]
AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="Go on although a given split leaks; every record is marked.")
]
Relabel = Annotated[bool, typer.Option("--relabel", help="Merge labels that look like slips of the pen.")]
AcceptLicense = Annotated[
    bool, typer.Option("--accept-license", help="Accept the terms of data and models, once on this machine.")
]
Params = Annotated[
    str | None,
    typer.Option(metavar="JSON", help='More settings by method, such as {"lora": {"last_blocks": 8}}.'),
]
BackendName = Annotated[str | None, typer.Option(help="bnb, mlx or dummy; the best that runs here by default.")]


def reading(
    text_column: str | None,
    label_column: str | None,
    split: str | None,
    test_file: Path | None,
    allow_leaks: bool,
    relabel: bool,
    accept_license: bool,
) -> dict[str, Any]:
    """What these options are called in Python (`slmkit.study.plan.Reading`)."""
    return {
        "text_column": text_column,
        "label_column": label_column,
        "split": split,
        "test_file": test_file,
        "allow_leaks": allow_leaks,
        "relabel": "proposed" if relabel else None,
        "accept_license": accept_license,
    }


def params(given: str | None) -> dict[str, dict[str, Any]] | None:
    """The settings in --params; `InputError` for what is no JSON object of objects."""
    if given is None:
        return None
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise InputError(f'--params must be JSON such as {{"lora": {{"last_blocks": 8}}}}; got {given[:80]!r}')
    return found
