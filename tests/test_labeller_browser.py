"""A person labels, explores and picks in JupyterLab with the keyboard, in a real Chromium; hostile rows stay text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_pages import IN_CHROMIUM, Page, kernel_is_idle, page, pictures, serving, sync_api, unharmed, write_notebook
from sample_runs import HOSTILE

pytest.importorskip("anywidget")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = IN_CHROMIUM
CELLS = [
    f"""import pandas as pd
from slmkit_widgets import DataExplorer, Labeller, ModelPicker

hostile = {HOSTILE!r}
texts = ["Pay the customs fee", hostile, "Lunch at noon?", "Your account is blocked"]
Labeller(texts, ["legitimate", "fraud", hostile], "labels.csv")""",
    'DataExplorer(pd.DataFrame({"text": texts * 2, "label": [hostile, "b"] * 4}))',
    "ModelPicker(bits=4)",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notebook in it."""
    folder = tmp_path_factory.mktemp("labels")
    write_notebook(folder / "labels.ipynb", CELLS)
    return folder


@pytest.fixture(scope="module")
def lab(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with serving(tmp_path_factory.mktemp("home"), work) as address:
        yield address


def labels(folder: Path) -> list[list[str]]:
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        return [[row, label] for row, _, label in list(csv.reader(file))[1:]]


def test_keys_label_in_the_notebook_and_no_row_runs(
    lab: tuple[str, str], page: Page, pictures: Path, work: Path
) -> None:
    expect, view = sync_api.expect, page.page
    view.goto(f"{lab[0]}/lab/tree/labels.ipynb?token={lab[1]}")
    kernel_is_idle(view)
    view.get_by_role("menuitem", name="Run", exact=True).click()
    view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    box = view.get_by_role("group", name="Row to label: press a key")
    expect(box).to_contain_text("Row 1: Pay the customs fee", timeout=90_000)
    box.focus()
    for key, seen in (
        ("2", "Row 2: <img src=x"),
        ("1", "Row 3:"),
        ("u", "Row 2: <img"),
        ("s", "Row 3:"),
        ("9", "Row 3:"),
    ):
        view.keyboard.press(key)
        expect(box).to_contain_text(seen)
    expect(box.get_by_role("status")).to_contain_text("1 of 4 rows labelled (legitimate 0, fraud 1")
    assert labels(work) == [["1", "fraud"], ["2", ""]]
    box.screenshot(path=pictures / "labeller-keys.png")
    view.keyboard.press("Tab")  # out of the box, to the buttons
    expect(view.get_by_role("button", name="1 legitimate")).to_be_focused()
    view.keyboard.press("Enter")
    expect(box).to_contain_text("Row 4:")
    assert labels(work)[-1] == ["3", "legitimate"]
    view.screenshot(path=pictures / "labeller.png")
    expect(view.get_by_role("button", name="Look for leaks")).to_be_attached(timeout=60_000)
    leaks = view.get_by_role("button", name="Look for leaks")
    leaks.scroll_into_view_if_needed()
    leaks.press("Enter")
    expect(view.get_by_role("cell", name="repeat an earlier row").first).to_be_visible()
    view.screenshot(path=pictures / "explorer.png")
    model = view.get_by_role("combobox", name="Model", exact=True)
    model.scroll_into_view_if_needed()
    model.select_option("minilm")
    expect(view.get_by_text("MiniLM").first).to_be_visible()
    view.screenshot(path=pictures / "picker.png")
    unharmed(page)
