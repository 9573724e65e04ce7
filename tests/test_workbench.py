"""The workbench: light at first, built part by part, and what is picked in one part is in the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pushed import Pushed, pushed
from test_tuner import rows, until
from test_tuner_view import parts, said

from slmkit import backends

w = pytest.importorskip("ipywidgets")

from slmkit_widgets import Workbench  # noqa: E402
from slmkit_widgets.models.workbench import PARTS  # noqa: E402

__all__ = ["pushed", "rows"]  # the fixtures
FIRST_BYTES, ALL_BYTES = 100_000, 1_000_000


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workbench]]:
    monkeypatch.chdir(tmp_path)
    made: list[Workbench] = []

    def one(*args: Any, **settings: Any) -> Workbench:
        made.append(Workbench(*args, **settings))
        return made[-1]

    yield one
    for bench in made:
        bench.close()


def test_the_first_picture_is_light_and_quick(make: Callable[..., Workbench], pushed: Pushed) -> None:
    make().close()  # imports
    pushed.clear()
    began = time.perf_counter()
    bench = make()
    assert time.perf_counter() - began < 1 and 5_000 < pushed.n_bytes < FIRST_BYTES
    assert bench.parts == {} and list(bench.tabs.titles) == [*PARTS]
    assert "Tune: tune the model on the rows" in said(bench) and "This machine:" in said(bench)


def test_every_part_is_built_once_and_all_of_them_are_not_much(make: Callable[..., Workbench], pushed: Pushed) -> None:
    bench = make("dummy", "fraud_messages")
    for i, part in enumerate(PARTS):
        bench.tabs.selected_index = i  # as the browser sends it
        assert bench.model.error == "" and bench.model.tab == i
        assert part in ("Start", "Label") or bench.places[i].children == (bench.parts[part],)
    assert pushed.n_bytes < ALL_BYTES
    built = dict(bench.parts)
    assert len(built) == 6 and bench.turn_to("Data") is built["Data"] and bench.parts == built


def test_what_is_picked_goes_to_the_other_parts(make: Callable[..., Workbench], rows: Path) -> None:
    bench = make("dummy", "fraud_messages")
    picker = bench.turn_to("Models")
    picker.name.value = "smollm2-135m-instruct"
    assert bench.model.name == "smollm2-135m-instruct"
    tuner, tried = bench.turn_to("Tune"), bench.turn_to("Try")
    assert (tuner.model.model, tuner.model.data) == ("smollm2-135m-instruct", "fraud_messages")
    assert tried.model.first == "smollm2-135m-instruct" and backends.live_models() == []
    picker.name.value = "minilm"
    assert tuner.model.model == "minilm" and tried.model.first == "smollm2-135m-instruct", "an encoder answers nothing"
    explorer = bench.turn_to("Data")
    explorer.source.value = str(rows)
    explorer.open_button.click()
    assert bench.model.rows == tuner.model.data == str(rows)
    assert f"Workbench('minilm', {str(rows)!r})" in bench._code.value


def test_a_tuning_that_ended_can_be_tried(make: Callable[..., Workbench], rows: Path) -> None:
    bench = make("dummy", rows)
    tuner, tried = bench.turn_to("Tune"), bench.turn_to("Try")
    tuner.epochs.value = 4.0
    tuner.start.click()
    until(lambda: tuner.model.state == "failed" or "floor, on the same rows" in said(tried))
    assert tuner.model.error == "" and bench.model.mode == "classify"
    assert tried.model.names == ["dummy", "runs/tuned"] and tried.model.mode == "classify"
    assert tried.model.error == ""
    tried.text.value = "you have won a free prize"
    tried.ask.click()
    until(lambda: tried.model.state == "ready")
    assert tried.model.error == "" and len(tried.model.replies) == 2


def test_rows_are_labelled_in_the_workbench_and_wrong_names_are_said(
    make: Callable[..., Workbench], tmp_path: Path
) -> None:
    pd.DataFrame({"text": ["Pay the fee", "Lunch?"]}).to_csv("mine.csv", index=False)
    bench = make()
    bench.turn_to("Label")
    bench.begin.click()
    assert "Problem: name a file with texts first" in said(bench)
    bench.label_rows.value, bench.label_names.value = "nowhere.csv", "fraud, legitimate"
    bench.begin.click()
    assert "Problem:" in said(bench) and "nowhere.csv" in said(bench)
    bench.label_rows.value = "mine.csv"
    bench.begin.click()
    assert "Problem" not in said(bench)
    next(part for part in parts(bench) if getattr(part, "description", "") == "1 fraud").click()
    assert "fraud" in (tmp_path / "labels.csv").read_text()


def test_closing_leaves_nothing_in_the_register(make: Callable[..., Workbench]) -> None:
    before = set(w.widget._instances)
    bench = make("dummy", "fraud_messages")
    for part in PARTS:
        bench.turn_to(part)
    made = list(bench.parts.values())
    bench.close()
    assert set(w.widget._instances) <= before and all(view._closed for view in made)
    assert repr(bench).startswith("Workbench\nModels: what of the catalog")
