"""Executed notebooks as JupyterLab shows them, in a real Chromium: pictures drawn, tables there, nothing asked of the
network, and no script of a row run. The first notebook is run by hand in `test_lab_browser`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_pages import (
    IN_CHROMIUM,
    ROOT,
    Page,
    kernel_is_idle,
    page,
    pictures,
    serving,
    shown_as,
    sync_api,
    unharmed,
)
from notebook_kernel import PLOTLY

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbformat.sign")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = [pytest.mark.real, *IN_CHROMIUM]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[1-9]*.ipynb"))  # their own tests: same group


WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES])
def executed(request: pytest.FixtureRequest, walked: Any) -> Path:
    """A notebook with what it showed in its second pass."""
    return Path(walked(request.param).folder / f"{request.param}.ipynb")


@pytest.fixture(scope="module")
def lab(executed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """JupyterLab on the notebook alone, signed as what one ran oneself is, with all cells drawn at once."""
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    (home / "data").mkdir()
    book = nbformat.read(executed, as_version=4)
    nbformat.write(book, work / executed.name)
    nbformat.sign.NotebookNotary(data_dir=str(home / "data")).sign(book)
    settings = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}), encoding="utf-8")
    with serving(home, work) as address:
        yield address


def test_what_a_notebook_showed_is_drawn(lab: tuple[str, str], page: Page, pictures: Path, executed: Path) -> None:
    view, expect = page.page, sync_api.expect
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    written = [cell for cell in cells if cell["cell_type"] == "markdown"]
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    view.goto(f"{lab[0]}/lab/tree/{executed.name}?token={lab[1]}", timeout=120_000)
    kernel_is_idle(view)
    figures = view.locator(".js-plotly-plot")
    expect(figures).to_have_count(sum(PLOTLY in data for data in shown), timeout=120_000)
    for i in range(figures.count()):
        expect(figures.nth(i)).to_contain_text(re.compile(r"\d"))  # ticks and names are drawn
    expect(view.get_by_role("table")).to_have_count(
        sum("".join(data.get("text/html", "")).count("<table") for data in shown)
        + sum(len(re.findall(r"^\|\s*:?---", "".join(cell["source"]), re.M)) for cell in written)
    )
    if not any(WIDGET in data for data in shown):
        expect(view.get_by_text("Error displaying widget")).to_have_count(0)
    photograph(view, pictures / f"{executed.stem}-light")
    view.keyboard.press("Control+b")  # the file browser takes a third of a narrow page
    shown_as(view, "dark", 800)
    photograph(view, pictures / f"{executed.stem}-dark")
    unharmed(page)


def photograph(view: Any, stem: Path) -> None:
    """The whole notebook, a screen at a time."""
    view.get_by_role("heading", level=1).first.scroll_into_view_if_needed()
    view.get_by_role("heading", level=1).first.hover()
    end = view.get_by_role("heading", name="If something went wrong")
    for number in range(90):
        view.wait_for_timeout(200)
        view.screenshot(path=stem.with_name(f"{stem.name}-{number:02}.png"))
        if (box := end.bounding_box()) and box["y"] < 600:
            return
        view.mouse.wheel(0, 900)
    raise AssertionError("the end of the notebook was not reached")
