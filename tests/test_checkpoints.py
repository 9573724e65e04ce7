"""Never lost: a training that is stopped, killed or runs into trouble goes on where it was, to the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available
from full_disk import open_on_full_disk
from safetensors import safe_open

from slmkit import assets, backends
from slmkit.assets import ModelSource, tensors
from slmkit.backends import _checkpoints as checkpoints
from slmkit.backends import _course as course
from slmkit.backends.base import Backend, LoRAConfig, Watch
from slmkit.classify import LoRAClassifier
from slmkit.errors import InputError, SlmkitError

TEXTS = ["You have won a free prize! Call now.", "See you at lunch tomorrow.", "Your card will be blocked today.",
         "Thanks for the flowers, they are lovely.", "Confirm your password at the link.", "The train is late again.",
         "Send money to this number now.", "Net sales fell by a tenth."]  # fmt: skip
Y = np.array([1, 0] * 4)
LORA = LoRAConfig(rank=4, alpha=8, epochs=4, learning_rate=5e-3, batch_size=3, max_length=32)
ASKED, TOLD = [f"What about the {word}?" for word in ("bank", "train", "card", "prize")], ["No.", "Yes.", "No.", "Yes."]


@pytest.fixture(params=["bnb", "mlx", "dummy"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return available(request.param)


@pytest.fixture
def train(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path) -> Callable[..., Any]:
    """A training to labels, or to answers."""
    return trainer(backend, assets.resolve("dummy") if backend.name == "dummy" else tiny_decoder, tmp_path)


@pytest.fixture
def train_head(tmp_path: Path) -> Callable[..., Any]:
    """The same on the quickest backend, for what no engine has a part in."""
    return trainer(backends.get("dummy"), assets.resolve("dummy"), tmp_path)


def trainer(backend: Backend, source: ModelSource, tmp_path: Path) -> Callable[..., Any]:
    """Train; all arrays it wrote, and its history."""

    def run(watch: Watch | None = None, config: LoRAConfig = LORA, answers: bool = False, **how: Any) -> Any:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        how |= {"bits": 16, "config": config, "out": out, "watch": watch}
        if answers:
            history = backend.train_completion(source, ASKED, TOLD, **how)
        else:
            history = backend.train_lora(source, TEXTS, Y, n_classes=2, **how)
        names = [name for file in out.glob("*.safetensors") for name in safe_open(file, "np").keys()]  # noqa: SIM118 - no dict
        return {name: tensors.read(out, name) for name in names}, history

    return run


class Interrupt:
    """A callback that interrupts at the first step it is told of after `step`."""

    def __init__(self, step: int) -> None:
        self.step, self.told = step, list[dict[str, Any]]()

    def __call__(self, event: Any) -> None:
        self.told.append(dict(event))
        if event["step"] > self.step:
            raise KeyboardInterrupt


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


# going on


@pytest.mark.parametrize("answers", [False, True])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    train: Callable[..., Any], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    if answers and backend.name == "dummy":
        pytest.skip("the dummy backend learns labels only")
    monkeypatch.setattr(course, "REPORT_EVERY_S", 0)
    whole, history = train(answers=answers)
    watch, again = Watch(checkpoints=tmp_path / "kept"), Interrupt(99)
    for step in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            train(watch, answers=answers, callback=Interrupt(step))
    resumed, told = train(watch, answers=answers, callback=again)
    assert same(resumed, whole)
    assert [e["step"] for e in told] == [e["step"] for e in history] and told[-1]["loss"] == history[-1]["loss"]
    assert [e["resumed_at"] for e in again.told] == [5] * (len(history) - 5)
    assert backends.unfinished(tmp_path / "kept") == (len(history), len(history))
    backends.clear_checkpoints(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_weights_trained_as_a_whole_go_on_too(
    train: Callable[..., Any], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.name == "dummy":
        pytest.skip("the dummy backend has a head alone")
    monkeypatch.setattr(course, "REPORT_EVERY_S", 0)
    config, watch = replace(LORA, trains="weights", last_blocks=1, epochs=2), Watch(checkpoints=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        train(watch, config, callback=Interrupt(3))
    assert same(train(watch, config)[0], train(config=config)[0])


def test_a_training_that_is_told_to_stop_leaves_what_it_learned_and_goes_on_later(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "REPORT_EVERY_S", 0)
    stop, kept = threading.Event(), tmp_path / "kept"
    arrays, history = train(Watch(checkpoints=kept, stop=stop), callback=lambda e: e["step"] == 5 and stop.set())
    assert len(history) == 5 and history[-1]["stopped"] == 1 and all(np.isfinite(a).all() for a in arrays.values())
    kept_as_it_is, again = train(Watch(checkpoints=kept, stop=stop))  # a stop that is set: no step more
    assert same(kept_as_it_is, arrays) and again[-1]["stopped"] == 1
    resumed, told = train(Watch(checkpoints=kept))
    assert same(resumed, train()[0]) and not any("stopped" in e for e in told)
    with pytest.raises(InputError, match="stopped before its first step"):
        train(Watch(stop=stop))


def test_a_classifier_goes_on_and_clears_its_checkpoints(tmp_path: Path) -> None:
    def fit(**attributes: Any) -> LoRAClassifier:
        found = LoRAClassifier("dummy", bits=16, epochs=2, batch_size=2)
        for name, value in attributes.items():
            setattr(found, name, value)
        return found.fit(TEXTS, Y)

    stop, kept = threading.Event(), tmp_path / "kept"
    cut = fit(checkpoints=kept, stop=stop, progress=lambda event: stop.set())
    assert len(cut.history_) == 1 and cut.history_[0]["stopped"] == 1 and backends.unfinished(kept) == (1, 8)
    np.testing.assert_array_equal(fit(checkpoints=kept).predict_proba(TEXTS), fit().predict_proba(TEXTS))
    assert not kept.exists() and "checkpoints" not in LoRAClassifier().get_params()


def test_checkpoints_of_another_training_are_refused_with_what_differs(
    train_head: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(checkpoints=tmp_path / "kept")
    train_head(watch, replace(LORA, epochs=1))
    with pytest.raises(InputError) as error:
        train_head(watch, replace(LORA, epochs=1, learning_rate=0.1, seed=3))
    for words in ("learning_rate was 0.005 and is 0.1", "seed was 0 and is 3", "remove that folder", str(tmp_path)):
        assert words in str(error.value)
    monkeypatch.setattr(course, "exact", lambda *a, **k: {"threads": 7})
    train_head(watch, replace(LORA, epochs=1))
    assert "threads was None and is 7" in caplog.text and "the last bits of the weights may differ" in caplog.text


def test_other_rows_or_labels_are_another_training(tmp_path: Path) -> None:
    source, dummy, out = assets.resolve("dummy"), backends.get("dummy"), tmp_path / "out"
    out.mkdir()
    how: dict[str, Any] = {"n_classes": 2, "bits": 16, "config": LORA, "out": out, "watch": Watch(tmp_path / "kept")}
    dummy.train_lora(source, TEXTS, Y, **how)
    for texts, y in ((TEXTS[::-1], Y), (TEXTS, 1 - Y)):
        with pytest.raises(InputError, match="their sha256 was"):
            dummy.train_lora(source, texts, y, **how)


# the folder


def state(number: float) -> dict[str, np.ndarray]:
    return {"weights/a": np.full((3, 2), number, np.float32), "moments/step": np.array(7, np.uint64)}


def test_the_newest_two_are_kept_and_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    with checkpoints.opened(tmp_path / "kept", {}, {}) as store:
        for step in range(4):
            store.save(state(step), {"step": step})
        found = store.newest()
        assert found and found.facts["step"] == 3 and same(found.arrays, state(3))
        assert found.arrays["moments/step"].shape == () and len(list((tmp_path / "kept").iterdir())) == 2
        with pytest.raises(InputError, match="another training uses"), checkpoints.opened(tmp_path / "kept", {}, {}):
            pass


@pytest.mark.parametrize("damage", ["flip", "cut", "no marker", "no weights", "empty marker"])
def test_a_broken_newest_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with checkpoints.opened(tmp_path, {}, {}) as store:
        for step in (1, 2):
            store.save(state(step), {"step": step})
        last = max(tmp_path.iterdir())
        weights, marker = last / checkpoints.ARRAYS, last / checkpoints.MARKER
        content = weights.read_bytes()
        {
            "flip": lambda: weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
            "cut": lambda: weights.write_bytes(content[:-1]),
            "no marker": marker.unlink,
            "no weights": weights.unlink,
            "empty marker": lambda: marker.write_text(""),
        }[damage]()
        found = store.newest()
        assert found and found.facts["step"] == 1 and last.name in caplog.text and "before it is taken" in caplog.text
        store.save(state(3), {"step": 3})
        found = store.newest()
        assert found and found.facts["step"] == 3


def test_a_full_disk_is_said_and_the_checkpoint_before_goes_on(
    train_head: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "REPORT_EVERY_S", 0)
    watch = Watch(checkpoints=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        train_head(watch, callback=Interrupt(2))
    with monkeypatch.context() as full:
        full.setattr(checkpoints, "open", open_on_full_disk(600, checkpoints.ARRAYS), raising=False)
        with pytest.raises(SlmkitError, match="the disk is full. The checkpoints in .*kept are whole: make room"):
            train_head(watch)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["checkpoint-00000001"]
    assert same(train_head(watch)[0], train_head()[0])


def test_a_full_disk_does_not_hide_an_interrupt(
    train_head: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "open", open_on_full_disk(600, checkpoints.ARRAYS), raising=False)
    with pytest.raises(KeyboardInterrupt):
        train_head(Watch(checkpoints=tmp_path / "kept"), callback=Interrupt(0))
    assert "no checkpoint of step 1" in caplog.text and "the disk is full" in caplog.text


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    train_head: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    told = Interrupt(0)
    with pytest.raises(SlmkitError, match="file.x: cannot be written: Not a directory. Checkpoints need a folder"):
        train_head(Watch(checkpoints=tmp_path / "file" / "x"), callback=told)
    assert told.told == []


def test_a_learning_rate_that_diverges_leaves_a_usable_adapter(train: Callable[..., Any], backend: Backend,
                                                               tmp_path: Path) -> None:  # fmt: skip
    if backend.name == "dummy":
        pytest.skip("a clipped softmax does not diverge")
    watch = Watch(checkpoints=tmp_path / "kept")
    with pytest.raises(InputError, match=r"became (nan|inf) at step \d+ of 12: take a smaller learning_rate \(1e\+"):
        train(watch, replace(LORA, learning_rate=1e30))
    stop = threading.Event()
    stop.set()
    try:
        arrays, _ = train(replace(watch, stop=stop), replace(LORA, learning_rate=1e30))
    except InputError as error:
        assert "before its first step" in str(error)
    else:
        assert all(np.isfinite(a).all() for a in arrays.values())


# held-out rows


def test_held_out_rows_are_measured_as_the_model_scores_them(
    train: Callable[..., Any], backend: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    texts, y = ["You have won! Call now.", "The train is late."], np.array([1, 0])
    arrays, history = train(Watch(held_out=(texts, y)))
    told = [e for e in history if "held_out_loss" in e]
    assert [e["epoch"] for e in told] == [0, 1, 2, 3]
    best = min(told, key=lambda e: e["held_out_loss"])
    source = assets.resolve("dummy") if backend.name == "dummy" else tiny_decoder
    adapter = max(tmp_path.glob("out-*"))
    with backend.load(source, adapter=adapter) as model:
        vectors = model.embed(texts, pooling="last", max_length=LORA.max_length)
    logits = vectors @ arrays["weight"].T + arrays["bias"]
    nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(2), y]
    assert best["held_out_loss"] == pytest.approx(nats.mean(), abs=0.02)
    assert best["held_out_accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == y))


def test_held_out_answers_are_measured_as_the_model_scores_them(
    backend: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    if backend.name == "dummy":
        pytest.skip("the dummy backend learns labels only")
    held_out = (["What about lunch?", "What about the link?"], ["Thanks for the flowers.", "No."])
    how: dict[str, Any] = {"bits": 16, "config": replace(LORA, epochs=2), "out": tmp_path}
    history = backend.train_completion(tiny_decoder, ASKED, TOLD, watch=Watch(held_out=held_out), **how)
    with backend.load(tiny_decoder, adapter=tmp_path) as model:
        nats, n_tokens = model.answer_loglikelihood(*held_out)
    told = [e["held_out_loss"] for e in history if "held_out_loss" in e]
    assert len(told) == 2 and min(told) == pytest.approx(-nats.sum() / n_tokens.sum(), abs=0.02)


def test_what_is_wrong_with_a_watch_is_said_at_once(train_head: Callable[..., Any]) -> None:
    with pytest.raises(InputError) as error:
        train_head(Watch(held_out=(["a"], [2]), patience=0, every_s=-1), replace(LORA, rank=0))
    for words in ("rank must be above 0", "patience must be at least 1", "every_s must be 0", "held-out y must lie in"):
        assert words in str(error.value)
