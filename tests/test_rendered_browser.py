"""Every executed notebook as JupyterLab shows it, in a real Chromium: pictures drawn, tables there, nothing asked of
the network, and no script of a row run. The first notebook is run by hand in `test_lab_browser`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from notebook_kernel import NOTEBOOKS, PLOTLY
from test_lab_browser import CHROMIUM, Page, kernel_is_idle, page, pictures, serving

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbformat.sign")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or set SLMKIT_CHROMIUM"),
]
NAMES = [path.stem for path in NOTEBOOKS if path.stem != "00_start_here"]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES])
def executed(request: pytest.FixtureRequest, walked: Any) -> Path:
    """A notebook with what it showed in its second pass."""
    return Path(walked(request.param).folder / f"{request.param}.ipynb")


@pytest.fixture(scope="module")
def lab(executed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """JupyterLab on the notebook alone, signed as what one ran oneself is: pictures of others are not drawn."""
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    (home / "data").mkdir()
    book = nbformat.read(executed, as_version=4)
    nbformat.write(book, work / executed.name)
    nbformat.sign.NotebookNotary(data_dir=str(home / "data")).sign(book)
    with serving(home, work) as address:
        yield address


def test_what_a_notebook_showed_is_drawn(lab: tuple[str, str], page: Page, pictures: Path, executed: Path) -> None:
    view = page.page
    view.goto(f"{lab[0]}/lab/tree/{executed.name}?token={lab[1]}")
    book = json.loads(executed.read_text(encoding="utf-8"))
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    wanted = sum(PLOTLY in output.get("data", {}) for output in outputs)
    kernel_is_idle(view)
    view.get_by_role("main").get_by_role("heading").first.hover()
    seen: set[str] = set()
    for number in range(60):
        view.wait_for_timeout(250)
        drawn = view.locator(".js-plotly-plot:visible")
        for i in range(drawn.count()):
            seen.add(drawn.nth(i).inner_text()[:200])
        view.screenshot(path=pictures / f"{executed.stem}-{number:02}.png")
        view.mouse.wheel(0, 900)
        if view.get_by_role("heading", name="If something went wrong").is_visible():
            break
    assert len(seen) >= wanted, (wanted, seen)
    assert view.title() != "owned"
    assert page.external == [], f"asked of the network: {page.external}"
    assert page.errors == [], f"errors of the page's scripts: {page.errors}"
