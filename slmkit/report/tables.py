"""The tables of the report: scores and costs of each configuration, more figures, and how they were measured.

A column is a heading, its unit and a function from configuration to what is shown and what is sorted by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit import text
from slmkit.bitcosts import BitsPair, families, pairs_of
from slmkit.runs import Run
from slmkit.runs.configurations import FOOTPRINTS, Configuration, is_recorded
from slmkit.runs.pairs import ALPHA, Comparison, compare

Cell = tuple[str, float | str | None]  # as shown, as sorted
_UNKNOWN: Cell = ("–", None)


@dataclass(frozen=True)
class Column:
    """One column; `first` is the direction of the first click: costs from the lowest, scores from the highest."""

    heading: str
    unit: str
    cell: Callable[[Configuration], Cell]
    first: str = "ascending"
    style: str = ""


def scores_table(configs: Sequence[Configuration], folder: Path | None) -> str:
    """The table that holds what the picture shows, one row a configuration."""
    floor = next((c for c in configs if c.is_floor), None)
    against = {c.number: compare(c, floor, lambda r: r.p_vs_floor, folder) for c in configs if floor and c is not floor}
    columns = [
        *_names(),
        Column("Accuracy", "95 % interval", _accuracy, "descending"),
        Column("Above floor", "points", lambda c: _points(against.get(c.number)), "descending"),
        Column("p", "against floor", lambda c: _p(against.get(c.number))),
        *(Column(f.button, _per(f.key, f.unit), _mean(f.of)) for f in FOOTPRINTS.values()),
    ]
    return table("Scores and costs", columns, configs)


def _per(key: str, unit: str) -> str:
    return {"latency_p50_s": "ms, p50", "energy_j_per_1000_rows": "J per 1000 rows"}.get(key, unit)


def details_table(configs: Sequence[Configuration]) -> str:
    """Everything else that a run knows."""
    columns = [
        *_names(),
        Column("Seeds", "", lambda c: (", ".join(map(str, c.seeds)), len(c.seeds))),
        Column("Backend", "scheme", _backend, style="words"),
        Column("Macro-F1", "%", _mean(lambda r: r.macro_f1, 100), "descending"),
        Column("MCC", "", _mean(lambda r: r.mcc, digits=3), "descending"),
        Column("ECE", "points", _mean(lambda r: r.ece, 100)),
        Column("PR-AUC", "", _mean(lambda r: r.pr_auc, digits=3), "descending"),
        Column("Recall", "%, at 1 % false alarms", _mean(lambda r: r.recall_at_1pct_fpr, 100), "descending"),
        Column("Rows", "per second", _mean(lambda r: r.rows_per_s), "descending"),
        Column("Latency", "ms, p95", _mean(lambda r: r.latency_p95_s, 1000)),
        Column("Load", "s", _mean(lambda r: r.load_s)),
        Column("Training", "s", _mean(lambda r: r.fit_s)),
        Column("Training peak", "MB", _mean(lambda r: r.fit_peak_ram_bytes, 1e-6)),
        Column("Adapter", "MB", _mean(lambda r: r.adapter_bytes, 1e-6)),
        Column("Weights", "bytes per parameter", _mean(lambda r: r.bytes_per_parameter, digits=2)),
        Column("p", "against 16 bits", lambda c: _p(Comparison(0, 0, tuple(r.p_vs_16bit for r in c.runs)))),
    ]
    return table("More figures", columns, configs)


def bits_table(configs: Sequence[Configuration], folder: Path | None) -> str:
    """What fewer bits save and cost: each configuration in 16 bits and below it its twins in fewer; "" without any."""
    pairs: dict[int, BitsPair] = {}
    shown: list[Configuration] = []
    for sixteen, few in families(pairs_of(configs, folder)):
        shown += [sixteen, *(pair.few for pair in few)]
        pairs |= {pair.few.number: pair for pair in few}
    if not shown:
        return ""

    def of(read: Callable[[BitsPair], Cell]) -> Callable[[Configuration], Cell]:
        return lambda config: read(pairs[config.number]) if config.number in pairs else ("", None)

    columns = [
        *_names(),
        Column("In all", "", of(lambda pair: (pair.in_all, pair.in_all)), style="words wide"),
        Column("Accuracy", "95 % interval", _accuracy, "descending"),
        Column("Change", "points, 95 % interval", of(_change), "descending"),
        Column("p", "same rows", of(lambda pair: _p(pair.comparison))),
        Column("Rows", "n", lambda c: (str(c.first.n_test), c.first.n_test)),
        *(
            Column(f.button, f"{_per(f.key, f.unit)}, × 16 bits", _with_ratio(f.key, pairs))
            for f in FOOTPRINTS.values()
        ),
        Column("Weights", "bytes per parameter", _mean(lambda r: r.bytes_per_parameter, digits=2)),
    ]
    return table("What the bits cost", columns, shown, in_order=False)


def _change(pair: BitsPair) -> Cell:
    points = pair.comparison.points
    ends = "" if pair.interval is None else f" ({100 * pair.interval[0]:+.1f} to {100 * pair.interval[1]:+.1f})"
    return f"{points:+.1f}{ends}", points


def _with_ratio(key: str, pairs: Mapping[int, BitsPair]) -> Callable[[Configuration], Cell]:
    footprint = FOOTPRINTS[key]

    def cell(config: Configuration) -> Cell:
        value, pair = config.mean(footprint.of), pairs.get(config.number)
        if value is None:
            return _UNKNOWN
        ratio = pair.ratio(key) if pair else None
        words = [text.rounded(value), f"× {ratio:.2f}" if ratio else ""]
        if key == "energy_j_per_1000_rows" and config.first.energy_origin:
            words.append(f"({text.clean(config.first.energy_origin, 20)})")
        return " ".join(word for word in words if word), value

    return cell


def table(title: str, columns: Sequence[Column], configs: Sequence[Configuration], *, in_order: bool = True) -> str:
    """A sortable HTML table: headings are buttons, cells carry what they are sorted by, unknown stays last.

    `in_order` says whether the rows come sorted by the first column.
    """
    head = "".join(_heading(column, in_order and i == 0) for i, column in enumerate(columns))
    body = "".join(f"<tr{' class=floor' if c.is_floor else ''}>{_row(columns, c)}</tr>" for c in configs)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text.escape(title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column, sorted_now: bool) -> str:
    unit = f"<small>{text.escape(column.unit)}</small>" if column.unit else ""
    sort = "ascending" if sorted_now else "none"
    button = f'<button type="button"><span>{text.escape(column.heading)}</span>{unit}</button>'
    return f'<th scope="col" class="{column.style}" aria-sort="{sort}" data-first="{column.first}">{button}</th>'


def _row(columns: Sequence[Column], config: Configuration) -> str:
    cells = []
    for column in columns:
        shown, order = column.cell(config)
        key = "" if order is None else text.escape(order)
        tag = 'th scope="row"' if "name" in column.style else "td"
        cells.append(f'<{tag} class="{column.style}" data-v="{key}">{text.escape(shown)}</{tag[:2]}>')
    return "".join(cells)


def _names() -> list[Column]:
    return [
        Column("No.", "", lambda c: (str(c.number), c.number), style="number"),
        Column("Configuration", "", _name, style="words name"),
    ]


def _name(config: Configuration) -> Cell:
    n = len(config.runs)
    return config.name + (f", {n} seeds" if n > 1 else ""), config.name


def _mean(read: Callable[[Run], float | None], scale: float = 1.0, digits: int = 1) -> Callable[[Configuration], Cell]:
    def cell(config: Configuration) -> Cell:
        value = config.mean(read)
        return _UNKNOWN if value is None else (f"{value * scale:.{digits}f}", value)

    return cell


def _accuracy(config: Configuration) -> Cell:
    shares = [run.accuracy for run in config.runs]
    if len(shares) == 1:
        run = config.first
        return text.with_interval(run.accuracy, run.accuracy_low, run.accuracy_high), config.accuracy
    spread = f"{100 * min(shares):.1f} to {100 * max(shares):.1f}"
    return f"{text.percent(config.accuracy)} ({spread})", config.accuracy


def _points(comparison: Comparison | None) -> Cell:
    return _UNKNOWN if comparison is None else (f"{comparison.points:+.1f}", comparison.points)


def _p(comparison: Comparison | None) -> Cell:
    if comparison is None or not comparison.known:
        return _UNKNOWN
    known = sorted(comparison.known)
    words = text.p_value(known[0]).removeprefix("p ").removeprefix("= ")
    if len(known) > 1:
        words = f"{sum(p < ALPHA for p in known)}/{len(known)} < {ALPHA}"
    return words, known[len(known) // 2]


def _backend(config: Configuration) -> Cell:
    run = config.first
    words = ", ".join(text.clean(part, 30) for part in (run.backend, run.scheme) if part)
    return (words, words) if words else _UNKNOWN


def facts(runs: Sequence[Run]) -> str:
    """How the figures came about: machine, versions, data, seeds, revisions, origins."""
    entries = [
        ("Machine", _distinct(_machine(run.machine) for run in runs)),
        ("Versions", _distinct(", ".join(f"{k} {v}" for k, v in sorted(run.versions.items())) for run in runs)),
        ("Data", _distinct(f"{run.task}, licence {run.licence}, SHA-256 {run.data_sha256}" for run in runs)),
        ("Rows", _distinct(f"{run.n_train} for training, {run.n_test} for testing" for run in runs)),
        ("Split", _distinct(map(_split, runs))),
        ("Seeds", [", ".join(map(str, sorted({run.seed for run in runs})))]),
        ("Models", _distinct(f"{run.model}, revision {run.revision or 'unknown'}" for run in runs if run.model)),
        ("Origin of the figures", _origins(runs)),
        ("Energy", _distinct(run.energy_origin or "not known" for run in runs)),
        (
            "Uncertainty",
            ["Accuracy and recall: Wilson's 95 % interval. Comparisons: McNemar's exact test, same rows."],
        ),
    ]
    shown = [f"<dt>{name}</dt><dd>{'<br>'.join(map(text.escape, lines))}</dd>" for name, lines in entries if lines]
    return f'<dl class="card">{"".join(shown)}</dl>'


def _split(run: Run) -> str:
    """Who split the rows, and what the leak guard said."""
    if run.split is None:
        return "the leak guard was not asked"
    who = "given with the data" if run.split == "given" else "by seed, duplicates and near-duplicates on one side"
    found = "no test row" if not run.leaked_test_rows else f"{run.leaked_test_rows} of {run.n_test} test rows"
    return f"{who}; by the leak guard {found} stands in training"


def _distinct(lines: Any) -> list[str]:
    return [text.clean(line, 600) for line in dict.fromkeys(lines) if line]


def _machine(machine: dict[str, Any]) -> str:
    parts = []
    for key, value in machine.items():
        name = key.removesuffix("_bytes").replace("_", " ")
        if key.endswith("_bytes") and isinstance(value, (int, float)):
            value = f"{value / 1e9:.1f} GB"
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        if value not in (None, ""):
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _origins(runs: Sequence[Run]) -> list[str]:
    """One line an origin: "estimated: energy j per 1000 rows"."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for figure, origin in run.origins.items():
            found[str(origin)].add(figure.replace("_", " "))
    lines = [f"{origin}: {', '.join(sorted(names))}" for origin, names in sorted(found.items(), reverse=True)]
    n = sum(is_recorded(run) for run in runs)
    return lines + ([f"{n} of {len(runs)} runs were recorded earlier, on the machine named above"] if n else [])
