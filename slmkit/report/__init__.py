"""One offline page that shows a folder of runs: verdict in words, picture, the same figures as a table, how measured.

The page holds everything it needs, plotly.js too, and its content security policy lets nothing else run or load: even a
text that slipped past the escaping could neither act nor call out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from slmkit import cards, files, plots, text
from slmkit.errors import InputError
from slmkit.plots.footprint import drop_buttons
from slmkit.report.tables import bits_table, details_table, facts, scores_table
from slmkit.runs import Run, read_run
from slmkit.runs.configurations import FOOTPRINTS, Configuration, configurations, setups, told_apart
from slmkit.verdict import Finding, findings

_ALWAYS = {"run_id", "created_utc", "task", "method", "seed", "n_train", "n_test"}
_SHARES = ("accuracy", "accuracy_low", "accuracy_high")
_NEEDED = {*_ALWAYS, *_SHARES}  # never null
_TYPES = {"int": int, "float": (int, float), "str": str, "dict": dict}
_ENDINGS = (".html", ".htm")
_HEAD_BYTES = 4096
_MARKS = (b'<meta name="generator" content="slmkit">', b"<title>slmkit: ")
_FEW = 4  # more sentences than this about single configurations are folded away


def write(runs_folder: Path, out: Path) -> Path:
    """Write the report of a folder of runs as one HTML file.

    Parameters
    ----------
    runs_folder : Path
        With one JSON file a run; probabilities beside them are used where they lie there.
    out : Path
        Ends in .html or .htm; its folder must exist. An earlier report of that name is replaced, in one step, when
        the new one is complete; any other file is left alone.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        No such folder, no run in it, a broken run file (named), or an `out` that cannot be written or is something
        else than a report.
    """
    folder, out = Path(runs_folder), Path(out)
    check_target(out)
    runs = _read(folder)
    document = page(runs, folder)
    with files.on_disk(out):
        files.replace(out, document)
    return out


def check_target(out: Path) -> None:
    """Raise `InputError` when a report must not or cannot be written to `out`, before any work is spent on it."""
    wrong = ""
    if out.is_dir():
        wrong = "it is a folder"
    elif out.suffix.lower() not in _ENDINGS:
        wrong = f"its name must end in {' or '.join(_ENDINGS)}"
    elif not out.parent.is_dir():
        wrong = f"there is no folder {out.parent}"
    if wrong:
        raise InputError(f"cannot write the report to {out}: {wrong}")
    if out.exists() and not _is_report(out):
        raise InputError(f"{out} exists and is not a slmkit report; choose another name")


def _is_report(path: Path) -> bool:
    """Whether a file starts as slmkit's reports do; the title tells those written before the generator was named."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} exists and cannot be read: {error.strerror or error}") from error
    return head.lstrip().lower().startswith(b"<!doctype html>") and any(mark in head for mark in _MARKS)


def page(runs: Sequence[Run], folder: Path | None = None) -> str:
    """The report as HTML; `folder` is where the probabilities of the runs lie, if anywhere."""
    groups = setups(runs)
    titles = _titles(groups)
    sections = [
        _section(i + 1, title, group, folder) for i, (title, group) in enumerate(zip(titles, groups, strict=True))
    ]
    return document(
        title=text.escape(f"slmkit: {', '.join(sorted({run.task for run in runs}))}", 120),
        heading="Accuracy against footprint",
        summary=_summary(runs, groups),
        nav=_nav(titles),
        sections="\n".join(sections),
    )


def document(**parts: str) -> str:
    """A page that works offline around the given HTML: title, heading, summary, nav and sections."""
    template = resources.files("slmkit.report").joinpath("template.html").read_text(encoding="utf-8")
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    [own] = re.findall(r"<script>(\n.*?)</script>", template, re.DOTALL)
    found = {**parts, "policy": _policy([plotly, own]), "plotly": plotly}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: found[match[1]], template)


