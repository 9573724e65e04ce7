"""Is it worth labelling more? Accuracy of floor, models and a prompt at several numbers of labels, and what that says.

Every point is a `Run` of a resumable study: the smaller training sets stand inside the larger ones, all of a seed are
scored on the same rows, and nothing leaks. Curves, crossings and their intervals come from `slmkit.curves.law`.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
import plotly.graph_objects as go

from slmkit import files, plots, report, study, text
from slmkit.backends.base import check_bits
from slmkit.curves.series import Curve, series_of
from slmkit.curves.words import Answer, sentences
from slmkit.errors import InputError, SlmkitError, listed
from slmkit.runs import Run
from slmkit.study import arguments
from slmkit.study import plan as planning
from slmkit.verdict import findings

METHODS = ("embedding", "prompt")
SIZES = (16, 32, 64, 128, 256)
FILE = "learning_curve.json"
PAGE = "learning_curve.html"
LEAST = 2  # rows a class: what a classifier can be cross-validated on


@dataclass(frozen=True)
class LearningCurve:
    """What more labels bring.

    Attributes
    ----------
    task : str
    sizes : tuple of int
        Numbers of labels learned from, rising.
    runs : list of Run
        One for each method, model, size and seed.
    failed : list of dict
        What brought no run, as in `StudyResult`.
    frame : DataFrame
        What `plots.learning_curve` draws.
    answers : list of Answer
        One a curve, the most accurate at the largest size first.
    sentences : list of str
        The answers in words.
    out : Path
        With learning_curve.json, learning_curve.html, and the study in runs/.
    stopped : bool
        Whether `cancel` ended it early.
    """

    task: str
    sizes: tuple[int, ...]
    runs: list[Run]
    failed: list[dict[str, Any]]
    frame: pd.DataFrame
    answers: list[Answer]
    sentences: list[str]
    out: Path
    stopped: bool = False

    @property
    def figure(self) -> go.Figure:
        """The picture."""
        return plots.learning_curve(self.frame)


def learning_curve(
    task: str | Path | pd.DataFrame,
    *,
    sizes: str | Sequence[int] = SIZES,
    models: str | Sequence[str] = planning.MODELS,
    methods: str | Sequence[str] = METHODS,
    seeds: int | str | Sequence[int] = (0, 1, 2),
    bits: int = 16,
    shots: int = 4,
    test: int | None = None,
    epochs: float = 3,
    backend: str | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    measure_s: float = 0.5,
    out: str | Path = "learning_curve",
    progress: study.Progress | None = None,
    cancel: threading.Event | None = None,
    **reading: Unpack[planning.Reading],
) -> LearningCurve:
    """Measure accuracy at several numbers of labels, and say when a model beats the floor and what more would bring.

    Parameters
    ----------
    task, models, epochs
        As `slmkit.study` takes them.
    sizes : sequence of int
        Rising numbers of train rows; three or more tell a curve that levels off from one that goes on.
    methods : sequence of str
        Of "embedding", "lora" and "prompt". The floor always runs. A prompt needs no labels but those it shows, so it
        runs at the smallest size only and is drawn as a line.
    seeds : sequence of int
        Each draws test rows and training sets anew. One leaves out how much the choice of rows matters, so that its
        intervals are too narrow; those of three are still rather narrow.
    bits : {16, 8, 4}
        Of the models; one stored in fewer runs in those.
    shots : int
        Examples in the prompt, at most the smallest size.
    test : int or None
        Test rows; fewer make every interval wider. None takes a fifth.
    measure_s : float
        About how long the costs of each run are measured; they are not what this is about.
    out : path
        Run again with the same, it goes on where it stopped.
    backend, params, progress, cancel
        As `slmkit.study` takes them.
    reading
        text_column, label_column, split, test_file, relabel, allow_leaks and accept_license, as `slmkit.study` takes
        them.

    Returns
    -------
    LearningCurve

    Raises
    ------
    InputError
        Wrong arguments, all at once, before anything is written.
    """
    problems: list[str] = []
    numbers = arguments.listed("size", sizes, int, problems)
    _check_sizes(numbers, shots, problems)
    arguments.said(check_bits, bits, problems=problems)
    folder = Path(out).expanduser()
    if strange := reading.keys() - planning.Reading.__annotations__.keys():
        raise TypeError(f"learning_curve() got an unexpected keyword argument {min(strange)!r}")
    settings: dict[str, Any] = {
        **reading,
        "models": models,
        "methods": methods,
        "shots": shots,
        "test": test,
        "epochs": epochs,
        "seeds": seeds,
        "backend": backend,
        "params": params,
        "measure_s": measure_s,
    }
    plan = planning.make(task, **settings, bits=None, train=numbers, out=folder / "runs", known=problems)
    plan = replace(plan, steps=tuple(step for step in plan.steps if _wanted(step, bits, numbers[0])))
    _check_classes(plan, numbers[0])
    found = study.carry_out(plan, progress, cancel)
    if not found.runs and not found.stopped:
        raise SlmkitError(f"no run came out: {found.failed[0]['error'] if found.failed else 'nothing was planned'}")
    return finished(plan.task.name, numbers, found, folder)


def finished(task: str, sizes: Sequence[int], found: study.StudyResult, out: Path) -> LearningCurve:
    """Read the curve off the runs of a study, and write learning_curve.json and learning_curve.html to `out`."""
    series = list(series_of(sizes, found.runs, found.out))
    answers, frame = [], pd.DataFrame()
    said: list[str] = []
    if any(one.sizes for one in series):
        curve = Curve(task, series)
        answers, frame = curve.answers(), curve.frame()
        n_test = sorted({run.n_test for run in found.runs})
        shown = f"{n_test[0]:,}" if len(n_test) == 1 else f"{n_test[0]:,} to {n_test[-1]:,}"
        said = [finding.sentence for finding in findings(found.runs) if finding.kind == "leak"]
        said += sentences(answers, curve.levels(), shown, curve.n_seeds)
    result = LearningCurve(task, tuple(sizes), found.runs, found.failed, frame, answers, said, out, found.stopped)
    if not frame.empty:
        with files.on_disk(out):
            values = json.dumps(document(result), indent=1, ensure_ascii=False, allow_nan=False)
            files.replace(out / FILE, values + "\n")
            files.replace(out / PAGE, _page(result))
    return result


def document(result: LearningCurve) -> dict[str, Any]:
    """A learning curve as JSON values; unknown is null."""
    rows = result.frame.astype(object).where(result.frame.notna(), None).to_dict("records")
    return {
        "task": result.task,
        "sizes": list(result.sizes),
        "sentences": result.sentences,
        "answers": [{**asdict(one), "overlap": one.overlap} for one in result.answers],
        "runs": [run.run_id for run in result.runs],
        "failed": result.failed,
        "frame": rows,
    }


def table(result: LearningCurve) -> tuple[list[str], list[list[str]]]:
    """Heading and cells: a row a size, a column a curve or prompt, accuracy in percent with its interval."""
    rows = result.frame[result.frame["kind"].isin(["point", "level"])]
    names = list(dict.fromkeys(rows["series"]))
    cells = []
    for size in result.sizes:
        at = rows[rows["labels"] == size].set_index("series")
        found = [at.loc[name] if name in at.index else None for name in names]
        shown = ["-" if r is None else _cell(r.accuracy, r.low, r.high) for r in found]
        cells.append([f"{size:,}", *shown])
    return ["labels", *names], cells


def _cell(accuracy: float, low: float, high: float) -> str:
    return f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _check_sizes(sizes: Sequence[int], shots: Any, problems: list[str]) -> None:
    if problems:
        return
    if len(sizes) < 2:
        problems.append(f"at least two sizes are needed to see a curve, better four; got {', '.join(map(str, sizes))}")
    elif any(b <= a for a, b in itertools.pairwise(sizes)):
        problems.append(f"sizes must rise, each above the one before; got {', '.join(map(str, sizes))}")
    elif isinstance(shots, int) and shots > sizes[0]:
        problems.append(f"shots must be at most the smallest size, {sizes[0]}; got {shots}")


def _check_classes(plan: planning.Plan, smallest: int) -> None:
    """Raise `InputError` where a class has too few of the first rows to be learned from."""
    for (seed, rows), split in plan.splits.items():
        counts = split.train["label"].value_counts()
        if rows == smallest and counts.min() < LEAST:
            few = listed(sorted(counts.index[counts < LEAST])[:5])
            raise InputError(
                f"class {few} has {counts.min()} of the {smallest} rows of the smallest size; each class needs {LEAST} "
                f"(seed {seed}). Begin with a larger size, or merge or drop the class"
            )


def _wanted(step: planning.Step, bits: int, smallest: int) -> bool:
    """A prompt at the smallest size only, and each model in one width."""
    one_width = step.source is None or step.bits == bits or step.source.stored is not None
    return one_width and (step.method != "prompt" or step.rows == smallest)


def _page(result: LearningCurve) -> str:
    """The page that shows it offline: the answers, the picture, and the same figures as a table."""
    lead, *rest = [text.escape(sentence) for sentence in result.sentences] or [""]
    names, cells = table(result)
    head = "".join(f'<th scope="col">{text.escape(name, 80)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{text.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    bullets = f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in rest)}</ul>" if rest else ""
    n_runs = f"{len(result.runs)} runs" + (f", {len(result.failed)} failed" if result.failed else "")
    sections = [
        f"<section><h2>{text.escape(result.task, 80)}</h2>",
        f'<div class="card verdict"><p class="lead">{lead}</p>{bullets}</div>',
        f'<div class="card">{report.drawn("learning-curve", result.figure)}</div>',
        "<h3>The same as a table</h3>",
        '<p class="soft">Accuracy in percent, mean of the seeds, with its 95 % interval over seeds and test rows.</p>',
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>',
    ]
    return report.document(
        title=text.escape(f"slmkit: is it worth labelling more? {result.task}", 120),
        heading="Is it worth labelling more?",
        summary=text.escape(f"{n_runs}; sizes {', '.join(f'{size:,}' for size in result.sizes)}."),
        nav="",
        sections="\n".join(sections),
    )
