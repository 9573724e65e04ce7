"""`slmkit tune`: on labels or on dialogues, and what it bought on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from slmkit.console import Lines
    from slmkit.finetune import Tuned
    from slmkit.tuning.labels import TunedLabels

STOPPED = 130


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Catalog name, hub id or path.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A task's name or a table with texts and labels; domain_dialogues or a table with messages, or with "
            "prompt and answer.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder for what is learned.")],
    method: Annotated[
        str,
        typer.Option(help="lora, qlora (4 bits), last-k (the last blocks alone) or full (the weights themselves)."),
    ] = "lora",
    bits: Annotated[int | None, typer.Option(help="16, 8 or 4; the method's own by default.")] = None,
    epochs: Annotated[float, typer.Option(metavar="E", help="Passes over the rows.")] = 3,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Its peak; the method's own by default.")
    ] = None,
    last_k: Annotated[int | None, typer.Option(metavar="K", help="Blocks that last-k adapts, or full trains.")] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Labels: rows of rare classes count for more.")] = False,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="End when the loss on rows held back from those to learn rises.")
    ] = False,
    text_column: Annotated[str | None, typer.Option(help="Labels: column that holds the texts.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Labels: column that holds the labels.")] = None,
    seed: Annotated[int, typer.Option(help="Splits and trains anew.")] = 0,
    train: Annotated[int | None, typer.Option(metavar="N", help="Rows to learn; a fifth is held out.")] = None,
    search: Annotated[
        int, typer.Option(metavar="N", help="First try N settings, judged on validation rows of the training rows.")
    ] = 0,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="First find the learning rate by a short range test.")
    ] = False,
    keep_partial: Annotated[
        bool, typer.Option("--keep-partial", help="Learn no further: keep what DIR.partial holds, as it is.")
    ] = False,
    backend: Annotated[str | None, typer.Option(help="bnb or mlx; the best that runs here by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Tune a model on your rows: to sort texts by label, or to answer as in your dialogues.

    The folder appears when all is done; until then DIR.partial keeps checkpoints (and of a search DIR-search the
    finished trials), and the same command goes on from them.
    """
    from slmkit import backends
    from slmkit.console import Lines, about
    from slmkit.tuning import either

    lines, partial = Lines(), out.with_name(out.name + ".partial")
    if (found := backends.unfinished(partial)) and not (out / "README.md").is_file():
        lines.lasting(f"goes on from step {found[0]} of {found[1]} ({partial})")
    how: dict[str, Any] = {"bits": bits, "epochs": epochs, "learning_rate": learning_rate, "last_blocks": last_k}
    how |= {"seed": seed, "train": train, "backend": backend, "keep_partial": keep_partial}
    how["early_stopping"] = early_stopping
    how["progress"] = lambda event: lines.passing(about({"event": "tune", **event}))
    labels: dict[str, Any] = {"text_column": text_column, "label_column": label_column}
    labels |= {"class_weight": "balanced" if balanced else None}
    try:
        for given, first in ((find_lr, _with_rate), (search, _with_search)):
            if given:
                how |= first(model, data, out, {**how, "method": method, "n": search}, labels, lines)
        told = either.tune(model, data, out=out, method=method, **how, **labels)
    except KeyboardInterrupt:
        lines.lasting(_stopped(out, partial))
        raise typer.Exit(STOPPED) from None
    lines.passing("")
    print(json.dumps({**asdict(told), "folder": str(told.folder)}) if as_json else "\n".join(_said(told, model)))


def _said(told: Tuned | TunedLabels, model: str) -> list[str]:
    """What the tuning left, and how to go on."""
    from slmkit.tuning import either

    bits = (either.result(told.folder) or (told, {"bits": None}))[1]["bits"]
    said = either.lines(told, model, bits)
    where = f"{told.folder.name}.partial still holds its checkpoint: remove it if you do not go on"
    history = getattr(told, "history", None)
    if history and "stopped" in history[-1]:
        said.insert(0, f"stopped after step {len(history)}; {where}")
    return said


def _with_rate(
    model: str, data: str, out: Path, how: Mapping[str, Any], labels: Mapping[str, Any], lines: Lines
) -> dict[str, Any]:
    """The learning rate that a range test suggests."""
    from slmkit.tuning.rates import find_lr

    names = ("method", "bits", "last_blocks", "train", "seed", "backend", "progress")
    columns = {name: labels[name] for name in ("text_column", "label_column")}
    found = find_lr(model, data, **{name: how[name] for name in names}, **columns)
    lines.lasting(f"learning rate {found.suggestion:.1e}: {found.reason} ({len(found.frame)} steps)")
    return {"learning_rate": found.suggestion}


def _with_search(
    model: str, data: str, out: Path, how: Mapping[str, Any], labels: Mapping[str, Any], lines: Lines
) -> dict[str, Any]:
    """The setting that a search found best on validation rows."""
    from slmkit.tuning.search import search

    names = ("method", "bits", "last_blocks", "train", "seed", "backend", "learning_rate", "epochs")
    columns = {name: labels[name] for name in ("text_column", "label_column")}
    folder = out.with_name(f"{out.name}-search")
    found = search(model, data, trials=how["n"], out=folder, say=lines.lasting, **{n: how[n] for n in names}, **columns)
    lines.lasting(*found.lines())
    return dict(found.best)


def _stopped(out: Path, partial: Path) -> str:
    """What to say after Ctrl-C: what is kept, and how to go on."""
    from slmkit import backends

    found = backends.unfinished(partial)
    if not found:
        return f"stopped; nothing was written to {out}"
    return (
        f"stopped; {partial} keeps step {found[0]} of {found[1]}. The same command goes on from there; with "
        "--keep-partial it keeps that as it is"
    )