def _read(folder: Path) -> list[Run]:
    if not folder.is_dir():
        raise InputError(f"no folder of runs at {folder}")
    runs = [_checked(read_run(path), path) for path in sorted(folder.glob("*.json"))]
    if not runs:
        raise InputError(f"no run in {folder}: it holds no .json file")
    return runs


def _checked(run: Run, path: Path) -> Run:
    """The run, if each of its values is of its field's kind; all that is wrong is named at once."""
    wrong = [f.name for f in fields(Run) if not _fits(getattr(run, f.name), str(f.type), f.name in _NEEDED)]
    wrong += [name for name in _SHARES if name not in wrong and not 0 <= getattr(run, name) <= 1]
    if not wrong:
        wrong += ["n_test"] * (run.n_test < 1)
        wrong += ["leaked_test_rows"] * (not 0 <= (run.leaked_test_rows or 0) <= run.n_test)
    if not wrong:
        wrong += ["recall_by_class"] * (not all(_fits(v, "float", False) for v in run.recall_by_class.values()))
        pairs = [v for v in run.intervals.values() if isinstance(v, list) and len(v) == 2]
        numbers = all(_fits(end, "float", True) for pair in pairs for end in pair)
        wrong += ["intervals"] * (len(pairs) < len(run.intervals) or not numbers)
    if wrong:
        raise InputError(f"{path} is not a run file: unusable values in {', '.join(wrong[:5])}")
    return run


