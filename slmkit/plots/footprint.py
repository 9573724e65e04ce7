"""Picture of runs: accuracy against a footprint the reader switches.

Colours are those of Okabe & Ito (2008), told apart with every common colour blindness; the method also has its own
marker, the bits their own filling, and each configuration its number, so that nothing rests on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.errors import InputError
from slmkit.plots.scores import (
    FAINT,
    FONT_SIZE,
    LINE,
    NAME_LIMIT,
    base_layout,
    n_test,
    one_task,
    wrapped,
)
from slmkit.runs import Run
from slmkit.runs.configurations import (
    FOOTPRINTS,
    Configuration,
    Footprint,
    as_runs,
    configurations,
    footprint_of,
    is_recorded,
    machine_name,
)

STYLES = {  # method -> colour, marker
    "floor": ("#7a7a7a", "x"),
    "embedding": ("#009E73", "square"),
    "prompt": ("#D55E00", "diamond"),
    "lora": ("#0072B2", "circle"),
}
_SPARE_STYLES = (("#CC79A7", "triangle-up"), ("#E69F00", "triangle-down"), ("#56B4E9", "pentagon"))
_FILLINGS = {8: "-open-dot", 4: "-open"}
LOG_FROM = 10.0  # a footprint that spans more than this factor gets a logarithmic axis


def accuracy_vs_footprint(
    runs: Iterable[Run] | pd.DataFrame, footprint: str = "stored_bytes", recorded: Iterable[Run] | pd.DataFrame = ()
) -> go.Figure:
    """Accuracy with its 95 % interval against what a model costs, with buttons for the four costs.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
        Of one task. Several seeds are several markers of one legend entry.
    footprint : str
        The cost shown first: "stored_bytes", "peak_ram_bytes" (device memory where a device was used),
        "latency_p50_s" or "energy_j_per_1000_rows". A run without that figure is left out and named in the small
        title line.
    recorded : iterable of Run or frame
        Runs measured earlier on another machine, drawn fainter and named so.

    Returns
    -------
    plotly Figure
        Costs in MB, ms or J; accuracy in percent; the floor as a line; the Pareto front of the means over seeds.

    Raises
    ------
    InputError
        No run, several tasks, an unknown footprint, or one that no run has.
    """
    chosen = footprint_of(footprint)
    groups = configurations(one_task([*as_runs(runs), *_as_recorded(recorded)]))
    views = [f for f in FOOTPRINTS.values() if any(c.mean(f.of) is not None for c in groups)]
    if chosen not in views:
        known = ", ".join(f.key for f in views) or "none"
        raise InputError(f"no run has the footprint {footprint!r}; footprints these runs have: {known}")
    return drawn(groups, views, chosen)


def drawn(groups: Sequence[Configuration], views: Sequence[Footprint], chosen: Footprint) -> go.Figure:
    """Configurations against one of several costs, with a button for each; `chosen` is shown first."""
    parts = [_view_traces(groups, view) for view in views]
    counts = [len(part) for part in parts]
    layouts = [_view_layout(groups, view) for view in views]
    shown = [[view is owner for owner, n in zip(views, counts, strict=True) for _ in range(n)] for view in views]
    start = list(views).index(chosen)
    figure = go.Figure([trace for part in parts for trace in part])
    for trace, visible in zip(figure.data, shown[start], strict=True):
        trace.visible = visible
    figure.update_layout(_layout(groups))
    figure.update_layout(layouts[start])
    buttons = [
        {"label": view.button, "method": "update", "args": [{"visible": v}, layout]}
        for view, v, layout in zip(views, shown, layouts, strict=True)
    ]
    figure.update_layout(updatemenus=[{**_MENU, "buttons": buttons, "active": start}])
    return _with_floor(figure, groups)


def drop_buttons(figure: go.Figure) -> None:
    """Take the buttons and their room out of a picture of `accuracy_vs_footprint`, for a page with its own."""
    room = 46  # pixels
    layout = figure.layout
    layout.updatemenus = ()
    share = layout.height / (layout.height - room)  # the legends stand at a share of the height
    places = {"legend_y": layout.legend.y * share, "legend2_y": layout.legend2.y * share}
    figure.update_layout(height=layout.height - room, margin_t=layout.margin.t - room, **places)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points (cost, score) that no other point beats, by rising cost.

    A point is beaten by one that costs no more and scores no less, and differs in one of the two. Of equal points the
    first stays.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _as_recorded(runs: Iterable[Run] | pd.DataFrame) -> list[Run]:
    listed = list(runs) if not isinstance(runs, pd.DataFrame) else as_runs(runs)
    return [replace(r, origins={**dict.fromkeys(r.origins, "recorded"), "accuracy": "recorded"}) for r in listed]


def _style(groups: Sequence[Configuration], config: Configuration) -> tuple[str, str]:
    """Colour and marker of a configuration; methods this file does not know share the spare ones in order of name."""
    method, bits = config.first.method, config.first.bits
    others = sorted({c.first.method for c in groups} - set(STYLES))
    colour, marker = STYLES[method] if method in STYLES else _SPARE_STYLES[others.index(method) % len(_SPARE_STYLES)]
    return colour, marker + _FILLINGS.get(bits or 16, "")


@dataclass(frozen=True)
class _Points:
    """The markers of one configuration in one view: runs that know the figure, their x, and where the number goes."""

    runs: list[Run]
    x: list[float]


def _points(config: Configuration, view: Footprint) -> _Points:
    known = [(run, x) for run in config.runs if (x := view.of(run)) is not None]
    return _Points([run for run, _ in known], [x for _, x in known])


def _view_traces(groups: Sequence[Configuration], view: Footprint) -> list[go.Scatter]:
    spots = [(x, c.accuracy) if (x := c.mean(view.of)) is not None else None for c in groups]
    known = [(c, spot) for c, spot in zip(groups, spots, strict=True) if spot is not None]
    front = pareto([spot for _, spot in known])
    places = _label_places([spot for _, spot in known])
    line = go.Scatter(
        x=[known[i][1][0] for i in front],
        y=[100 * known[i][1][1] for i in front],
        mode="lines",
        line={"shape": "hv", "color": LINE, "width": 2, "dash": "dot"},
        name="Pareto front: nothing better costs less",
        hoverinfo="skip",
    )
    traces = [line] + [_markers(groups, c, view, place) for (c, _), place in zip(known, places, strict=True)]
    for trace in traces[math.ceil(len(traces) / _columns(groups)) :]:
        trace.legend = "legend2"
    return traces


def _columns(groups: Sequence[Configuration]) -> int:
    """Columns of names below the picture: two where each name fits into half of 616 pixels."""
    return 2 if max(len(f"{c.number} · {c.name}") for c in groups) <= HALF_LINE else 1


def _markers(groups: Sequence[Configuration], config: Configuration, view: Footprint, place: str) -> go.Scatter:
    colour, marker = _style(groups, config)
    points = _points(config, view)
    runs = points.runs
    labelled = runs.index(max(runs, key=lambda run: run.accuracy))
    filled = not marker.endswith(("-open", "-open-dot"))
    size = 15 if len(runs) == 1 else 11
    return go.Scatter(
        x=points.x,
        y=[100 * run.accuracy for run in runs],
        mode="markers+text",
        error_y={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": colour,
            "array": [100 * (run.accuracy_high - run.accuracy) for run in runs],
            "arrayminus": [100 * (run.accuracy - run.accuracy_low) for run in runs],
        },
        marker={"symbol": marker, "size": size, "color": colour, "line": {"width": 0 if filled else 3}},
        opacity=0.5 if is_recorded(config.first) else 1.0,
        text=[f"<b>{config.number}</b>" if i == labelled else "" for i in range(len(runs))],
        textposition=place,
        textfont={"size": FONT_SIZE},
        name=text.escape(f"{config.number} · {config.name}", NAME_LIMIT),
        hovertext=[hover(config, run) for run in runs],
        hoverinfo="text",
    )  # fmt: skip


_PLACES = {"top right": (1, 1), "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1)}


def _label_places(spots: Sequence[tuple[float, float]]) -> list[str]:
    """Beside each marker the corner that is farthest from every other marker and from the numbers placed so far."""
    costs = [math.log(max(x, 1e-12)) if is_log([s[0] for s in spots]) else x for x, _ in spots]
    flat = [(_unit(x, costs) * 16, _unit(y, [s[1] for s in spots]) * 8) for x, (_, y) in zip(costs, spots, strict=True)]
    taken, places = list(flat), []
    for i, (x, y) in enumerate(flat):

        def room(corner: tuple[int, int], at: tuple[float, float] = (x, y), own: int = i) -> float:
            spot = (at[0] + 0.45 * corner[0], at[1] + 0.45 * corner[1])
            return min([math.dist(spot, other) for j, other in enumerate(taken) if j != own], default=9.0)

        best = max(_PLACES, key=lambda place: min(room(_PLACES[place]), 1.2))
        taken.append((x + 0.45 * _PLACES[best][0], y + 0.45 * _PLACES[best][1]))
        places.append(best)
    return places


def _unit(value: float, values: Sequence[float]) -> float:
    span = max(values) - min(values)
    return (value - min(values)) / span if span else 0.5


def hover(config: Configuration, run: Run) -> str:
    """The facts of a run, as lines for plotly: everything from outside is escaped."""
    bits = f"{run.bits} bits, {text.clean(run.scheme, 30) or 'no scheme'}" if run.bits else "no language model"
    known = [(f, x) for f in FOOTPRINTS.values() if (x := f.of(run)) is not None]
    costs = [f"{f.title}: {text.rounded(x)} {f.unit}{_origin(run, f)}" for f, x in known]
    lines = [
        f"{config.number} · {config.name}",
        f"Accuracy {text.with_interval(run.accuracy, run.accuracy_low, run.accuracy_high)}, n = {run.n_test}",
        f"{bits}; backend {text.clean(run.backend, 20) or 'none'}; seed {run.seed}; {run.n_train} training rows",
        *costs,
        f"{'Recorded' if is_recorded(run) else 'Measured'} on {machine_name(run.machine)}",
    ]
    head, *rest = [text.escape(line, 160) for line in lines]
    return "<br>".join([f"<b>{head}</b>", *rest])


def _origin(run: Run, view: Footprint) -> str:
    if view.key == "energy_j_per_1000_rows" and run.energy_origin:
        return f" ({text.clean(run.energy_origin, 20)})"
    origin = run.origins.get(view.key, "measured")
    where = ", on the device" if view.key == "peak_ram_bytes" and run.peak_device_bytes is not None else ""
    return f" ({origin}{where})" if origin != "measured" or where else ""


def is_log(values: Sequence[float]) -> bool:
    """Whether costs span enough for a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) > LOG_FROM


