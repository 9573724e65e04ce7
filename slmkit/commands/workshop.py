"""For a class: `slmkit prefetch`, `slmkit doctor --workshop` and `slmkit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmkit.errors import InputError


def prefetch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to fill, for SLMKIT_ASSETS.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Data sets, fetched if need be; those that are here by default, or none."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare the folder with its manifest.")] = False,
) -> None:
    """Fill a folder with models, data and licences for a room without internet; again, and it is brought up to date.

    An interrupted call goes on where it stopped, and a damaged file is named and brought again.
    """
    from slmkit import prefetch as filling
    from slmkit.console import BytesProgress

    if check:
        print(f"{folder}: {filling.check(folder)} files are there as the manifest says")
        return
    names = None if data is None else [] if data == "none" else [name.strip() for name in data.split(",")]
    if names is not None and "" in names:
        raise InputError(f"--data must be names with commas between them, or none; got {data!r}")
    for line in filling.fill(folder, names, say=print, progress=BytesProgress()):
        print(f"left out: {line}")
    print(f"{folder}: {filling.check(folder)} files. On each machine: export SLMKIT_ASSETS={folder.resolve()}")


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the notebooks ran.")] = Path(),
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The zip file to write.")] = Path(
        "results.zip"
    ),
) -> None:
    """Zip the records of runs, the progress of the exercises and the cards of stored models, for the teacher.

    No text of a row, no absolute path and no access token goes in.
    """
    from slmkit.workshop.exports import export as write_export

    found = write_export(folder, output)
    progress = "the progress of exercises" if found.has_progress else "no progress"
    print(f"{found.path}: {found.n_runs} runs ({found.n_probabilities} row by row), {found.n_cards} cards, {progress}")
    for name in found.left_out:
        print(f"left out: {name} (no readable record)")


def show_room(decode: str | None, as_json: bool) -> None:
    """The checks of a class with their code word, or what a code word says; ends with 1 when something is broken."""
    from slmkit import doctor
    from slmkit.workshop import room

    if decode is not None:
        print(room.explain(decode))
        return
    found = room.checks()
    print(room.to_json(found) if as_json else room.render(found))
    raise typer.Exit(doctor.exit_status(found))