def _fits(value: Any, kind: str, needed: bool) -> bool:
    if value is None:
        return not needed
    right = isinstance(value, _TYPES[re.split(r"\W", kind)[0]]) and not isinstance(value, bool)  # type: ignore[arg-type]
    return right and not (isinstance(value, float) and not math.isfinite(value))


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy under which just these scripts run and nothing is fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _titles(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The task of each section; of several sections of one task also what sets them apart."""
    tasks = [group[0].task for group in groups]
    told = [text.clean(task, 80) for task in tasks]
    for i, group in enumerate(groups):
        if tasks.count(group[0].task) > 1:
            told[i] += f", {group[0].n_train} training and {group[0].n_test} test rows"
    return told_apart(told, groups)


def _nav(titles: Sequence[str]) -> str:
    if len(titles) < 2:
        return ""
    links = [f'<li><a href="#task-{i + 1}">{text.escape(title)}</a></li>' for i, title in enumerate(titles)]
    return f'<nav aria-label="Tasks"><ul>{"".join(links)}</ul></nav>'


def _summary(runs: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    n = sum(len(configurations(group)) for group in groups)
    days = sorted({run.created_utc[:10] for run in runs})
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seeds = len({run.seed for run in runs})
    parts = [_count(len({run.task for run in runs}), "task"), _count(n, "configuration"), _count(len(runs), "run")]
    return text.escape(
        ", ".join([*parts, _count(seeds, "seed")]) + f". Runs of {dates}, slmkit {runs[-1].slmkit_version}."
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _section(number: int, title: str, runs: Sequence[Run], folder: Path | None) -> str:
    configs = configurations(runs)
    run = runs[0]
    rows = f"{run.n_train} training rows, {run.n_test} test rows, data licence {run.licence}"
    parts = [
        f'<section id="task-{number}"><h2>{text.escape(title)}</h2><p class="soft">{text.escape(rows)}</p>',
        _verdict(findings(runs, folder)),
        _footprint_figure(number, runs),
        "<h3>The same as a table</h3>",
        '<p class="soft">Click a heading to sort. With several seeds: the mean, and the range in brackets.</p>',
        scores_table(configs, folder),
        _bits_section(configs, folder),
        f"<details><summary>More figures of each configuration</summary>{details_table(configs)}</details>",
        _class_figure(number, runs),
        _calibration_figure(number, configs, folder),
        f"<h3>How it was measured</h3>{facts(runs)}",
        f"{_card(run, folder)}</section>",
    ]
    return "\n".join(parts)


def _bits_section(configs: Sequence[Configuration], folder: Path | None) -> str:
    shown = bits_table(configs, folder)
    if not shown:
        return ""
    words = (
        "Each model and method in 16 bits, and below it in fewer. The change of accuracy is measured on the same test "
        "rows; when its interval reaches from a loss to a gain, these rows cannot tell. × is the multiple of 16 bits: "
        "below 1 is saved, above 1 is paid. A smaller file is not yet less memory, time or energy."
    )
    return f'<h3>What the bits cost</h3><p class="soft">{text.escape(words)}</p>{shown}'


def _verdict(found: Sequence[Finding]) -> str:
    def of(kind: str) -> list[str]:
        return [text.escape(f.sentence) for f in found if f.kind == kind]

    leads = [f'<p class="leak" role="note">{sentence}</p>' for sentence in of("leak")]
    leads += [f'<p class="lead">{sentence}</p>' for sentence in of("headline") + of("cheapest")]
    floor = _bullets(of("floor"))
    if len(of("floor")) > _FEW:
        floor = f"<details><summary>Each of the {len(of('floor'))} against the floor</summary>{floor}</details>"
    caveat = [f'<p class="soft">{sentence}</p>' for sentence in of("caveat")]
    return f'<div class="card verdict">{"".join(leads)}{_bullets(of("bits"))}{floor}{"".join(caveat)}</div>'


def _card(run: Run, folder: Path | None) -> str:
    """The card of the data, from beside the runs or, for data that come with slmkit, from there."""
    found = cards.find(run, folder)
    if found is None:
        return ""
    summary = f"<summary>Card of the data: {text.escape(run.task, 80)}</summary>"
    return f'<details class="card datacard">{summary}{cards.to_html(found)}</details>'


def _bullets(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in sentences)}</ul>" if sentences else ""


def _footprint_figure(number: int, runs: Sequence[Run]) -> str:
    known = [key for key, f in FOOTPRINTS.items() if any(f.of(run) is not None for run in runs)]
    if not known:
        return "<p>No footprint of these runs is known, so there is no picture.</p>"
    figure = plots.accuracy_vs_footprint(runs, known[0])
    buttons = figure.layout.updatemenus[0].buttons
    views = [button.args for button in buttons]
    heading = '<h3 class="unseen">Accuracy against each footprint</h3>'
    drop_buttons(figure)  # the page has real ones, which a keyboard reaches
    shown = []
    for i, button in enumerate(buttons):
        title = text.escape(f"{button.args[1]['title.text']}. The same figures are in the table below.")
        pressed = "true" if i == 0 else "false"
        shown.append(f'<button aria-pressed="{pressed}" data-title="{title}">{text.escape(button.label)}</button>')
    name = f"footprint-{number}"
    switch = f'<div class="switch" role="group" aria-label="Footprint" data-figure="{name}"><span>Against</span>'
    return f'{heading}<div class="card">{switch}{"".join(shown)}</div>{drawn(name, figure, views)}</div>'


def _class_figure(number: int, runs: Sequence[Run]) -> str:
    figure = drawn(f"recall-{number}", plots.per_class_recall(runs))
    return f'<h3 class="unseen">Recall by class</h3><div class="card">{figure}</div>'


def _calibration_figure(number: int, configs: Sequence[Configuration], folder: Path | None) -> str:
    """Calibration of the most accurate configuration, if its probabilities lie in the folder."""
    try:
        figure = plots.calibration(configs[0].first, folder) if folder else None
    except InputError:
        figure = None
    if figure is None:
        return ""
    return f'<h3 class="unseen">Calibration</h3><div class="card">{drawn(f"calibration-{number}", figure)}</div>'


def drawn(name: str, figure: go.Figure, views: Sequence[Any] = ()) -> str:
    """HTML of a picture, drawn when the page opens."""
    document = {**json.loads(figure.to_json()), "views": views}
    label = text.escape(f"{figure.layout.title.text}. The same figures are in the tables.")
    data = text.script_json(json.dumps(document, ensure_ascii=False, allow_nan=False))
    place = f'<div class="figure" id="{name}" role="img" aria-label="{label}" data-source="{name}-data"></div>'
    return f'{place}<script type="application/json" id="{name}-data">{data}</script>'
