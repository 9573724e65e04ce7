"""Models tried side by side: answers, labels, words that mattered; memory that comes back, and stops that are heard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_runs import HOSTILE
from tuning_rows import LABELS, TEXTS, table

import slmkit
from slmkit import backends, footprint, jobs, playground, plots
from slmkit.assets import ModelSource
from slmkit.classify import FloorClassifier
from slmkit.errors import InputError
from slmkit.playground import Session


@pytest.fixture
def floor(tmp_path: Path) -> Path:
    FloorClassifier().fit(TEXTS, LABELS).save(tmp_path / "floor")
    return tmp_path / "floor"


def test_two_models_answer_side_by_side_and_remember(tiny_chat_decoder: ModelSource) -> None:
    name, heard = str(tiny_chat_decoder.folder), list[Any]()
    with Session([name, "dummy"]) as session:
        replies = session.ask("Is this fraud?", max_new_tokens=12, heard=lambda *told: heard.append(told))
        assert [reply.name for reply in replies] == [name, "dummy"] and len(backends.live_models()) == 2
        own = replies[0]
        assert own.n_tokens <= 12 and own.first_s < own.seconds and own.stored_bytes > 0 and own.rss_bytes > 10**8
        assert [i for i, *_ in heard] == sorted(i for i, *_ in heard) and heard[0][1] and not own.stopped
        with slmkit.load(name) as model:
            asked = model.dialogue_prompt([{"role": "user", "content": "Is this fraud?"}])
            assert model.generate([asked], 12)[0].text.strip() == own.text
        assert session.turns(0)[-1] == {"role": "assistant", "content": own.text}
        session.ask("And this?", max_new_tokens=4)
        assert [turn["role"] for turn in session.turns(0)] == ["user", "assistant"] * 2
        session.forget()
        assert session.turns(0) == []
    assert backends.live_models() == []
    with pytest.raises(InputError, match="were closed"):
        session.ask("Hi")


def test_a_stop_is_heard_at_the_next_token_and_keeps_what_was_written() -> None:
    cancel, pieces = threading.Event(), list[str]()

    def heard(i: int, told: str, n_tokens: int, seconds: float) -> None:
        pieces.append(told)
        if n_tokens == 3:
            cancel.set()

    with Session(["dummy", "dummy"]) as session:
        replies = session.ask("Hello", max_new_tokens=200, heard=heard, cancel=cancel)
        assert len(replies) == 1 and replies[0].stopped and len(pieces) == 3, "the second is not asked any more"
        assert replies[0].text == pieces[-1].strip() and session.turns(1) == []
        with pytest.raises(jobs.Cancelled):
            session.ask("Hello", cancel=cancel)


def test_closing_while_it_writes_frees_the_model_when_it_stops() -> None:
    session, begun = Session("dummy"), threading.Event()
    job = slmkit.Job(session.ask, "Hello", max_new_tokens=100_000, heard=lambda *_: begun.set()).start()
    assert begun.wait(30)
    session.close()
    assert job.wait(30) and job.result()[0].stopped and backends.live_models() == []


def test_a_tuned_folder_answers_with_its_adapter(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    name, out = str(tiny_chat_decoder.folder), tmp_path / "tuned"
    slmkit.finetune(name, table(), out=out, epochs=8, learning_rate=1e-2, batch_size=4, checks=False, backend="bnb")
    with Session([name, str(out)]) as session:
        before, after = session.ask("What about bank number 0?", max_new_tokens=8)
        assert after.text != before.text and after.text.startswith("No.")
        assert any("perplexity of the held-out answers" in line for line in session.about)
    with pytest.raises(InputError, match="was tuned on dialogues, it answers: take mode='chat'"):
        Session(str(out), "classify")


def test_saved_classifiers_and_prompts_sort_side_by_side(floor: Path) -> None:
    with Session([str(floor), "dummy"], "classify") as session:
        own, prompted = session.sort("claim your free prize now")
        assert own.classes == prompted.classes == ("ham", "spam") and own.label == "spam"
        assert sum(own.probabilities) == pytest.approx(1) == sum(prompted.probabilities)
        assert own.stored_bytes > 0 and own.seconds > 0
        told = session.explain("see you claim your free prize now")
        assert told.label == "spam" and dict(told.words)["prize"] > dict(told.words)["see"]
    with pytest.raises(InputError, match="is a saved classifier, it sorts texts: take mode='classify'"):
        Session(str(floor))
    with Session("dummy", "classify", labels="fraud_messages") as session:
        assert session.sort("Hi")[0].classes == ("fraud", "legitimate")


def test_occlusion_is_the_change_of_the_label_s_probability() -> None:
    def proba(texts: list[str]) -> np.ndarray:
        share = np.array([0.2 + 0.6 * ("prize" in text) - 0.1 * ("mum" in text) for text in texts])
        return np.column_stack([1 - share, share])

    told = playground.occlude(proba, "  mum won\n a prize ", ["ham", "spam"])
    assert told.label == "spam" and told.probability == pytest.approx(0.7)
    assert [word for word, _ in told.words] == ["mum", "won", "a", "prize"]
    assert [change for _, change in told.words] == pytest.approx([-0.1, 0, 0, 0.6])
    long = playground.occlude(proba, "prize " * 100, ["ham", "spam"])
    assert len(long.words) == playground.MOST_WORDS and long.n_left == 20
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(jobs.Cancelled):
        playground.occlude(proba, "a prize", ["ham", "spam"], cancel=cancel)
    with pytest.raises(InputError, match="without words"):
        playground.occlude(proba, " ", ["ham", "spam"])


def test_where_memory_is_short_one_model_is_there_at_a_time(
    tiny_chat_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tiny_chat_decoder.folder)
    alone = sum(slmkit.estimate.model_memory(tiny_chat_decoder, 16).values())
    monkeypatch.setattr(footprint, "memory_limit", lambda *_: (alone + 1000, "the test"))
    with Session([name, name]) as session:
        assert not session.keeps_both and "loaded anew" in session.about[-1]
        session.ask("Hi", max_new_tokens=2)
        assert backends.live_models() == []
    monkeypatch.setattr(footprint, "memory_limit", lambda *_: (1000, "the test"))
    with Session(name) as session, pytest.raises(MemoryError, match="this process may use"):
        session.ask("Hi")


def test_what_cannot_be_tried_is_said() -> None:
    for names, how, said in (
        ([], {}, "one or two models can be tried"),
        (["dummy"] * 3, {}, "one or two models can be tried"),
        ("dummy", {"mode": "sing"}, "unknown mode 'sing'"),
        ("dummy", {"mode": "classify"}, "labels are needed"),
        ("minilm", {}, "is an encoder"),
        ("nothing-here", {}, "unknown model 'nothing-here'"),
    ):
        with pytest.raises(InputError, match=said):
            Session(names, **how)
    with Session("dummy") as session:
        with pytest.raises(InputError, match="open one with mode='classify'"):
            session.sort("Hi")
        with pytest.raises(InputError, match="there is no text"):
            session.ask("  ")


def test_the_pictures_hold_shares_in_percent_and_no_markup() -> None:
    figure = plots.label_probabilities([("a", ("ham", HOSTILE), (0.25, 0.75)), ("b", ("ham",), (1.0,))])
    assert list(figure.data[0].x) == [25.0, 75.0] and figure.data[1].x[0] == 100.0 and figure.data[1].x[1] is None
    assert "<img" not in figure.to_json() and figure.data[1].marker.pattern.shape == "/"
    words = plots.word_changes([(HOSTILE, 0.1), *[(f"w{i}", i / 1000) for i in range(40)]], HOSTILE, 0.7, HOSTILE)
    assert len(words.data[0].y) == 24 and words.data[0].x[0] == pytest.approx(10) and "<img" not in words.to_json()
    assert words.layout.xaxis.title.text == "points of probability lost without the word"
