"""The tuner as a person uses it, without a browser: buttons, what is sent, what is said, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pushed import Pushed, assert_only_text, pushed
from sample_runs import HOSTILE
from test_tuner import LONG, rows, until

w = pytest.importorskip("ipywidgets")

from slmkit_widgets import Tuner, progress  # noqa: E402

__all__ = ["pushed", "rows"]  # the fixtures
BUILD_BYTES = 100_000  # a tenth of what a widget may send
RATE_BYTES = 20_000  # a second, of a training under way


@pytest.fixture
def make(rows: Path, tmp_path: Path) -> Iterator[Callable[..., Tuner]]:
    made: list[Tuner] = []

    def one(data: Any = rows, out: Any = tmp_path / "tuned", **options: Any) -> Tuner:
        made.append(Tuner("dummy", data, out, **options))
        return made[-1]

    yield one
    for tuner in made:
        tuner.close()
        if tuner.model.job is not None:
            tuner.model.job.wait(60)


def parts(view: Any) -> Iterator[Any]:
    yield view
    for child in getattr(view, "children", ()):
        yield from parts(child)


def said(view: Any) -> str:
    return " ".join(part.value for part in parts(view) if isinstance(part, w.Label))


def test_little_is_sent_and_every_control_has_a_name_of_its_own(make: Callable[..., Tuner], pushed: Pushed) -> None:
    tuner = make()
    assert 10_000 < pushed.n_bytes < BUILD_BYTES
    kinds = (w.Button, w.Text, w.Textarea, w.Dropdown, w.Checkbox, w.IntText, w.FloatText)
    names = [part.description for part in parts(tuner) if isinstance(part, kinds)]
    assert len(names) >= 17 and all(names) and len(set(names)) == len(names)
    assert tuner.resume.layout.display == "none" and "Nothing runs yet." in repr(tuner.bar.now)


def test_buttons_start_cancel_and_resume(make: Callable[..., Tuner], pushed: Pushed) -> None:
    tuner = make(epochs=float(LONG))
    tuner.cancel.click()
    assert "Problem: nothing runs here" in said(tuner)
    tuner.start.click()
    assert tuner.model.state == "running" and "Problem" not in said(tuner)
    until(lambda: tuner.bar.now["done"] > 3)
    tuner.start.click()
    assert "Problem: a tuning runs here already" in said(tuner) and tuner.model.state == "running"
    pushed.clear()
    began = time.monotonic()
    time.sleep(3)
    rate = pushed.n_bytes / (time.monotonic() - began)
    assert 300 < rate < RATE_BYTES, rate
    assert len(pushed.messages) <= 4 * 3 + 2
    tuner.cancel.click()
    assert tuner.bar.now["said"].startswith("Stopping") and tuner.model.state == "stopping"
    until(lambda: tuner.model.state == "cancelled")
    assert tuner.resume.layout.display == "" and "stands half done" in said(tuner)
    step = tuner.bar.now["done"]
    tuner.resume.click()
    until(lambda: tuner.bar.now["done"] > step)
    assert tuner.resume.layout.display == "none"


def test_the_end_shows_result_cost_and_picture(make: Callable[..., Tuner], pushed: Pushed) -> None:
    tuner = make(epochs=20.0)
    tuner.start.click()
    until(lambda: tuner.model.state == "done")
    assert "floor, on the same rows:" in said(tuner) and "It cost" in said(tuner)
    [picture] = [data for data in pushed.bundles() if "application/vnd.plotly.v1+json" in data]
    assert picture["text/plain"] == "Picture: Loss while tuning" and pushed.n_bytes < 2 * BUILD_BYTES


def test_a_failure_shows_its_cause_and_the_widget_lives(make: Callable[..., Tuner]) -> None:
    tuner = make(data="no_such_task")
    tuner.start.click()
    until(lambda: tuner.model.state == "failed")
    assert "Problem: unknown task 'no_such_task'" in said(tuner)
    tuner.rate.value = "fast"
    assert "Problem: learning_rate must be a number" in said(tuner) and tuner.rate.value == ""
    tuner.epochs.value = 2.0
    assert "Problem" not in said(tuner) and "epochs=2.0" in tuner._code.value


def test_hostile_rows_labels_and_names_stay_text(make: Callable[..., Tuner], rows: Path, pushed: Pushed) -> None:
    frame = pd.read_csv(rows)
    frame["label"] = frame["label"].replace({"spam": HOSTILE})
    frame.loc[0, "text"] = HOSTILE
    named = rows.with_name("<img src=x onerror=alert(1)>.csv")
    frame.to_csv(named, index=False)
    tuner = make(data=named, epochs=4.0)
    tuner.start.click()
    until(lambda: tuner.model.state in ("done", "failed"))
    assert tuner.model.error == "" and "accuracy" in said(tuner)
    assert_only_text(pushed)


def test_without_anywidget_plain_controls_show_the_progress(
    make: Callable[..., Tuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "ProgressBox", None)
    tuner = make(epochs=20.0)
    assert isinstance(tuner.bar, progress.PlainProgress) and tuner.bar.bar.description == "Progress of the tuning"
    tuner.start.click()
    until(lambda: tuner.model.state == "done")
    assert tuner.bar.bar.value == tuner.bar.bar.max > 1
    assert "Done" in tuner.bar.said.value and "loss" in tuner.bar.figures.value


def test_closing_leaves_no_widget_no_thread_and_no_process(make: Callable[..., Tuner]) -> None:
    before, threads = set(w.widget._instances), set(threading.enumerate())
    tuner = make(epochs=float(LONG))
    tuner.start.click()
    until(lambda: tuner.bar.now["done"] > 3)
    job = tuner.model.job
    tuner.close()
    assert set(w.widget._instances) <= before
    until(lambda: set(threading.enumerate()) <= threads, 15)
    assert job is not None and job.state == "cancelled"
    assert "slmkit.Job(slmkit.tune, 'dummy'" in repr(tuner)