def _view_layout(groups: Sequence[Configuration], view: Footprint) -> dict[str, Any]:
    """What changes with the footprint, axis and title lines, in the flat names that plotly's buttons need."""
    values = [x for c in groups for run in c.runs if (x := view.of(run)) is not None]
    missing = [str(c.number) for c in groups if c.mean(view.of) is None]
    subtitle = f"{n_test(groups)}; bars are 95 % intervals"
    if missing:
        subtitle += f". Not shown, {view.button.lower()} unknown: number {', '.join(missing)}"
    low, high, ticks = axis_range(values)
    log = is_log(values)
    return {
        "title.text": f"Accuracy against {view.title[0].lower()}{view.title[1:]}",
        "title.subtitle.text": wrapped(f"{text.clean(groups[0].first.task, 60)}: {subtitle}"),
        "xaxis.title.text": f"{view.title} ({view.unit}){', logarithmic' if log else ''}",
        "xaxis.type": "log" if log else "linear",
        "xaxis.range": [math.log10(low), math.log10(high)] if log else [low, high],
        "xaxis.tickvals": ticks,
        "xaxis.ticktext": [f"{tick:,.10g}".replace(",", " ") for tick in ticks],
    }


def axis_range(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Range of the axis with room at both ends, and round ticks in it."""
    low, high = min(values), max(values)
    if is_log(values):
        room = (high / low) ** 0.07
        low, high = low / room, high * room
        decades = math.log10(high / low)
        steps = (1,) if decades > 4 else (1, 3) if decades > 2.5 else (1, 2, 5)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return low, high, [t for e in powers for s in steps if low <= (t := float(f"{s}e{e}")) <= high]
    high = high * 1.1 if high > 0 else 1.0
    magnitude = 10.0 ** math.floor(math.log10(high) - 1)
    step = next(s * magnitude for s in (1, 2, 5, 10, 20) if high / (s * magnitude) <= 8)
    return -0.03 * high, high, [round(i * step, 12) for i in range(int(high / step) + 1)]


_Y_TITLE = {  # plotly 7.1 draws an axis title inside the picture when two legends stand below it
    "text": "Accuracy (%)", "textangle": -90, "showarrow": False, "font": {"size": 17},
    "x": 0, "xref": "paper", "xanchor": "center", "xshift": -60, "y": 0.5, "yref": "paper", "yanchor": "middle",
}  # fmt: skip
HALF_LINE = 38  # characters of a name
_LEGEND = {  # columns below the picture, which is read down and not across
    "xref": "container", "yref": "container", "xanchor": "left", "yanchor": "top", "font": {"size": 13},
    "itemsizing": "trace", "bgcolor": "rgba(0,0,0,0)",
}  # fmt: skip
_MENU = {
    "type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
    "pad": {"b": 8}, "showactive": True, "font": {"size": 14},
}  # fmt: skip


def _layout(groups: Sequence[Configuration]) -> dict[str, Any]:
    lows = [100 * run.accuracy_low for c in groups for run in c.runs]
    highs = [100 * run.accuracy_high for c in groups for run in c.runs]
    room = 0.06 * max(max(highs) - min(lows), 2.0)
    legend = 16 + 21 * math.ceil((len(groups) + 1) / _columns(groups))  # pixels
    height = 150 + 400 + 70 + legend
    return {
        **base_layout("", ""),
        "height": height,
        "margin": {"l": 76, "r": 104, "t": 150, "b": 70 + legend, "autoexpand": False},
        "xaxis": {"gridcolor": FAINT, "zeroline": False, "ticks": "outside", "tickcolor": FAINT},
        "yaxis": {
            "range": [min(lows) - room, min(max(highs) + room, 102.5)], "gridcolor": FAINT, "zeroline": False,
        },
        "annotations": [_Y_TITLE],
        "legend": {**_LEGEND, "x": 0.02, "y": (legend - 6) / height},
        "legend2": {**_LEGEND, "x": 0.51, "y": (legend - 6) / height},
    }  # fmt: skip


def _with_floor(figure: go.Figure, groups: Sequence[Configuration]) -> go.Figure:
    """The floor as a line over the whole width; its label stands in the right margin, where no marker can be."""
    floor = next((c for c in groups if c.is_floor), None)
    if floor is not None:
        y = 100 * floor.accuracy
        figure.add_hline(y=y, line={"color": LINE, "width": 2, "dash": "dash"}, layer="below")
        label = {"x": 1, "xref": "paper", "xanchor": "left", "y": y, "yanchor": "middle", "xshift": 6, "align": "left"}
        figure.add_annotation(text=f"floor<br>{text.percent(floor.accuracy)}", showarrow=False, **label)
    return figure
