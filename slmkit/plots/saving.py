"""A picture as a file: PNG and SVG for a slide or a paper, HTML to be pointed at; none of them asks the network.

kaleido draws PNG and SVG in a Chromium or Chrome that is on the machine; an HTML page holds plotly's script itself.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from slmkit import files
from slmkit.errors import InputError, MissingExtra, SlmkitError
from slmkit.plots.footprint import drop_buttons

DRAWN, PAGE = ("png", "svg"), "html"


def save(
    figure: go.Figure, path: str | Path, *, width: int | None = None, height: int | None = None, scale: float = 2.0
) -> Path:
    """Write a picture in the format that its file's name ends in.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        As the other functions of `slmkit.plots` return it.
    path : path
        .png, .svg or .html; folders on the way are made, and a file that is there is replaced in one step.
    width, height : int or None
        Pixels; None takes the picture's own, else 960 and 600. A page is as wide as its window.
    scale : float
        Dots a pixel in a PNG: 2 is sharp in print.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        Another ending, no figure, or a folder that cannot be written to.
    MissingExtra
        kaleido is not installed (PNG, SVG).
    SlmkitError
        No Chromium or Chrome is found (PNG, SVG).
    """
    target = Path(path).expanduser()
    form = target.suffix.lower().removeprefix(".")
    if form not in (*DRAWN, PAGE):
        raise InputError(f"a picture's file must end in .png, .svg or .html; got {target.name!r}")
    if not isinstance(figure, go.Figure):
        raise InputError(f"a picture must be a plotly Figure, as slmkit.plots makes them; got {type(figure).__name__}")
    drawn = _page(figure) if form == PAGE else _drawn(figure, form, width, height, scale)
    with files.on_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.aside(target) as fresh:
            fresh.write_bytes(drawn)
    return target


def _page(figure: go.Figure) -> bytes:
    page: str = figure.to_html(
        include_plotlyjs=True, include_mathjax=False, config={"responsive": True, "displaylogo": False}
    )
    return page.encode()


def _drawn(figure: go.Figure, form: str, width: int | None, height: int | None, scale: float) -> bytes:
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        extra = 'pip install -c constraints.txt -e ".[notebooks]"'
        raise MissingExtra(f"{form.upper()} files need kaleido: {extra}, or save as .html") from error
    figure = go.Figure(figure)
    if figure.layout.updatemenus:  # buttons, which nobody can press there
        drop_buttons(figure)
    size = {"width": width or figure.layout.width or 960, "height": height or figure.layout.height or 600}
    how = {"format": form, **size, "scale": scale if form == "png" else 1}
    try:
        drawn: bytes = kaleido.calc_fig_sync(figure, opts=how, kopts={"mathjax": False})  # which it would fetch
    except ChromeNotFoundError as error:
        raise SlmkitError(
            f"{form.upper()} files are drawn in Chromium or Chrome, and neither is found: install one, name it in "
            "BROWSER_PATH, or save as .html"
        ) from error
    return drawn
