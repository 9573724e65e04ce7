"""A person opens the first notebook in JupyterLab and runs it, in a real Chromium driven by role; nothing goes out.

Its study was run before (`start_here`), so that this pass finds the finished runs, as on a second day.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_pages import IN_CHROMIUM, ROOT, STUDY_MS, Page, kernel_is_idle, page, pictures, serving, sync_api, unharmed

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = [pytest.mark.real, *IN_CHROMIUM]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, start_here: Any) -> Iterator[tuple[str, str]]:
    """A JupyterLab server on a copy of the notebooks, with settings of its own; its address and token."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, work)
    shutil.copytree(start_here.folder / "runs", work / "runs")
    with serving(home, work) as address:
        yield address


def test_start_here_shows_figure_and_table(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect = sync_api.expect
    view = page.page
    view.goto(f"{lab[0]}/lab/tree/00_start_here.ipynb?token={lab[1]}")
    expect(view.get_by_role("heading", name="Start here")).to_be_visible(timeout=60_000)
    kernel_is_idle(view)
    view.get_by_role("menuitem", name="Run", exact=True).click()
    view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    scroll_to(view, "A first picture")
    expect(view.locator(".js-plotly-plot").first).to_be_visible(timeout=STUDY_MS)
    scroll_to(view, "The picture")
    kernel_is_idle(view)
    figure = view.locator(".js-plotly-plot").filter(has_text="LoRA").first
    expect(figure).to_be_visible()
    expect(figure.get_by_text("floor").first).to_be_visible()
    figure.scroll_into_view_if_needed()
    figure.screenshot(path=pictures / "00_start_here-figure.png")
    scroll_to(view, "The table")
    expect(view.get_by_text("combinations failed").last).to_contain_text("0 of 7 combinations failed")
    table = view.get_by_role("table").filter(has_text="p_vs_floor")
    expect(table).to_be_visible()
    assert table.get_by_role("row").count() == 1 + 7
    view.screenshot(path=pictures / "00_start_here-table.png")
    scroll_to(view, "Which class is missed?")
    expect(view.get_by_text("Traceback (most recent call last)")).to_have_count(0)
    view.screenshot(path=pictures / "00_start_here-end.png")
    unharmed(page)


def scroll_to(view: Any, heading: str) -> None:
    """Bring a heading into view; cells far from it need not be drawn yet, so scroll until it is there."""
    target = view.get_by_role("heading", name=heading)
    view.get_by_role("main").get_by_role("heading").first.hover()
    for _ in range(100):
        if target.count():
            target.first.scroll_into_view_if_needed()
            return
        view.mouse.wheel(0, 500)
        view.wait_for_timeout(100)
    raise AssertionError(f"no heading {heading!r} in the notebook")
