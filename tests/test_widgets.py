"""What all widgets share: errors said and survived, texts that stay texts, and nothing left behind by a cell."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import traitlets
from sample_runs import HOSTILE

from slmkit.errors import InputError

w = pytest.importorskip("ipywidgets")

from slmkit_widgets import display, lifetimes  # noqa: E402
from slmkit_widgets.base import View, label  # noqa: E402
from slmkit_widgets.models.base import ViewModel  # noqa: E402


class Counter(ViewModel):
    """A number from 0 to 9 and a list of names."""

    number = traitlets.Int(0)
    names = traitlets.List([("a", "a"), ("b", "b")])
    name = traitlets.Unicode("a")

    @traitlets.validate("number")
    def _small(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] <= 9:
            raise InputError(f"number must be 0 to 9; got {proposal['value']}")
        return int(proposal["value"])

    @traitlets.observe("number")
    def _coded(self, _change: Any) -> None:
        self.code = f"count({self.number})"

    def add(self) -> None:
        self.number += 1

    def fail(self) -> None:
        raise ZeroDivisionError(HOSTILE)


class CounterView(View):
    def __init__(self, **named: Any) -> None:
        super().__init__(Counter(), "Counter", **named)
        self.box = self.bind(w.IntText(description="Number"), "number")
        self.list = self.bind(w.Dropdown(description="Name"), "name", options="names")
        self.add = self.button("Add one", self.model.add)
        self.fail = self.button("Fail", self.model.fail)
        self.show(self.box, self.list, self.add, self.fail)


@pytest.fixture
def view() -> Iterator[CounterView]:
    made = CounterView()
    yield made
    made.close()


def problem(view: View) -> str:
    return " ".join(line.value for line in view._problem.children)


def test_a_control_and_its_trait_follow_each_other(view: CounterView) -> None:
    view.box.value = 4
    assert view.model.number == 4
    view.add.click()
    assert (view.box.value, view.model.code, view._code.value) == (5, "count(5)", "count(5)")


def test_a_value_that_is_refused_is_put_back_and_its_cause_said(view: CounterView) -> None:
    view.box.value = 3
    view.box.value = 12
    assert (view.model.number, view.box.value) == (3, 3)
    assert problem(view) == "Problem: number must be 0 to 9; got 12"
    view.box.value = 5
    assert (view.model.number, problem(view), view._problem.layout.display) == (5, "", "none")


def test_an_error_in_a_handler_is_shown_as_text_and_the_widget_goes_on(view: CounterView) -> None:
    view.fail.click()
    assert problem(view).startswith("Problem: ZeroDivisionError: <img src=x")
    assert "\u202e" not in problem(view) and "\x1b" not in problem(view)
    view.add.click()
    assert view.model.number == 1 and problem(view) == ""


def test_strict_mode_raises_what_it_shows(view: CounterView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_STRICT", "1")
    with pytest.raises(ZeroDivisionError):
        view.model.attempt(view.model.fail)
    assert view.model.error.startswith("ZeroDivisionError")


def test_new_options_keep_the_choice_of_the_model(view: CounterView) -> None:
    view.list.value = "b"
    view.model.names = [("c", "c"), ("b", "b"), ("d", "d")]
    assert (view.model.name, view.list.value) == ("b", "b")


def test_what_is_typed_into_the_python_is_taken_back(view: CounterView) -> None:
    view.add.click()
    view._code.value = "import os"
    assert view._code.value == "count(1)"


def test_closing_frees_the_observers_the_widgets_and_the_model(view: CounterView) -> None:
    before = set(w.widget._instances)  # the register of ipywidgets: what is in it is never freed
    made = CounterView()
    add, box = made.add, made.box
    made.close()
    made.close()
    assert set(w.widget._instances) <= before
    add.click()
    box.value = 7
    assert made.model.number == 0
    trace = weakref.ref(made.model)
    del made, add, box
    gc.collect()
    assert trace() is None


def test_a_shared_model_outlives_its_view() -> None:
    made = CounterView(shared=True)
    made.close()
    made.model.number = 2
    assert made.model.code == "count(2)"


def test_a_cell_that_runs_again_closes_what_it_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell(name: str, request: str) -> CounterView:
        parent = {"metadata": {"cellId": name}, "header": {"msg_id": request}}
        shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: parent))
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        return CounterView()

    first, beside, other = cell("a", "1"), cell("a", "1"), cell("b", "2")
    again = cell("a", "3")
    assert [v._closed for v in (first, beside, other, again)] == [True, True, False, False]
    again.close()
    other.close()
    assert "a" not in lifetimes._LIVE and "b" not in lifetimes._LIVE


def test_every_control_has_a_name(view: CounterView) -> None:
    assert all(control.description for control in (view.box, view.list, view.add, view.fail, view._code))


def test_where_widgets_are_not_shown_the_state_and_the_python_are(view: CounterView) -> None:
    view.add.click()
    shown = view._repr_mimebundle_()
    assert shown["text/plain"] == "CounterView\ncount(1)"
    assert "application/vnd.jupyter.widget-view+json" in shown and "text/html" not in shown


def test_a_table_of_hostile_cells_is_text_in_cells() -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "<b>$1$ & $2$</b>"], "n": [1, 2]})
    (output,) = display.table(frame)
    markup = output["data"]["text/html"]
    assert "<img" not in markup and "<script" not in markup and "<b>" not in markup and "\u202e" not in markup
    assert "&lt;img src=x onerror=" in markup and "mathjax_ignore" in markup
    assert markup.count("<th") - markup.count("<thead") == 2 and markup.count("<td") == 4
    left = '<td style="text-align: left">'
    assert markup.count(left) == 2 and "<th>n</th>" in markup and "<td>1</td>" in markup, "texts left, numbers right"


def test_a_long_table_and_a_long_cell_are_cut() -> None:
    (output,) = display.table(pd.DataFrame({"text": ["word " * 20_000] * 2 + ["short"] * 5_000}))
    assert output["data"]["text/html"].count("<td") == display.TABLE_ROWS
    assert len(output["data"]["text/html"]) < 6_500


def test_lists_are_capped_and_what_looks_alike_is_told_apart() -> None:
    shown = display.choices(["a\u200b", "a", "b"])
    assert shown == [("a", "a\u200b"), ("a #2", "a"), ("b", "b")]
    assert len(display.choices(range(10_000))) == display.CHOICES


def test_a_label_shows_no_formula_and_no_control_characters() -> None:
    made = label(f"pay $5 or $6 {HOSTILE}")
    assert set(display.PLAIN) <= set(made._dom_classes)
    assert "\x1b" not in made.value and made.value.startswith("pay $5 or $6 <img")
