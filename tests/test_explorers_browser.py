"""The Pareto and the threshold explorer, each alone in a cell of JupyterLab, in a real Chromium: worked with the
keyboard, light and dark, 1280 and 800 pixels wide; hostile names stay text, and nothing goes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lab_pages import (
    IN_CHROMIUM,
    Page,
    kernel_is_idle,
    opened,
    page,
    pictured,
    pictures,
    serving,
    sync_api,
    unharmed,
    write_notebook,
)
from sample_runs import HOSTILE, N_TEST, a_floor, a_run

from slmkit.runs import Run, probability_frame, write_run

pytest.importorskip("anywidget")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = IN_CHROMIUM
LABELS = ["fraud", HOSTILE]
LONG_MS = 60_000


def written(run: Run, right: int, folder: Path) -> None:
    """A run with probabilities of its test rows, the first `right` of them right."""
    truth = [LABELS[i % 2] for i in range(N_TEST)]
    rng = np.random.default_rng(right)
    sure = rng.uniform(0.55, 0.99, N_TEST)
    fraud = np.array([p if (i % 2 == 0) == (i < right) else 1 - p for i, p in enumerate(sure)])
    write_run(run, folder, probability_frame(np.arange(N_TEST), truth, np.c_[fraud, 1 - fraud], LABELS))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    work = tmp_path_factory.mktemp("work")
    recalled = {"recall_by_class": dict.fromkeys(LABELS, 0.9), "task": HOSTILE}
    written(a_floor(84, **recalled), 84, work / "runs")
    for model, right in (("minilm", 96), (HOSTILE, 114)):
        written(a_run("embedding", model, 16, right, **recalled), right, work / "runs")
    first = "from slmkit_widgets import ParetoExplorer, ThresholdExplorer\n"
    write_notebook(work / "costs.ipynb", [f"{first}ParetoExplorer(folder='runs', recorded=False)"])
    texts = f"[{HOSTILE!r}] * {N_TEST}"
    write_notebook(work / "flag.ipynb", [f"{first}ThresholdExplorer(folder='runs', texts={texts}, positive='fraud')"])
    with serving(tmp_path_factory.mktemp("home"), work) as address:
        yield address


def test_costs_are_compared_with_the_keyboard(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect, view = sync_api.expect, opened(lab, page, "costs")
    axis = view.locator(".js-plotly-plot .xtitle").first
    expect(axis).to_contain_text("stored", ignore_case=True, timeout=LONG_MS)
    kernel_is_idle(view)
    view.get_by_role("combobox", name="Cost", exact=True).press("ArrowDown")
    expect(axis).to_contain_text("memory", ignore_case=True)
    expect(view.get_by_text("Number 1 and number 3:").first).to_be_visible()
    view.get_by_role("combobox", name="Second", exact=True).press("ArrowUp")
    expect(view.get_by_text("Number 1 and number 2:").first).to_be_visible()
    expect(view.get_by_text(re.compile(r"\b15\.0\b")).first).to_be_visible()
    problems = pictured(view, pictures, "pareto")
    unharmed(page)
    assert problems == []


def test_a_threshold_is_chosen_with_the_keyboard(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect, view = sync_api.expect, opened(lab, page, "flag")
    slide = view.get_by_role("slider", name="Move the threshold")
    expect(slide).to_be_visible(timeout=LONG_MS)
    number = view.get_by_role("spinbutton", name="Threshold", exact=True)
    expect(number).to_have_value("0.5")
    slide.focus()
    view.keyboard.press("ArrowRight")  # which JupyterLab would take to fold headings
    expect(number).to_have_value("0.501")
    view.get_by_role("spinbutton", name="Cost of a miss").fill("50")
    view.keyboard.press("Tab")
    view.get_by_role("button", name="Choose the lowest cost").press("Enter")
    expect(number).to_have_value(re.compile(r"^0\.[0-4]"))
    expect(view.get_by_text("chosen: lowest cost, 50 a miss").first).to_be_visible()
    matrix = view.locator(".js-plotly-plot").filter(has=view.locator(".heatmaplayer image")).locator(".nsewdrag")
    matrix.scroll_into_view_if_needed()
    matrix.hover(position={"x": 40, "y": 20})
    view.wait_for_timeout(300)
    matrix.click(position={"x": 44, "y": 24})  # a click counts where a movement came before it
    expect(view.locator(".annotation").filter(has_text=f"1 {HOSTILE[:8]}").first).to_be_visible()
    problems = pictured(view, pictures, "threshold")
    unharmed(page)
    assert problems == []
