"""`slmkit data`: what data there is, its cards, getting it, and looking at rows before anybody is scored on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slmkit.errors import InputError

app = typer.Typer(
    rich_markup_mode=None,
    help="Data sets: list, card, fetch; and your own rows: check, sheet, split.",
    add_completion=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
TextColumn = Annotated[str | None, typer.Option(help="Column that holds the texts; several with commas are joined.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column that holds the labels.")]
Relabel = Annotated[bool, typer.Option("--relabel", help="Merge labels that look like slips of the pen.")]
Rows = Annotated[str, typer.Argument(metavar="TASK_OR_FILE", help="A task's name, or a table of your own.")]


@app.callback(invoke_without_command=True)
def data(context: typer.Context, as_json: AsJson = False) -> None:
    """List the data sets: rows, labels, licence, size, and whether they are on this disk."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list", short_help="What data there is.")
def list_(as_json: AsJson = False) -> None:
    """List the data sets: rows, labels, licence, size, and whether they are on this disk."""
    _list(as_json)


@app.command(short_help="The card of a data set.")
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A task's name.")]) -> None:
    """Print the card of a data set: what the rows are, how they came about, what to beware of, the licence."""
    from slmkit import cards, tasks, text

    task = tasks.named(name)
    print(text.clean_document(task.card, cards.MAX_CHARACTERS))
    print(f"\nLicence: {task.licence}. Source: {task.source}")
    if task.terms:
        print(f"Terms to accept: {task.terms}")


@app.command(short_help="Get a data set.")
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A task's name.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fill this folder, for SLMKIT_ASSETS; the cache by default.")
    ] = None,
    accept_license: Annotated[bool, typer.Option("--accept-license", help="Accept the terms of the data.")] = False,
) -> None:
    """Get the files of a data set; after an interruption the same command goes on where it stopped."""
    from slmkit import tasks
    from slmkit.assets import licences, sources
    from slmkit.console import BytesProgress

    task = tasks.named(name)
    if task.data is None:
        print(f"{name} comes with slmkit: there is nothing to fetch")
        return
    if accept_license:
        task.accept_license()
    if task.terms:
        licences.require(task.gate or task.name, task.licence, task.terms)
    if to is not None and to.exists() and not to.is_dir():
        raise InputError(f"--to must be a folder; {to} is a file")
    for path in sources.obtain(task.data, name, to, progress=BytesProgress()):
        print(path)


