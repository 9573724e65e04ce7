"""What may go wrong in a step, and which epoch is kept: planted in a learner of one weight."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmkit import backends
from slmkit.backends import _course as course
from slmkit.backends.base import LoRAConfig, Watch
from slmkit.errors import InputError, NotEnoughMemory


@dataclass
class Planted:
    """A learner of one weight: what goes wrong with it, and when, is told to it."""

    bears: int = 10**9  # tokens at once
    spares: int = 0  # tokens at once that it bears when it computes anew on the way back; 0 where it cannot
    losses: dict[int, float] = field(default_factory=dict)  # by the number of the call
    norms: dict[int, float] = field(default_factory=dict)
    held_out: list[float] = field(default_factory=list)
    value: np.ndarray = field(default_factory=lambda: np.zeros(1))
    asked: list[int] = field(default_factory=list)
    calls: int = 0

    def ready(self) -> Any:
        return nullcontext()

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        self.asked.append(max_tokens)
        if max_tokens > self.bears:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        self.calls += 1
        return self.losses.get(self.calls, 1.0), self.norms.get(self.calls, 1.0)

    def update(self, rate: float) -> None:
        self.value += 1

    def free(self) -> None:
        pass

    def recompute(self) -> bool:
        spared, self.bears = self.spares, self.spares or self.bears
        self.spares = 0
        return bool(spared)

    def count(self, batch: np.ndarray) -> int:
        return len(batch)

    def measure(self, max_tokens: int) -> dict[str, float]:
        return {"loss": self.held_out.pop(0)}

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": self.value}

    def moments(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, weights: Any, moments: Any = None) -> None:
        self.value = weights["w"].copy()


def walk(learner: Planted, watch: Watch | None = None, epochs: float = 4, tokens: int = 512) -> list[dict[str, float]]:
    """Two steps an epoch, of four rows with 10 to 16 tokens."""
    config = LoRAConfig(epochs=epochs, batch_size=4, max_batch_tokens=tokens)
    lengths = [10, 11, 12, 13, 14, 15, 16, 16]
    return course.Course(learner, lengths, config, watch or Watch(), None, {"dtype": "float16"}, {}).run()


def test_memory_that_runs_out_halves_the_tokens_at_once_and_does_the_step_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learner = Planted(bears=20)
    history = walk(learner)
    assert learner.asked[0] == 512 and learner.asked[1] in range(26, 33)  # half of four rows of 13 to 16 tokens
    assert learner.value[0] == 8 and {e["max_batch_tokens"] for e in history} == {learner.asked[-1]}
    assert learner.asked[-1] <= 20 and set(learner.asked[3:]) == {learner.asked[-1]}
    assert "memory ran out at step 1" in caplog.text and "still 4 rows a step" in caplog.text


def test_memory_that_does_not_suffice_for_a_row_says_what_to_try() -> None:
    with pytest.raises(NotEnoughMemory, match="with one row of 1[0-9] tokens .* Take a smaller max_length"):
        walk(Planted(bears=8))


def test_an_error_that_is_not_of_memory_comes_out_as_it_is() -> None:
    learner = Planted(losses={1: 1.0})
    learner.gradients = lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        walk(learner)


def test_a_loss_that_is_no_number_keeps_the_weights_of_the_last_good_step(tmp_path: Path) -> None:
    learner, kept = Planted(losses={5: float("nan")}), tmp_path / "kept"
    with pytest.raises(InputError) as error:
        walk(learner, Watch(checkpoints=kept))
    for words in ("loss became nan at step 5 of 8", "(5e-05 instead of 0.0005)", "bfloat16 or float32", "of step 3"):
        assert words in str(error.value)
    assert learner.value[0] == 3 and backends.unfinished(kept) == (3, 8)
    with pytest.raises(InputError, match="loss became nan at step 5"):  # and says so again, at no cost
        walk(Planted(), Watch(checkpoints=kept))
    stop, again = threading.Event(), Planted()
    stop.set()
    history = walk(again, Watch(checkpoints=kept, stop=stop))
    assert again.value[0] == 3 and len(history) == 3 and history[-1]["stopped"] == 1


def test_a_gradient_without_bound_keeps_the_present_weights(tmp_path: Path) -> None:
    learner = Planted(norms={4: float("inf")})
    with pytest.raises(InputError, match="gradient's norm became inf at step 4 of 8.*weights of step 3 are kept"):
        walk(learner, Watch(checkpoints=tmp_path / "kept"))
    assert learner.value[0] == 3


def test_without_a_copy_the_weights_of_an_earlier_checkpoint_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "UNDO_BYTES", 0)
    learner = Planted(losses={7: float("inf")})
    with pytest.raises(InputError, match="became inf at step 7 of 8.*weights of step 4 are kept"):
        walk(learner, Watch(checkpoints=tmp_path / "kept"))
    assert learner.value[0] == 4


def test_the_weights_of_the_best_epoch_are_left_and_patience_ends_it() -> None:
    learner = Planted(held_out=[0.9, 0.5, 0.7, 0.6, 0.4])
    history = walk(learner, Watch(held_out=(["a"], [0]), patience=2), epochs=9)
    assert learner.value[0] == 4 and len(history) == 8
    assert [e["held_out_loss"] for e in history if "held_out_loss" in e] == [0.9, 0.5, 0.7, 0.6]
    assert history[-1]["stopped_early"] == 1


def test_the_best_epoch_is_known_after_an_interruption(tmp_path: Path) -> None:
    watch = Watch(checkpoints=tmp_path / "kept", held_out=(["a"], [0]), patience=2)
    with pytest.raises(IndexError):  # no fourth value: the learner fails when it is asked for one
        walk(Planted(held_out=[0.9, 0.5, 0.7]), watch, epochs=9)
    assert backends.unfinished(tmp_path / "kept") == (8, 18)
    second = Planted(held_out=[0.6, 0.1])
    history = walk(second, watch, epochs=9)
    assert second.value[0] == 4 and len(history) == 8 and history[-1]["stopped_early"] == 1
    third = Planted()
    assert walk(third, watch, epochs=9) == history and third.value[0] == 4


def test_checkpoints_of_an_ended_training_are_cleared_and_those_of_another_left(tmp_path: Path) -> None:
    history = walk(Planted(), Watch(checkpoints=tmp_path / "kept"))
    assert not backends.clear_ended(tmp_path / "none", history)
    other = [{**history[0], "seconds": history[0]["seconds"] + 1}, *history[1:]]
    stopped = [*history[:-1], {**history[-1], "stopped": 1}]
    for foreign in (other, history[:3], stopped):
        assert not backends.clear_ended(tmp_path / "kept", foreign)
        assert backends.unfinished(tmp_path / "kept") == (8, 8)
    (tmp_path / "kept" / ".aside-of-a-kill").mkdir()
    for file in sorted((tmp_path / "kept").glob("checkpoint-*"))[-1].iterdir():
        file.unlink()  # the removal was cut off: the checkpoint before it is of the same training
    assert backends.clear_ended(tmp_path / "kept", history) and not (tmp_path / "kept").exists()
