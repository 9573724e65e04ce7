"""The threshold explorer: chosen on rows set aside, measured on others, hostile rows as text, bounded pushes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pushed import Pushed, assert_only_text, pushed
from sample_runs import HOSTILE, a_run

w = pytest.importorskip("ipywidgets")

import slmkit_data  # noqa: E402

from slmkit import thresholds  # noqa: E402
from slmkit.errors import InputError  # noqa: E402
from slmkit.runs import probability_frame, read_probabilities, read_runs, write_run  # noqa: E402
from slmkit_widgets import ThresholdExplorer, slider  # noqa: E402
from slmkit_widgets.models import records  # noqa: E402

__all__ = ["pushed"]  # the fixture


def frame(n: int = 200, names: tuple[str, str] = ("fraud", "fine"), seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    p = np.clip(0.5 + 0.25 * (y - 0.5) + 0.2 * rng.normal(size=n), 0, 1)
    return probability_frame(np.arange(n), [names[0] if k else names[1] for k in y], np.c_[p, 1 - p], list(names))


def run_python(code: str, **given: Any) -> dict[str, Any]:
    """What the Python shown leaves behind."""
    space = dict(given)
    exec(code.replace("frame = ...", "pass #"), space)
    return space


def test_the_threshold_is_chosen_on_rows_set_aside_and_measured_on_the_others() -> None:
    rows = frame()
    view = ThresholdExplorer(rows)
    view.miss_cost.value = 5
    view.by_cost.click()
    aside = thresholds.set_aside(rows["label"], 0.5)
    chosen, others = rows[aside], rows[~aside]
    best = thresholds.cheapest(thresholds.curve(chosen["label"] == "fraud", chosen["p_fraud"], miss_cost=5))
    assert view.model.threshold == view.threshold.value == best
    measured = thresholds.at(others["label"] == "fraud", others["p_fraud"], best, miss_cost=5)
    assert f"{100 * measured['recall']:.1f} % (" in view.model.verdict
    assert "lowest cost, 5 a miss and 1 a false alarm, on the 100 rows set aside" in view.model.verdict
    assert view.model.outcomes.iloc[0, 1] == str(measured["caught"])
    assert "too good" not in view.model.verdict


def test_without_rows_set_aside_it_says_that_the_figures_are_too_good() -> None:
    view = ThresholdExplorer(frame(), validation=None)
    view.by_budget.click()
    assert "No validation rows were given" in view.model.verdict and "too good" in view.model.verdict
    assert "on the 200 rows it is measured on" in view.model.origin


def test_validation_rows_of_ones_own_decide_and_do_not_count() -> None:
    other = frame(seed=1)
    view = ThresholdExplorer(frame(), validation=other)
    view.budget.value = 5
    view.by_budget.click()
    points = thresholds.curve(other["label"] == "fraud", other["p_fraud"])
    assert view.model.threshold == thresholds.within_budget(points, 0.05)
    assert "n = 200" in view.model.verdict


@pytest.mark.parametrize("button", ["by_cost", "by_budget"])
def test_the_python_finds_the_same_threshold(button: str) -> None:
    rows = frame()
    view = ThresholdExplorer(rows)
    view.share.value = 2
    getattr(view, button).click()
    assert run_python(view.model.code, frame=rows)["threshold"] == view.model.threshold
    view.miss_cost.value = 77  # the threshold stays where it is, and the Python says so
    assert run_python(view.model.code, frame=rows)["threshold"] == view.model.threshold


def test_the_python_of_a_shipped_record_runs_as_it_stands() -> None:
    view = ThresholdExplorer()
    view.by_budget.click()
    space = run_python(view.model.code)
    assert space["threshold"] == view.model.threshold and space["flagged"].sum() == view.model._at(
        space["measured"], {}
    )["caught"] + int(view.model._counts(view.model._at(space["measured"], {})).loc["not fraud", "flagged"])


def test_where_nothing_is_worth_flagging_it_says_so() -> None:
    view = ThresholdExplorer(frame())
    view.miss_cost.value = 0
    view.by_cost.click()
    assert view.model.verdict.startswith("Above 1 (1.01: nothing is flagged) (chosen: lowest cost, 0 a miss")
    assert "nothing flagged" in set(view.model.outcomes.iloc[:, 1]) and view.model.error == ""


def test_a_share_in_practice_makes_fraud_rare_and_precision_low() -> None:
    view = ThresholdExplorer(frame())
    before = view.model.outcomes.set_index("figure").iloc[6, 0]
    view.share.value = 0.5
    after = view.model.outcomes.set_index("figure")
    assert float(after.loc["precision at 0.5 % in practice"].iloc[0].split(" ")[0]) < 5 < float(before.split(" ")[0])


def test_the_rows_shown_are_those_of_the_cell_the_surest_mistakes_first() -> None:
    texts = [f"message {i}" for i in range(200)]
    view = ThresholdExplorer(frame(), texts=texts, validation=None)
    view.kind.value = "false_alarms"
    shown = view.model.examples
    column = "probability of fraud"
    assert set(shown["label"]) == {"fine"} and shown[column].astype(float).is_monotonic_decreasing
    assert (shown[column].astype(float) >= 0.5).all()
    assert list(shown["text"]) == [f"message {row}" for row in shown["row"]]
    first = list(shown["row"])
    view.next.click()
    assert not set(first) & set(view.model.examples["row"]) and view.model.rows_said.startswith("Rows 9 to ")


def test_the_picture_is_also_a_table_of_the_rows_for_choosing() -> None:
    rows = frame()
    view = ThresholdExplorer(rows)
    aside = rows[thresholds.set_aside(rows["label"], 0.5)]
    shown = view.model.steps
    assert list(shown["threshold"]) == ["0", *(f"0.{i}" for i in range(1, 10)), "1"]
    recalls = [(aside.loc[aside["label"] == "fraud", "p_fraud"] >= i / 10).mean() for i in range(11)]
    assert list(shown["recall"]) == [f"{100 * recall:.1f} %" for recall in recalls]


def test_the_slider_and_the_number_box_are_one_and_have_names() -> None:
    view = ThresholdExplorer(frame())
    view.slider.value = 0.3
    assert (view.model.threshold, view.threshold.value, view.slider.description) == (0.3, 0.3, "Move the threshold")
    view.by_budget.click()
    assert view.slider.value == pytest.approx(view.model.threshold, abs=0.001) and view.model.threshold != 0.3
    kinds = (w.Button, w.FloatText, w.Dropdown, w.Textarea, type(view.slider))
    names = [c.description for r in view.children for c in (r, *getattr(r, "children", ())) if isinstance(c, kinds)]
    assert len(names) == 13 and all(names) and len(set(names)) == 13


def test_without_anywidget_the_slider_is_ipywidgets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slider, "Slider", None)
    view = ThresholdExplorer(frame())
    assert isinstance(view.slider, w.FloatSlider)
    view.slider.value = 0.3
    assert view.model.threshold == 0.3


def test_wrong_numbers_are_refused_and_said() -> None:
    view = ThresholdExplorer(frame())
    view.share.value = 100
    assert view.model.error == "share_percent must be between 0 and 100; got 100" and view.share.value != 100
    view.threshold.value = 7
    assert view.threshold.value == 0.5 and "threshold must be from 0 to 1.01; got 7" in view.model.error
    view.threshold.value = 0.25
    assert view.model.error == "" and view.model.origin == "set by hand"


def test_texts_of_another_version_of_the_data_are_not_shown() -> None:
    own = next(r for r in records.shipped() if r.run.task == "fraud_messages")
    view = ThresholdExplorer(own.run, own.folder)
    assert "text" in view.model.examples
    changed = replace(own.run, data_sha256="0" * 64)
    view = ThresholdExplorer(changed, own.folder)
    assert "text" not in view.model.examples and "others than those of the record" in view.model.rows_said


def test_shipped_records_begin_with_a_class_to_catch() -> None:
    view = ThresholdExplorer()
    n = len(read_runs(slmkit_data.path("runs")))
    assert view.model.positive in ("fraud", "spam") and len(view.record.options) == n
    view.record.value = view.record.options[-1][1]
    assert view.model.error == "" and view.model.origin == "one half, where nobody chose"


def test_hostile_labels_texts_and_folders_stay_text(pushed: Pushed, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>\u202e"
    run = a_run(task=HOSTILE, model=HOSTILE)
    rows = frame(60, (HOSTILE, "<b>fine</b>"))
    write_run(run, folder, rows)
    view = ThresholdExplorer(folder=folder, texts=[HOSTILE] * 60)
    view.by_cost.click()
    for _, kind in view.kind.options:
        view.kind.value = kind
    assert view.model.error == ""
    assert_only_text(pushed)
    assert run_python(view.model.code)["frame"].equals(read_probabilities(run, folder))


def test_what_is_sent_has_a_bound_whatever_the_number_of_rows(pushed: Pushed) -> None:
    view = ThresholdExplorer(frame(50_000), texts=["word " * 2_000] * 50_000)
    assert 20_000 < pushed.n_bytes < 500_000
    pushed.clear()
    view.threshold.value = 0.4
    assert 10_000 < pushed.n_bytes < 200_000


def test_a_record_that_cannot_be_read_leaves_the_one_before(tmp_path: Path) -> None:
    one, other = a_run(right=100), a_run(right=90)
    for run in (one, other):
        write_run(run, tmp_path, frame(60))
    view = ThresholdExplorer(folder=tmp_path)
    before, choice = view.model.verdict, view.record.options[1][1]
    record = view.model._records[choice]
    (tmp_path / f"{record.run.stem}.probabilities.csv").unlink()
    view.record.value = choice
    assert "has no probabilities at" in view.model.error and view.record.value == view.record.options[0][1]
    assert view.model.verdict == before
    view.by_cost.click()
    assert view.model.error == "" and "lowest cost" in view.model.verdict


def test_labels_may_be_numbers_and_a_class_without_rows_is_refused() -> None:
    rows = frame().rename(columns={"p_fraud": "p_1", "p_fine": "p_0"})
    rows = rows.assign(label=(rows["label"] == "fraud").astype(int), p_2=0.0)
    view = ThresholdExplorer(rows)
    assert view.model.positive == "1"
    view.positive.value = "2"
    assert "rows of '2' and of others are needed" in view.model.error and view.positive.value == "1"
    assert run_python(view.model.code, frame=rows)["flagged"].sum() > 10


def test_frames_and_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="columns row, label and one p_<class>"):
        ThresholdExplorer(pd.DataFrame({"row": [1], "label": ["a"], "p_a": [0.5]}))
    with pytest.raises(InputError, match="positive must be one of 'fraud', 'fine'; got 'spam'"):
        ThresholdExplorer(frame(), positive="spam")
    with pytest.raises(InputError, match="no record with per-example probabilities among 1 records"):
        ThresholdExplorer(a_run())
    with pytest.raises(InputError, match="texts must hold one for every row, 200 at least; got 3"):
        ThresholdExplorer(frame(), texts=["a", "b", "c"])
    with pytest.raises(InputError, match="validation must be a frame, None, or a share"):
        ThresholdExplorer(frame(), validation=1.5)