@app.command(short_help="Copies, near-copies and leaks.")
def check(
    file: Rows,
    file2: Annotated[
        str | None,
        typer.Argument(metavar="[TASK_OR_FILE2]", help="Test rows to compare with; those of the first train."),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    examples: Annotated[int, typer.Option(metavar="N", min=0, help="Rows spelled out for each finding.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Find rows that repeat each other inside a table, and rows of one table or part that stand in another."""
    from slmkit import data, tasks
    from slmkit.splits import leaks

    known = tasks.names()
    parts: dict[str, Any] = {}
    if file2 is not None and split_column is not None:
        raise InputError("--split-column cuts one table into parts; with two tables leave it out")
    for one in filter(None, (file, file2)):
        if one in known:
            if split_column not in (None, "part"):
                raise InputError(f"the rows of {one} say their part in the column 'part'; got {split_column!r}")
            frame = tasks.named(one).load()
        else:
            frame = data.rows(one, text_column, label_column, split_column=split_column)
            for warning in frame.attrs["warnings"]:
                _say(f"{one}: {warning}")
        parts |= _parts(_free_name(one if one in known else Path(one).stem, parts), frame, split_column)
    report = leaks.check(parts)
    print(json.dumps(report.to_dict()) if as_json else "\n".join(report.lines(examples)))


@app.command(short_help="A datasheet of labelled rows.")
def sheet(
    file: Rows,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    relabel: Relabel = False,
    model: Annotated[str, typer.Option(help="Whose tokens are counted; none for no model.")] = "smollm2-135m-instruct",
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="The length texts will be cut to.")] = 256,
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows to look at to this CSV.")] = None,
    examples: Annotated[int, typer.Option(metavar="N", min=0, help="Rows spelled out for each finding.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Describe labelled rows: classes, lengths, languages, telling words, repetitions, and rows worth a second look."""
    from slmkit import datasheets, tasks

    if rows is not None:
        datasheets.check_target(rows)
    task = tasks.get(file, text_column, label_column, relabel="proposed" if relabel else None)
    found = datasheets.datasheet(task.load(), model=None if model == "none" else model, max_tokens=max_tokens)
    print(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else "\n".join(found.lines(examples)))
    if rows is not None:
        _say(f"{len(found.suspicious):,} rows to look at: {found.save_suspicious(rows)}")


@app.command(short_help="Split rows so that nothing leaks.")
def split(
    file: Rows,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The split file to write (.json).")],
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    relabel: Relabel = False,
    seed: Annotated[int, typer.Option(help="Another seed, other test rows.")] = 0,
    train: Annotated[int | None, typer.Option(metavar="N", help="Train rows; all that are left by default.")] = None,
    test: Annotated[int | None, typer.Option(metavar="N", help="Test rows; a fifth by default.")] = None,
) -> None:
    """Write a leak-free split as row hashes; `slmkit study --split FILE` repeats it, here or elsewhere."""
    from slmkit import data, tasks
    from slmkit.splits import leaks, splitfile

    splitfile.check_target(output)
    task = tasks.get(file, text_column, label_column, relabel="proposed" if relabel else None)
    frame = task.load()
    parts = data.split(frame, seed=seed, train=train, test=test)
    report = leaks.check({"train": parts.train, "test": parts.test}, within=False)
    path = splitfile.save(parts, output, data_sha256=frame.attrs.get("sha256"), seed=seed, licence=task.licence)
    for line in (*parts.warnings, *report.lines()):
        _say(line)
    if report.n_leaking:
        _say("These rows leave no split without leaks; a study takes this one with --allow-leaks only")
    sizes = {"train": len(parts.train), "test": len(parts.test), "leaked_test_rows": report.n_leaking}
    print(json.dumps({"split": str(path), **sizes, "seed": seed}))


def _list(as_json: bool) -> None:
    from slmkit import console, tasks
    from slmkit.assets import licences

    rows: list[dict[str, Any]] = []
    for task in map(tasks.get, tasks.names()):
        needs = bool(task.terms) and not licences.accepted(task.gate or task.name, task.licence)
        rows.append(
            {
                "name": task.name,
                "rows": task.n_rows,
                "labels": len(task.labels),
                "licence": task.licence,
                "accepted": not needs,
                "mb": None if task.n_bytes is None else round(task.n_bytes / 1e6, 1),
                "on_disk": task.on_disk or "no",
            }
        )
    if as_json:
        print(json.dumps({"data": rows}))
        return
    columns = ["name", "rows", "labels", "licence", "MB to fetch", "on disk"]
    table = [
        [
            row["name"],
            "?" if row["rows"] is None else f"{row['rows']:,}",
            str(row["labels"] or "-"),
            row["licence"] + ("" if row["accepted"] else ", to be accepted"),
            "-" if row["on_disk"] == "shipped" else str(row["mb"] or "?"),
            row["on_disk"],
        ]
        for row in rows
    ]
    console.show_table("Data sets", columns, table)
    print("A card: slmkit data show NAME. Get one: slmkit data fetch NAME. Your own file: slmkit data check FILE")


def _free_name(name: str, taken: dict[str, Any]) -> str:
    return name if name not in taken else f"{name} (2)"


def _parts(name: str, frame: Any, split_column: str | None) -> dict[str, Any]:
    """One part a table; with a split column one for each value in it, the test rows last."""
    if split_column is None or "part" not in frame:
        return {name: frame}
    order = [part for part in ("train", "validation", "test") if (frame["part"] == part).any()]
    return {part: frame[frame["part"] == part] for part in order}


def _say(message: str) -> None:
    typer.echo(message, err=True)
