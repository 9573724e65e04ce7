"""`slmkit distill` and `slmkit prune`: a student from a saved classifier, and a model with fewer blocks."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slmkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def add_to(app: typer.Typer) -> None:
    """Add both commands to slmkit's."""
    app.command(short_help="A small student of a saved classifier.")(distill)
    app.command(short_help="A model with fewer blocks.")(prune)


def distill(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="TEACHER",
            help="A saved classifier, as under runs/models; with --match-states a model's name or path.",
        ),
    ],
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="floor, or a model's name or path (of slmkit prune)")
    ],
    pool: Annotated[str, typer.Argument(metavar="POOL", help="A table of texts, or a task; labels in it are ignored.")],
    out: Out,
    labels: Annotated[
        str | None, typer.Option(metavar="TASK_OR_FILE", help="Labelled rows to learn from as well.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="TASK_OR_FILE", help="Test rows: taken out of the pool, then scored.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column that holds the texts in all tables.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column that holds the labels.")] = None,
    temperature: Annotated[float, typer.Option(metavar="T", help="Above 1 flattens what the teacher says.")] = 1.0,
    weight: Annotated[
        float, typer.Option(metavar="W", help="The teacher's part where a label is known, 0 to 1.")
    ] = 0.5,
    match_states: Annotated[
        bool,
        typer.Option("--match-states", help="No labels: the student takes over the hidden states of a model (torch)."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the student's training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a small student on what a saved classifier says of many texts, and say what it kept and saves.

    With test rows, their copies and near-copies leave the pool first, and the student is set beside its teacher and
    beside itself trained on the labels alone. With --match-states a model of the teacher's family learns the teacher's
    hidden states from the texts, and is then tuned or distilled into like any other.
    """
    if match_states:
        _refuse({"--labels": labels, "--test": test, "--temperature": temperature != 1, "--weight": weight != 0.5})
        _match(str(teacher), student, _texts(pool, text_column, label_column), out, seed, as_json)
        return
    from slmkit.classify import load_classifier
    from slmkit.console import Lines, about
    from slmkit.tuning import distil

    distil.check_new(out)
    made, lines = distil.student_of(student).set_params(seed=seed), Lines()
    texts = _texts(pool, text_column, label_column)
    known = None if labels is None else _labelled(labels, text_column, label_column)
    found = distil.distill(
        load_classifier(teacher),
        made,
        [*texts, *([] if known is None else known["text"])],
        labels=[None] * len(texts) + ([] if known is None else known["label"].tolist()),
        test=None if test is None else _labelled(test, text_column, label_column),
        temperature=temperature,
        weight=weight,
        progress=lambda event: lines.passing(about({"event": "tune", **event})),
    )
    lines.passing("")
    folder = found.save(out)
    if as_json:
        print(json.dumps({"folder": str(folder), **found.to_dict()}, default=str))
        return
    print("\n".join(found.lines()))
    print(f"Use it: slmkit classify {shlex.quote(str(folder))} FILE -o OUT")


def _refuse(given: dict[str, Any]) -> None:
    if wrong := [name for name, value in given.items() if value]:
        raise InputError(f"--match-states learns hidden states and no labels; leave out {', '.join(wrong)}")


def _match(teacher: str, student: str, texts: list[str], out: Path, seed: int, as_json: bool) -> None:
    from slmkit.console import Lines, about
    from slmkit.tuning.matching import match_states

    lines = Lines()
    told = lambda event: lines.passing(about({"event": "tune", **event}))  # noqa: E731
    made = match_states(teacher, student, texts, out=out, seed=seed, progress=told)
    lines.passing("")
    if as_json:
        print(json.dumps({**asdict(made), "folder": str(made.folder)}))
        return
    print(f"{made.n_train:,} texts learned, {made.n_test:,} held out")
    print(
        f"distance to the teacher's states: {made.distance_before:.3f} before, {made.distance_after:.3f} after (0: the "
        "same, 1: nothing in common)"
    )
    folder = shlex.quote(str(made.folder))
    print(f"Use it: slmkit tune {folder} TASK -o DIR, or slmkit distill TEACHER_DIR {folder} POOL -o DIR")


def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A catalog name, a hub id or a path, in 16 bits.")],
    out: Out,
    keep_layers: Annotated[int | None, typer.Option(metavar="N", help="Blocks to keep; measured which.")] = None,
    blocks: Annotated[str | None, typer.Option(metavar="I,J,K", help="The blocks to keep, from 0, instead.")] = None,
    measure: Annotated[
        str, typer.Option(help="angular: one run of blocks goes; influence: blocks go one by one.")
    ] = "angular",
    texts: Annotated[Path | None, typer.Option(metavar="FILE", help="A table of texts to measure on.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column that holds the texts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model with fewer blocks as a folder that study, load and distill take by its path.

    Nothing is trained: below about three quarters of its blocks it is of use as a student only.
    """
    from slmkit.tuning import pruning

    chosen = None if blocks is None else _numbers(blocks)
    read = None if texts is None else _texts(str(texts), text_column, None)
    made = pruning.prune(model, out=out, keep_layers=keep_layers, blocks=chosen, measure=measure, texts=read)
    if as_json:
        print(json.dumps(made.to_dict()))
        return
    print(f"{made.base} with {len(made.kept)} of {made.blocks} blocks: {made.folder}")
    print(f"dropped: {', '.join(map(str, made.dropped))} ({made.measure})")
    print(f"{made.n_parameters:,} of {made.base_parameters:,} parameters")
    print(f"Licence of the model, which holds for these weights too: {made.licence}")
    print(f"Teach it: slmkit distill TEACHER_DIR {shlex.quote(str(out))} POOL --test FILE -o DIR")


def _texts(name: str, text_column: str | None, label_column: str | None) -> list[str]:
    from slmkit import data, tasks

    if name in tasks.names():
        return list(tasks.named(name).load()["text"])
    found = data.rows(name, text_column, label_column)
    for warning in found.attrs["warnings"]:
        print(f"{name}: {warning}", file=sys.stderr)
    return list(found["text"])


def _labelled(name: str, text_column: str | None, label_column: str | None) -> pd.DataFrame:
    from slmkit import data, tasks

    if name in tasks.names():
        return tasks.named(name).load()
    return data.read(name, text_column, label_column, few_labels=True)


def _numbers(blocks: str) -> list[int]:
    parts: list[Any] = [part.strip() for part in blocks.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InputError(f"--blocks must be whole numbers with commas between, such as 0,1,29; got {blocks!r}")
    return [int(part) for part in parts]
