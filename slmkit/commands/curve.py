"""What `slmkit learning-curve` shows: the accuracy at each number of labels, and the answer in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from slmkit.commands import options


def learning_curve(
    task: Annotated[
        str, typer.Argument(metavar="TASK_OR_FILE", help="A task's name, or a table: CSV, TSV, JSONL, Parquet, Excel.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the page, the figures and the runs are written.")
    ] = Path("learning_curve"),
    sizes: Annotated[str, typer.Option(help="Rising numbers of train rows.")] = "16,32,64,128,256",
    models: Annotated[str, typer.Option(help="Catalog names, hub ids or paths.")] = "minilm,smollm2-135m-instruct",
    methods: Annotated[
        str, typer.Option(help="Of embedding, lora, prompt; the floor always runs.")
    ] = "embedding,prompt",
    seeds: Annotated[str, typer.Option(help="Each splits and trains anew.")] = "0,1,2",
    bits: Annotated[int, typer.Option(help="16, 8 or 4.")] = 16,
    shots: Annotated[int, typer.Option(metavar="K", help="Examples in each prompt.")] = 4,
    test: Annotated[int | None, typer.Option(metavar="N", help="Test rows; a fifth by default.")] = None,
    epochs: Annotated[float, typer.Option(metavar="E", help="Passes of LoRA over the train rows.")] = 3,
    params: options.Params = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    test_file: options.TestFile = None,
    allow_leaks: options.AllowLeaks = False,
    relabel: options.Relabel = False,
    accept_license: options.AcceptLicense = False,
    backend: options.BackendName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Say how many labels a model needs to beat the floor, and what more of them would bring.

    Finished runs are skipped: the same command goes on where it was stopped. DIR gets learning_curve.html, which works
    offline, and learning_curve.json.
    """
    from slmkit import text
    from slmkit.console import Progress, show_table
    from slmkit.curves import learning

    result = learning.learning_curve(
        task,
        sizes=sizes,
        models=models,
        methods=methods,
        seeds=seeds,
        bits=bits,
        shots=shots,
        test=test,
        epochs=epochs,
        params=options.params(params),
        **options.reading(text_column, label_column, split, test_file, allow_leaks, relabel, accept_license),
        backend=backend,
        out=out,
        progress=(lambda event: None) if quiet else Progress(),
    )
    if as_json:
        print(json.dumps(learning.document(result), ensure_ascii=False))
    else:
        names, cells = learning.table(result)
        show_table(f"{text.clean(result.task, 80)}: accuracy in percent (95 % interval)", names, cells)
        for sentence in result.sentences:
            print(f"- {sentence}")
        print(result.out / learning.PAGE)
    if result.failed and all(run.method == "floor" for run in result.runs):
        raise typer.Exit(2)
