"""Tuner, playground and workbench in JupyterLab, in a real Chromium: driven by role and keyboard, light and dark, 1280
and 800 pixels wide; hostile names stay text, nothing goes out, and axe-core finds no serious violation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
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
from sample_runs import HOSTILE
from tuning_rows import LABELS, TEXTS

from slmkit.assets import ModelSource

pytest.importorskip("anywidget")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = IN_CHROMIUM
ROWS = "<img src=x onerror=document.title='owned'>.csv"
WORDS = ["prize", "lunch", "train", "flower", "card", "letter", "phone", "news"]
PARTS = ["Models", "Data", "Label", "Tune", "Try", "Costs", "Flag"]
LONG_MS = 120_000


def cells(model: Path) -> dict[str, list[str]]:
    """The notebooks by name."""
    return {
        "tune": [
            f"from slmkit_widgets import Tuner\nTuner({str(model)!r}, {ROWS!r}, 'tuned', epochs=3000, backend='bnb')"
        ],
        "try": [
            "from slmkit_widgets import Playground\nimport slmkit, pandas as pd\n"
            f"frame = pd.read_csv({ROWS!r})\n"
            "slmkit.FloorClassifier().fit(list(frame['text']), list(frame['label'])).save('floor')",
            f"Playground([{str(model)!r}, 'dummy'], text='Is this fraud?', max_new_tokens=30)",
            "Playground(['floor', 'dummy'], 'classify', text='<img/src=x/onerror=alert(1)> claim your prize')",
        ],
        "bench": ["from slmkit_widgets import Workbench", "Workbench('smollm2-135m-instruct', 'fraud_messages')"],
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_chat_decoder: ModelSource) -> Iterator[tuple[str, str]]:
    work = tmp_path_factory.mktemp("work")
    texts = [f"{text} {a} {b}" for text, (a, b) in zip(TEXTS, [(a, b) for a in WORDS for b in WORDS], strict=False)]
    labels = [HOSTILE if label == "spam" else label for label in LABELS]
    pd.DataFrame({"text": [HOSTILE, *texts[1:]], "label": labels}).to_csv(work / ROWS, index=False)
    for name, sources in cells(tiny_chat_decoder.folder).items():
        write_notebook(work / f"{name}.ipynb", sources)
    with serving(tmp_path_factory.mktemp("home"), work) as address:
        yield address


def test_train_watch_cancel_and_resume_with_the_keyboard(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect, view = sync_api.expect, opened(lab, page, "tune")
    start, said = view.get_by_role("button", name="Start", exact=True), view.get_by_role("status")
    expect(start).to_be_visible(timeout=LONG_MS)
    start.focus()
    view.keyboard.press("Enter")
    expect(said.filter(has_text="Tuning:")).to_be_visible(timeout=LONG_MS)
    bar = view.get_by_role("progressbar", name="Progress of the tuning")
    assert 0 <= bar.evaluate("e => e.value") < 1
    expect(view.get_by_role("img", name="Loss:")).to_be_visible()
    expect(view.get_by_text("tokens/s").first).to_contain_text("of memory at most")
    view.keyboard.press("Enter")  # still on Start
    expect(view.get_by_text("Problem: a tuning runs here already")).to_be_visible()
    problems = pictured(view, pictures, "tuner")
    start.focus()
    view.keyboard.press("Tab")
    expect(view.get_by_role("button", name="Cancel", exact=True)).to_be_focused()
    began = time.monotonic()
    view.keyboard.press("Enter")
    expect(said.filter(has_text="Stopping")).to_be_visible(timeout=1000)
    print(f"cancel was answered after {time.monotonic() - began:.2f} s")
    expect(said.filter(has_text="Stopped.")).to_be_visible(timeout=20_000)
    expect(view.get_by_text("stands half done in tuned").first).to_be_visible()
    view.keyboard.press("Tab")
    expect(view.get_by_role("button", name="Resume", exact=True)).to_be_focused()
    view.keyboard.press("Enter")
    expect(said.filter(has_text="Tuning:")).to_be_visible(timeout=LONG_MS)
    expect(view.get_by_role("button", name="Resume", exact=True)).to_be_hidden()
    view.get_by_role("button", name="Cancel", exact=True).press("Enter")
    expect(said.filter(has_text="Stopped.")).to_be_visible(timeout=20_000)
    for name, value in (("Or a task or file", "nowhere.csv"), ("Output folder", "other")):
        view.get_by_role("textbox", name=name, exact=True).fill(value)
        view.keyboard.press("Tab")
    start.press("Enter")
    expect(view.get_by_text("Problem: ").first).to_contain_text("nowhere.csv", timeout=LONG_MS)
    expect(said.filter(has_text="The tuning failed; the cause is above.")).to_be_visible()
    view.screenshot(path=pictures / "tuner-failed.png")
    unharmed(page)
    assert problems == []


def test_models_answer_and_sort_side_by_side(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect, view = sync_api.expect, opened(lab, page, "try")
    ask = view.get_by_role("button", name="Ask", exact=True)
    expect(ask).to_have_count(2, timeout=LONG_MS)
    view.get_by_role("textbox", name="Your text").first.focus()
    view.keyboard.press("Tab")
    expect(ask.first).to_be_focused()
    view.keyboard.press("Enter")
    expect(view.get_by_text("in this process now").first).to_be_visible(timeout=LONG_MS)
    told = re.compile("You: Is this fraud\\?\n\ndummy: .+")
    expect(view.get_by_role("textbox", name="Dialogue, second model").first).to_have_value(told, timeout=LONG_MS)
    problems = pictured(view, pictures, "playground-chat")
    ask.last.scroll_into_view_if_needed()
    ask.last.press("Enter")
    expect(view.get_by_role("cell", name="ham").first).to_be_visible(timeout=LONG_MS)
    expect(view.get_by_role("status").last).to_have_text("Done.", timeout=LONG_MS)
    words = view.get_by_role("button", name="Which words mattered").last
    words.press("Enter")
    expect(view.get_by_text("left out in turn").first).to_be_visible(timeout=LONG_MS)
    words.scroll_into_view_if_needed()
    unharmed(page)
    assert problems + pictured(view, pictures, "playground-classify") == []


def test_the_workbench_turns_with_arrow_keys_and_every_part_is_there(
    lab: tuple[str, str], page: Page, pictures: Path, record_property: Any
) -> None:
    expect, view = sync_api.expect, opened(lab, page, "bench")
    start = view.get_by_role("tab", name="Start", exact=True)
    expect(start).to_be_visible(timeout=LONG_MS)
    kernel_is_idle(view)
    record_property("first_paint_s", min(painted(view) for _ in range(3)))
    problems = pictured(view, pictures, "workbench")
    start.focus()
    for part in PARTS:
        view.keyboard.press("ArrowRight")
        view.keyboard.press("Enter")
        expect(view.get_by_role("tab", name=part, exact=True, selected=True)).to_be_visible()
        expect(view.get_by_text("one moment, this part is being built")).to_have_count(0, timeout=LONG_MS)
        kernel_is_idle(view)
        problems += pictured(view, pictures, f"workbench-{part.lower()}")
        view.get_by_role("tab", name=part, exact=True).focus()
    assert view.get_by_text("Problem:").count() == 0 and problems == []
    unharmed(page)


def painted(view: Any) -> float:
    """Run the last cell once more; seconds from the key to the tabs on the page."""
    old = ".jp-OutputArea-output [role=tablist]"
    view.evaluate("old => document.querySelectorAll(old).forEach((e) => (e.dataset.old = 'yes'))", old)
    began = time.monotonic()
    view.keyboard.press("Control+Enter")
    view.wait_for_selector(f"{old}:not([data-old])", timeout=LONG_MS)
    return round(time.monotonic() - began, 2)
