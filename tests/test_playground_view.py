"""The playground as a person uses it, without a browser: two models answer and sort, stop, fail, and are freed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pushed import Pushed, assert_only_text, pushed
from sample_runs import HOSTILE
from test_tuner import until
from test_tuner_view import parts, said
from tuning_rows import LABELS, TEXTS

from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.classify import FloorClassifier
from slmkit.errors import InputError

w = pytest.importorskip("ipywidgets")

from slmkit_widgets import Playground  # noqa: E402
from slmkit_widgets.models import playground as models  # noqa: E402

__all__ = ["pushed"]  # the fixture
BUILD_BYTES = 100_000


@pytest.fixture
def make() -> Iterator[Callable[..., Playground]]:
    made: list[Playground] = []

    def one(*args: Any, **settings: Any) -> Playground:
        made.append(Playground(*args, **settings))
        return made[-1]

    yield one
    for each in made:
        each.close()
        if each.model.job is not None:
            each.model.job.wait(60)
    assert backends.live_models() == []


@pytest.fixture
def floor(tmp_path: Path) -> str:
    labels = [HOSTILE if label == "spam" else label for label in LABELS]
    FloorClassifier().fit(TEXTS, labels).save(tmp_path / "floor")
    return str(tmp_path / "floor")


def ready(view: Playground) -> None:
    until(lambda: view.model.state == "ready")


def test_little_is_sent_and_every_control_has_a_name_of_its_own(
    make: Callable[..., Playground], pushed: Pushed
) -> None:
    view = make(["dummy", "dummy"])
    assert 10_000 < pushed.n_bytes < BUILD_BYTES and backends.live_models() == []
    kinds = (w.Button, w.Text, w.Textarea, w.Dropdown, w.IntText, w.FloatText)
    names = [part.description for part in parts(view) if isinstance(part, kinds)]
    assert len(names) >= 16 and all(names) and len(set(names)) == len(names)


def test_two_models_answer_in_turn_and_remember(
    make: Callable[..., Playground], tiny_chat_decoder: ModelSource
) -> None:
    view = make([str(tiny_chat_decoder.folder), "dummy"], max_new_tokens=8)
    view.ask.click()
    assert "Problem: there is no text" in said(view)
    view.text.value = "Is this fraud?"
    view.ask.click()
    ready(view)
    assert [reply.name for reply in view.model.replies] == view.model.names
    first, second = view.model.said
    assert first.startswith("You: Is this fraud?\n\n") and "dummy:" in second
    assert "tokens/s" in view.model.figures[0] and "stored" in view.model.figures[1]
    assert said(view).count("MB in this process now") == 2 and len(backends.live_models()) == 2
    view.model.ask(wait=True)
    assert view.model.said[0].count("You:") == 2
    view.forget.click()
    assert view.model.said == ("", "")
    assert "with Session([" in view._code.value and "max_new_tokens=8" in view._code.value
    view.second.value = ""
    assert view.model.names == [str(tiny_chat_decoder.folder)] and backends.live_models() == [], "others were freed"


def test_an_answer_streams_slowly_to_the_page_and_stops_at_once(
    make: Callable[..., Playground], pushed: Pushed
) -> None:
    view = make("dummy", text="Hello", max_new_tokens=1_000_000)
    view.ask.click()
    until(lambda: len(view.model.said[0]) > 20)
    view.ask.click()
    assert "Problem: the models are at work" in said(view)
    pushed.clear()
    time.sleep(2)
    assert 4 <= len(pushed.messages) < 40 and pushed.n_bytes / 2 < 20_000
    began = time.monotonic()
    view.stop.click()
    assert view.model.state == "stopping" and "Stopping" in view.bar.now["said"]
    ready(view)
    assert time.monotonic() - began < 1.5 and "stopped" in view.model.figures[0]
    view.stop.click()
    assert "Problem: nothing runs here" in said(view)


def test_labels_have_probabilities_and_words_that_mattered(
    make: Callable[..., Playground], floor: str, pushed: Pushed
) -> None:
    view = make([floor, "dummy"], "classify", text="claim your <img/src=x/onerror=alert(1)> prize")
    view.ask.click()
    ready(view)
    assert view.model.error == "" and [set(one.classes) for one in view.model.replies] == [{"ham", HOSTILE}] * 2
    assert sum(float(row[f"1: {floor}"].rstrip(" %")) for row in view.model.table) == pytest.approx(100, abs=0.2)
    view.explain.click()
    ready(view)
    assert view.model.error == "" and "left out in turn" in said(view)
    assert view.model.word_table[0]["word"] == "claim"
    titles = [data["text/plain"] for data in pushed.bundles() if "application/vnd.plotly.v1+json" in data]
    assert titles == ["Picture: Probability of each label", "Picture: Which words mattered"]
    assert_only_text(pushed)
    view.mode.value = "chat"
    assert "Problem:" in said(view) and "take mode='classify'" in said(view) and view.explain.layout.display == "none"
    assert view.model.table == () and view.model.words is None
    shown = [view.mode, view.bits, view.first, view.second, *view.others, view.tokens, view.temperature]
    assert not any(control.layout.display == "none" for control in shown) and view.labels.layout.display == "none"


def test_what_is_wrong_is_said_and_the_widget_lives(make: Callable[..., Playground]) -> None:
    view = make("nothing-here")
    assert "Problem: unknown model 'nothing-here'" in said(view)
    view.others[0].value = "dummy"
    assert "Problem" not in said(view)
    view.mode.value = "classify"
    assert "Problem: labels are needed" in said(view)
    view.labels.value = "fraud_messages"
    assert "Problem" not in said(view) and "labels='fraud_messages'" in view._code.value
    view.tokens.value = 0
    assert "Problem: max_new_tokens must be at least 1" in said(view) and view.tokens.value == 128
    for wrong, cause in ((["a"] * 3, "one or two models"), ("dummy", "unknown mode 'sing'")):
        with pytest.raises(InputError, match=cause):
            Playground(wrong, "sing" if wrong == "dummy" else "chat")
    with pytest.raises(InputError, match="unknown settings colour; known: bits"):
        Playground("dummy", colour="red")


def test_a_failure_in_the_background_shows_its_cause(
    make: Callable[..., Playground], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make("dummy", text="Hello")

    def fails(*_: Any, **__: Any) -> Any:
        raise InputError("the model went away")

    with monkeypatch.context() as patch:
        patch.setattr(models.Session, "ask", fails)
        view.ask.click()
        ready(view)
    assert "Problem: the model went away" in said(view)
    view.ask.click()
    ready(view)
    assert "Problem" not in said(view) and view.model.replies


def test_closing_while_it_writes_leaves_no_widget_no_thread_no_model(make: Callable[..., Playground]) -> None:
    before, threads = set(w.widget._instances), set(threading.enumerate())
    view = make("dummy", text="Hello", max_new_tokens=1_000_000)
    view.ask.click()
    until(lambda: len(view.model.said[0]) > 20)
    view.close()
    assert set(w.widget._instances) <= before
    until(lambda: set(threading.enumerate()) <= threads, 10)
    assert backends.live_models() == [] and "Hello" in repr(view)


def test_tuned_folders_under_runs_are_offered(
    make: Callable[..., Playground], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FloorClassifier().fit(TEXTS, LABELS).save(tmp_path / "runs" / "models" / "mine")
    assert "runs/models/mine" in [value for _, value in make("dummy").model.first_options]
