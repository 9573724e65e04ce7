"""What the command line shows: progress on stderr while something runs, and tables on stdout when it has ended."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from slmkit import estimate, ledger, text

if TYPE_CHECKING:
    from slmkit.runs import Run

QUIET_S = 4.0  # between two lines about one and the same step, where a line cannot be written over
WIDTH = 132


def duration(seconds: float) -> str:
    """Measured seconds as "8 s", "3 min 20 s" or "2 h 5 min"; for expected ones see `estimate.duration`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def about(event: Mapping[str, Any]) -> str:
    """A few words about an event: "lora · smollm2-135m-instruct · 4 bits: fit, step 12 of 60, loss 0.410"."""
    parts = [str(event.get("stage") or event["event"])]
    if event.get("steps"):
        parts.append(f"step {event['step']} of {event['steps']}")
    if event.get("loss") is not None:
        parts.append(f"loss {event['loss']:.3f}")
    if event.get("tokens_per_s"):
        parts.append(f"{event['tokens_per_s']:.0f} tokens/s")
    if event.get("run") is not None:
        run = event["run"]
        parts.append(
            f"accuracy {text.with_interval(run.accuracy, run.accuracy_low, run.accuracy_high)}, n {run.n_test}"
        )
    if event.get("error"):
        parts.append(str(event["error"]))
    if event.get("seconds_left"):
        parts.append(f"about {estimate.duration(event['seconds_left'])} left")
    label = f"{event['label']}: " if event.get("label") else ""
    return text.clean(label + ", ".join(parts), 400)


class Lines:
    """Lines on stderr: passing ones are written over on a terminal, elsewhere they come every few seconds.

    Parameters
    ----------
    stream : text file or None
        None takes stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.last_s = 0.0
        self.width = 0

    def lasting(self, *lines: str) -> None:
        """Write lines that stay."""
        self._over("")
        self.stream.write("".join(line + "\n" for line in lines))
        self.stream.flush()
        self.last_s = time.monotonic()

    def passing(self, line: str) -> None:
        """Write a line that the next one may replace."""
        if self.stream.isatty():
            self._over(line)
        elif time.monotonic() - self.last_s >= QUIET_S:
            self.lasting(line)

    def _over(self, line: str) -> None:
        if not self.stream.isatty():
            return
        line = line[: shutil.get_terminal_size().columns - 1]
        self.stream.write("\r" + line.ljust(self.width) + ("" if line else "\r"))
        self.stream.flush()
        self.width = len(line)


class Progress(Lines):
    """Shows the events of a study."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind == "plan":
            return self.lasting(*(text.clean(line, 400) for line in event["lines"]))
        if kind == "end":
            return self.lasting(f"{event['runs']} runs, {event['failed']} failed, {duration(event['seconds'])}")
        number = event["done"] + (kind in ("start", "progress"))
        line = f"[{min(number, event['total'])}/{event['total']}] {about(event)}"
        if kind == "progress":
            self.passing(line)
        else:
            self.lasting(line)


class Bar:
    """The progress bar of a notebook or terminal; the plan and every failure are written above it.

    It is text in both: a widget's bar is an error in a notebook that is opened again.
    """

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        from tqdm import tqdm

        if event["event"] == "plan":
            for line in event["lines"]:
                tqdm.write(text.clean(line, 400))
            file = sys.stdout if hasattr(ledger.shell(), "kernel") else sys.stderr  # the latter is red in a notebook
            self.bar = tqdm(total=event["total"], unit="run", file=file)
        elif self.bar is not None:
            self.bar.update(event["done"] - self.bar.n)
            self.bar.set_description_str("done" if event["event"] == "end" else about(event))
            if event["event"] == "failed":
                tqdm.write(about(event))
            if event["event"] == "end":
                self.bar.close()


class RowProgress(Lines):
    """Shows how far the classification of a file is."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event of `bulk.classify_file`."""
        whole = f" of {event['total_rows']:,}" if event.get("total_rows") else ""
        left = (
            f", about {estimate.duration(event['seconds_left'])} left" if event.get("seconds_left") is not None else ""
        )
        self.passing(f"{event['rows']:,}{whole} rows, {event['rows_per_s']:,.0f} rows/s{left}")


class BytesProgress(Lines):
    """Shows how far a download is, and how fast."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event of `fetch.download`."""
        whole = f" of {event['total'] / 1e6:,.1f}" if event.get("total") else ""
        left = f", about {estimate.duration(event['seconds_left'])} left" if event.get("seconds_left") else ""
        rate = event["bytes_per_s"] / 1e6
        self.passing(f"{event['file']}: {event['bytes'] / 1e6:,.1f}{whole} MB, {rate:,.1f} MB/s{left}")


def show_runs(runs: Sequence[Run], folder: Path | None = None) -> None:
    """Print runs as a table on stdout, with n, the machine, and what they say in words."""
    from rich import box
    from rich.table import Table

    from slmkit import verdict
    from slmkit.runs.configurations import machine_name, model_name, setups

    if not runs:
        return _console().print("no finished run")
    table = Table(title=_title(runs), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    several = len({run.seed for run in runs}) > 1
    for name in ("method", "model"):
        table.add_column(name, overflow="fold")
    for name in (
        *(["seed"] if several else []),
        "bits",
        "accuracy (95 %)",
        "macro-F1",
        "stored MB",
        "peak MB",
        "p50 ms",
        "J/1000 rows",
        "p vs floor",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        seed = [str(run.seed)] if several else []
        table.add_row(run.method, model_name(run.model) or "TF-IDF", *seed, *_cells(run))
    console = _console()
    console.print(table, markup=False)
    machines = dict.fromkeys(machine_name(run.machine) for run in runs)
    console.print(f"Measured on: {text.clean('; '.join(machines), 400)}", markup=False)
    for setup in setups(runs):
        for finding in verdict.findings(setup, folder):
            if finding.kind != "floor":  # the table's last column says it
                console.print(f"- {text.clean(finding.sentence, 1000)}", markup=False)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows of anything as a table on stdout; texts are cleaned, None is a dash."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        justify = "right" if rows and isinstance(rows[0][number], (int, float)) else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text("-" if value is None else text.clean(value)) for value in row))
    _console().print(table)


def _cells(run: Run) -> list[str]:
    peak = run.peak_ram_bytes if run.peak_device_bytes is None else run.peak_device_bytes
    energy = f"{text.rounded(run.energy_j_per_1000_rows)} ({run.energy_origin})" if run.energy_j_per_1000_rows else "-"
    return [
        str(run.bits or "-"),
        f"{100 * run.accuracy:.1f} [{100 * run.accuracy_low:.1f}, {100 * run.accuracy_high:.1f}]",
        f"{100 * run.macro_f1:.1f}",
        text.rounded(run.stored_bytes / 1e6) if run.stored_bytes is not None else "-",
        text.rounded(peak / 1e6) if peak is not None else "-",
        text.rounded(run.latency_p50_s * 1e3) if run.latency_p50_s is not None else "-",
        energy,
        text.p_value(run.p_vs_floor).removeprefix("p = ").removeprefix("p ") if run.p_vs_floor is not None else "-",
    ]


def _title(runs: Sequence[Run]) -> str:
    counts = sorted({(run.task, run.n_test, run.n_train) for run in runs})
    return "; ".join(
        f"{text.clean(task)}: n = {n_test} test rows, {n_train} train rows" for task, n_test, n_train in counts
    )


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
