"""Picker, explorer and labeller as a person uses them: controls are set, buttons clicked, and the state is asserted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pushed import Pushed, assert_only_text
from pushed import pushed as pushed
from sample_runs import HOSTILE

from slmkit import footprint

w = pytest.importorskip("ipywidgets")

from slmkit_widgets import DataExplorer, Labeller, ModelPicker, keys, labelled  # noqa: E402
from slmkit_widgets.base import View  # noqa: E402

TEXTS = ["Pay the customs fee now", "Lunch at noon?", "Your account is blocked"]
LABELS = ["legitimate", "fraud"]
BUILD_BYTES = 125_000  # an eighth of what a widget may send


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 2 GB without a graphics card."""
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "2GB")
    monkeypatch.setattr(footprint, "device_memory", lambda: None)


@pytest.fixture(params=["picker", "explorer", "labeller"])
def view(request: pytest.FixtureRequest, tmp_path: Path, pushed: Pushed) -> Iterator[View]:
    made = {
        "picker": lambda: ModelPicker(bits=4),
        "explorer": lambda: DataExplorer("fraud_messages"),
        "labeller": lambda: Labeller(TEXTS, LABELS, tmp_path / "labels.csv"),
    }[request.param]()
    yield made
    made.close()


def parts(view: Any) -> Iterator[Any]:
    """A widget and all that is in it."""
    yield view
    for child in getattr(view, "children", ()):
        yield from parts(child)


def test_little_is_sent_and_every_control_has_a_name_of_its_own(view: View, pushed: Pushed) -> None:
    assert 5_000 < pushed.n_bytes < BUILD_BYTES
    kinds = (w.Button, w.Text, w.Textarea, w.Dropdown, w.Checkbox, w.IntText)
    names = [part.description for part in parts(view) if isinstance(part, kinds)]
    assert len(names) >= 8 and all(names) and len(set(names)) == len(names)


def test_of_ten_thousand_rows_a_page_is_sent_at_a_time(pushed: Pushed) -> None:
    frame = pd.DataFrame({"text": [f"{i} " + "word " * 200 for i in range(10_000)], "label": list("ab") * 5_000})
    view = DataExplorer(frame)
    assert pushed.n_bytes < BUILD_BYTES
    pushed.clear()
    view.next.click()
    assert "page 2 of 500" in said(view) and 2_000 < pushed.n_bytes < 30_000
    pushed.clear()
    view.find.value = "999"
    assert "19 of 10,000 rows" in said(view) and pushed.n_bytes < 30_000
    view.close()


def test_closing_leaves_nothing_in_the_register(tmp_path: Path) -> None:
    before = set(w.widget._instances)
    frame = pd.DataFrame({"text": TEXTS * 2, "label": LABELS * 3})
    views = [ModelPicker(), DataExplorer(frame), Labeller(TEXTS, LABELS, tmp_path / "labels.csv")]
    assert len(set(w.widget._instances) - before) > 50
    for made in views:
        made.close()
    assert set(w.widget._instances) <= before


def table(view: View, column: str) -> str:
    """The text of the output whose table has a column of that name."""
    outputs = [part.outputs for part in parts(view) if isinstance(part, w.Output)]
    found = [output["data"]["text/plain"] for shown in outputs for output in shown]
    return next(text for text in found if column in text.splitlines()[0])


def said(view: View) -> str:
    return " ".join(part.value for part in parts(view) if isinstance(part, w.Label))


def test_the_picker_answers_what_is_set_and_keeps_what_is_chosen() -> None:
    view = ModelPicker(bits=4)
    view.find.value = "llama-2"
    shown = table(view, "needs as asked")
    assert "llama-2-7b-chat" in shown and "smollm2" not in shown
    view.name.value = "llama-2-7b"
    assert "does NOT fit in 2.00 GB" in said(view) and "bits=4" in view._code.value
    view.limit.value = "lots"
    assert "Problem: a memory size must look like" in said(view) and view.limit.value == ""
    view.limit.value = "16GB"
    assert "Problem" not in said(view) and "it fits in 16.00 GB" in said(view)
    view.method.value = "qlora"
    assert "method='qlora'" in view._code.value and "optimizer" in table(view, "megabytes")
    view.find.value = ""
    assert view.name.value == view.other.value == "llama-2-7b"
    view.other.value = "no such model"
    assert "unknown model 'no such model'" in said(view) and view.name.value == "no such model"
    view.name.value = "minilm"
    assert view.other.value == "minilm" and "method='qlora'" in view._code.value
    view.close()


def test_a_choice_of_nothing_in_particular_is_shown_as_one() -> None:
    picker, explorer = ModelPicker(), DataExplorer("fraud_messages")
    assert (picker.bits.label, picker.backend.label) == ("as usual", "the best that runs here")
    assert (explorer.label.label, explorer.part.label) == ("all rows", "all rows")
    explorer.label.value = "fraud"
    explorer.label.index = 0  # as the browser sends it
    assert (explorer.model.label, explorer.label.index, explorer.label.label) == (None, 0, "all rows")
    picker.bits.value = 4
    picker.bits.index = 0
    assert (picker.model.bits, picker.bits.label) == (None, "as usual")
    picker.close()
    explorer.close()


def test_the_gate_is_there_only_where_terms_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    view = ModelPicker(name="minilm")
    assert view.accept.layout.display == "none"
    view.name.value = "gemma-3-270m"
    assert view.accept.layout.display == "" and "To be accepted once" in said(view)
    view.accept.click()
    assert view.accept.layout.display == "none" and "Accepted on this machine" in said(view)
    view.close()


