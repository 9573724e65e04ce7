"""Records for the explorers: shipped, from a folder of one's own, or given; each with the folder of its probabilities.

Shipped ones were measured elsewhere and stay marked as recorded. A file that is no record is passed over; one that
wants to be a record and cannot be read is named, and the others are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmkit import runs
from slmkit.errors import InputError
from slmkit.runs import Run
from slmkit.runs.configurations import METHOD_WORDS, is_recorded, model_name
from slmkit_widgets import display


@dataclass(frozen=True)
class Record:
    """A run and where its probabilities lie; None: nowhere."""

    run: Run
    folder: Path | None

    @property
    def has_probabilities(self) -> bool:
        return self.folder is not None and (self.folder / f"{self.run.stem}{runs.PROBABILITIES}").is_file()

    @property
    def name(self) -> str:
        """One line that tells it from others: task, model, method, bits, seed, where from."""
        run = self.run
        parts = [run.task, model_name(run.model), METHOD_WORDS.get(run.method, run.method)]
        parts += [f"{run.bits} bits" if run.bits else "", f"seed {run.seed}", "recorded" if is_recorded(run) else ""]
        return ", ".join(display.plain(part, 40) for part in parts if part)


def shipped_folder() -> Path:
    """Where the records that come with slmkit lie."""
    import slmkit_data

    return slmkit_data.path("runs")


def shipped() -> list[Record]:
    """The records that come with slmkit, marked as recorded."""
    folder = shipped_folder()
    return [Record(run, folder) for run in runs.read_runs(folder, recorded=True)]


def of_folder(folder: str | Path) -> tuple[list[Record], list[str]]:
    """The records in a folder and in the folders right below it, and a sentence for each file that cannot be read.

    Raises
    ------
    InputError
        There is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"no folder of runs at {top}")
    found, problems = [], []
    for part in [top, *sorted(p for p in top.iterdir() if p.is_dir())]:
        for path in sorted(part.glob("*.json")):
            try:
                found.append(Record(runs.read_run(path), part))
            except (InputError, TypeError) as problem:
                if _claims_to_be_one(path):
                    problems.append(str(problem))
    return found, problems


def gathered(
    given: Run | Iterable[Run] | None, folder: str | Path | None, *, recorded: bool
) -> tuple[list[Record], list[str]]:
    """Records given as runs (their probabilities in `folder`) or read from `folder`, and the shipped ones.

    Without runs and folder only the shipped ones. The second value names the files that could not be read.
    """
    home = None if folder is None else Path(folder)
    own: list[Record] = []
    problems: list[str] = []
    if given is not None:
        own = [Record(run, home) for run in ([given] if isinstance(given, Run) else given)]
    elif home is not None:
        own, problems = of_folder(home)
    return own + (shipped() if recorded else []), problems


def summary(records: Sequence[Record], problems: Sequence[str]) -> str:
    """How many records there are, and which files could not be read."""
    recorded = sum(is_recorded(r.run) for r in records)
    own = len(records) - recorded
    said = f"{len(records):,} records: {own:,} of your own, {recorded:,} recorded elsewhere."
    if problems:
        said += f" {len(problems)} files could not be read; the first: {display.plain(problems[0], 300)}"
    return said


def _claims_to_be_one(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b'"run_id"' in file.read(2000)
    except OSError:
        return True
