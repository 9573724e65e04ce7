"""Lower blocks that are frozen on the way: they stay as they are, run once from then on, and a resumed training agrees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available
from test_prefix_cache import counted
from typer.testing import CliRunner

from slmkit import LoRAClassifier, assets
from slmkit.__main__ import app
from slmkit.assets import ModelSource, tensors
from slmkit.backends import _course as course
from slmkit.backends.base import Backend, LoRAConfig, Watch
from slmkit.errors import InputError
from slmkit.study import plan

TEXTS = ["You have won a free prize! Call now.", "See you at lunch tomorrow.", "Your card will be blocked today.",
         "Thanks for the flowers, they are lovely.", "Confirm your password.", "Sales fell by a tenth."]  # fmt: skip
Y = np.array([1, 0] * 3)
FREEZES = LoRAConfig(rank=4, alpha=8, epochs=3, learning_rate=5e-3, batch_size=3, max_length=32, last_blocks=1,
                     freeze_after=1)  # fmt: skip
STEPS, FROZEN_AT = 6, 2
Train = Callable[..., Any]


@pytest.fixture(params=["bnb", "mlx"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return available(request.param)


@pytest.fixture
def train(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """History of a training, and the adapter's numbers by name."""
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(course, "REPORT_EVERY_S", 0)

    def run(config: LoRAConfig = FREEZES, watch: Watch | None = None, stop_at: int | None = None) -> Any:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        stop = threading.Event()
        if watch is not None and stop_at is not None:
            watch = replace(watch, stop=stop)
        history = backend.train_lora(
            tiny_decoder, TEXTS, Y, n_classes=2, bits=16, config=config, out=out, watch=watch,
            callback=lambda told: stop.set() if told["step"] == stop_at else None,
        )  # fmt: skip
        (file,) = out.glob("adapter*.safetensors")
        return history, {name: tensors.read_file(file, name) for name in tensors.names(file)}

    return run


def of_block(adapter: dict[str, Any], index: int) -> dict[str, Any]:
    found = {name: array for name, array in adapter.items() if f"layers.{index}." in name}
    assert found
    return found


def assert_equal(one: dict[str, Any], other: dict[str, Any], *, alike: bool = True) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(array, other[name]) for name, array in one.items()) == alike


def test_frozen_blocks_stay_as_they_were_and_the_last_go_on(
    train: Train, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = import_module(f"slmkit.backends._{'torch' if backend.name == 'bnb' else 'mlx'}.loop")
    own, then, learners = loop.Loop.freeze, {}, []

    def freeze(learner: Any) -> None:
        then.update({name: array.copy() for name, array in learner.weights().items()})
        learners.append(learner)
        own(learner)

    monkeypatch.setattr(loop.Loop, "freeze", freeze)
    history, adapter = train()
    assert len(history) == STEPS and len(learners) == 1
    now = learners[0].weights()
    assert_equal(of_block(now, 0), of_block(then, 0))
    assert_equal(of_block(now, 1), of_block(then, 1), alike=False)
    assert any(array.any() for name, array in of_block(adapter, 0).items() if "lora_b" in name.lower())  # they learned
    assert len(of_block(adapter, 0)) == len(of_block(adapter, 1))


@pytest.mark.parametrize("stop_at", [FROZEN_AT - 1, FROZEN_AT, FROZEN_AT + 2])
def test_a_resumed_training_gives_the_same_bits(train: Train, tmp_path: Path, stop_at: int) -> None:
    _, whole = train()
    watch = Watch(checkpoints=tmp_path / "checkpoints")
    history, _ = train(watch=watch, stop_at=stop_at)
    assert len(history) == stop_at and history[-1]["stopped"] == 1
    history, resumed = train(watch=watch)
    assert len(history) == STEPS
    assert_equal(resumed, whole)


def test_the_best_epoch_may_lie_before_it(train: Train) -> None:
    held_out = (["The train is late again.", "Call now to claim it."], [0, 1])
    history, _ = train(replace(FREEZES, learning_rate=0.5, epochs=4), Watch(held_out=held_out, patience=1))
    assert history[-1].get("stopped_early") == 1


@pytest.mark.parametrize("backend", ["bnb"], indirect=True)
def test_what_is_frozen_runs_once(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    with counted() as passes, caplog.at_level(logging.INFO):
        held, _ = train()
    assert passes == [FROZEN_AT + 1, STEPS]
    assert "blocks below the last 1 are frozen" in caplog.text and "held in memory: 0.0 MB" in caplog.text
    assert not (tmp_path / "cache" / "prefix").exists()
    monkeypatch.setattr("slmkit.backends._torch.prefix.FEW_BYTES", 0)
    with counted() as passes:
        mapped, _ = train()
    assert passes == [FROZEN_AT + 1, STEPS] and len(list((tmp_path / "cache" / "prefix").glob("*/*.npy"))) == 1
    losses = [[entry["loss"] for entry in history] for history in (held, mapped)]
    assert losses[0] == losses[1]
    monkeypatch.setattr("slmkit.backends._torch.prefix.CUTTABLE", set())  # as of an architecture that cannot be cut
    with counted() as passes:
        anew, _ = train()
    assert passes == [STEPS, STEPS]
    np.testing.assert_allclose(losses[0], [entry["loss"] for entry in anew], atol=0.02)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"last_blocks": None}, "freeze_after needs last_blocks .* got last_blocks=None"),
        ({"trains": "weights"}, "and adapters; got last_blocks=1 and trains='weights'"),
        ({"freeze_after": 3}, "must lie between 0 and the 3 epochs; got 3"),
        ({"freeze_after": 0}, "must lie between 0 and the 3 epochs; got 0"),
        ({"freeze_after": float("nan")}, "got nan"),
    ],
)
def test_what_does_not_go_together_is_refused(train: Train, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        train(replace(FREEZES, **wrong))


def test_memory_is_asked_for_all_blocks() -> None:
    params = {"last_blocks": 8, "max_batch_tokens": 512, "rank": 16}
    assert plan._sizes(params) == {"last_blocks": 8, "batch_tokens": 512, "rank": 16}
    assert plan._sizes({**params, "freeze_after": 1.0}) == {"batch_tokens": 512, "rank": 16}


def test_a_classifier_takes_it_and_is_saved_with_it(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    available("bnb")
    made = LoRAClassifier(
        str(tiny_decoder.folder), backend="bnb", last_blocks=1, freeze_after=1, learning_rate=5e-3, batch_size=3,
        max_length=32,
    ).fit(TEXTS, Y)  # fmt: skip
    made.save(tmp_path / "made")
    assert assets.read_json(tmp_path / "made" / "classifier.json")["params"]["freeze_after"] == 1


def test_the_command_line_takes_no_search_with_it(tmp_path: Path) -> None:
    arguments = ["tune", "smollm2-135m-instruct", "domain_dialogues", "-o", str(tmp_path / "out"), "--search", "2"]
    found = CliRunner().invoke(app, [*arguments, "--method", "last-k", "--freeze-after", "1"])
    assert found.exit_code == 2 and "--freeze-after does not go with --search" in found.output
    assert not list(tmp_path.iterdir())