def test_the_explorer_opens_turns_filters_and_survives_a_wrong_name(tmp_path: Path) -> None:
    view = DataExplorer()
    view.open_button.click()
    assert "Problem: nothing to open" in said(view)
    view.source.value = "fraud_mesages"
    view.open_button.click()
    assert "Did you mean 'fraud_messages'?" in said(view)
    view.source.value = "fraud_messages"
    view.open_button.click()
    assert "Problem" not in said(view) and "979 rows, page 1 of 49" in said(view)
    assert "Words a text: median" in said(view) and "share" in table(view, "share")
    view.next.click()
    assert "page 2 of 49" in said(view) and table(view, "words").splitlines()[1].split()[0] == "21"
    view.page.value = 99
    assert "Problem: page must be between 1 and 49; got 99" in said(view) and view.page.value == 2
    view.label.value = "fraud"
    assert view.page.value == 1 and f"{view.model.n_shown:,} of 979 rows" in said(view)
    view.chosen.value = 3
    boxes = {part.description: part.value for part in parts(view) if isinstance(part, w.Textarea)}
    assert boxes["Whole text"] == view.model.frame["text"][view.model.rows[3]["row"] - 1]
    assert boxes["Card"].startswith("# ")
    view.only_odd.value = True
    assert "known once the datasheet is made" in said(view) and view.only_odd.value is False
    view.source.value = "finance_sentiment"
    view.open_button.click()
    assert "Problem" not in said(view) and "960 rows, page 1 of 48" in said(view) and view.label.value is None
    view.label.value = "negative"
    view.source.value = "fraud_messages"
    view.open_button.click()
    view.check.click()
    assert view.model.wait(30) and "none of 979 rows repeat" in table(view, "leak report")
    view.close()


def test_of_many_labels_the_list_holds_the_commonest_and_the_chosen_one() -> None:
    labels = [f"label {i}" for i in range(300) for _ in range(1 + (i < 250))]
    view = DataExplorer(pd.DataFrame({"text": [f"text {i}" for i in range(550)], "label": labels}), "text", "label")
    view.model.label = "label 299"
    assert view.label.value == "label 299" and view.model.n_shown == 1 and len(view.label.options) == 200
    view.label.value = None
    assert "label 299" not in dict(view.label.options) and "Problem" not in said(view)
    view.close()


def test_hostile_rows_labels_and_names_go_to_the_browser_as_clean_text(tmp_path: Path, pushed: Pushed) -> None:
    path = tmp_path / f"{HOSTILE.replace('/', '')[:60]}.csv"
    texts = [f"{HOSTILE} {i}" for i in range(4)]
    pd.DataFrame({HOSTILE: texts, "b": [HOSTILE, "b"] * 2}).to_csv(path, index=False)
    explorer = DataExplorer(path, HOSTILE, "b")
    labeller = Labeller(texts, [HOSTILE, "b"], tmp_path / f"{HOSTILE.replace('/', '')[:50]} labels.csv")
    explorer.check.click()
    assert explorer.model.wait(30)
    labeller.choices[0].click()
    picker = ModelPicker(name="<img src=x onerror=alert(1)>")
    picker.model.attempt(setattr, picker.model, "name", HOSTILE)
    assert_only_text(pushed)
    assert len(list(pushed.bundles())) >= 4 and pushed.texts.count("&lt;img src=x onerror=") > 10
    for view in (explorer, labeller, picker):
        view.close()


def test_buttons_label_skip_undo_and_learn(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    view = Labeller(TEXTS * 2, LABELS, path)
    assert [button.description for button in view.choices] == ["1 legitimate", "2 fraud"]
    view.choices[1].click()
    view.skip.click()
    view.undo.click()
    view.choices[0].click()
    view.learn.click()
    assert "Problem: too few labels to learn from" in said(view) and view.model.row == 3
    view.choices[1].click()
    view.choices[0].click()
    view.learn.click()
    assert "Problem" not in said(view)
    view.hints.value = True
    assert "the model says: " in said(view)
    view.close()
    again = Labeller(TEXTS * 2, LABELS, path)
    again.undo.click()
    assert again.model.row == 4 and len(labelled(TEXTS * 2, path)) == 3
    again.close()


def test_a_key_is_heard_with_the_row_it_was_pressed_on(tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    view = Labeller(TEXTS, LABELS, tmp_path / "labels.csv")
    box = view.key_box
    assert (box.row, box.shown, box.heard) == (1, TEXTS[0], ["1", "2", "u", "s"])
    assert box.help == "Keys: 1 legitimate, 2 fraud, u undo, s skip. Press Tab to leave."
    press = {"key": "2", "row": 1}
    for content in (press, press, {"key": "9", "row": 2}, {"key": None}, {}):
        box._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
    assert (box.row, box.progress) == (2, "1 of 3 rows labelled (legitimate 0, fraud 1), 2 left")
    view.close()
    box._handle_custom_msg({"key": "1", "row": 2}, [])
    assert len(view.model.file.acts) == 1  # a closed widget hears nothing


def test_without_anywidget_the_row_is_text_and_the_buttons_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "KeyBox", None)
    view = Labeller(TEXTS, LABELS, tmp_path / "labels.csv")
    assert view.key_box is None and "Row 1:" in said(view) and TEXTS[0] in said(view)
    for button in (view.choices[1], view.skip, view.choices[0]):
        button.click()
    assert "All rows are done." in said(view) and "2 of 3 rows labelled" in said(view)
    view.again.click()
    assert "Row 2:" in said(view)
    view.close()


def test_a_labeller_that_cannot_be_built_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(w.widget._instances)
    with pytest.raises(ValueError, match="2 to 30 labels are needed"):
        Labeller(TEXTS, ["one"], tmp_path / "labels.csv")
    assert set(w.widget._instances) <= before
