"""Past the last attention only what is read is computed, and everything that is read is as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, Case

from slmkit.assets import ModelSource

torch = pytest.importorskip("torch")
from test_lanes import gradients  # noqa: E402

from slmkit.backends._torch import objectives, places  # noqa: E402


class Doubles(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Any) -> Any:
        self.shapes.append(tuple(x.shape))
        return 2 * x[..., :3]


def test_only_the_places_are_computed_in_this_thread_and_only_inside() -> None:
    block, x = torch.nn.Module(), torch.randn(2, 5, 4, requires_grad=True)
    block.mlp = doubles = Doubles()
    last = places.LastBlock(block)
    rows, positions = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2])
    with last.reading((rows, positions)):
        out = block.mlp(x)
        thread = threading.Thread(target=block.mlp, args=(x,))
        thread.start()
        thread.join()
        with pytest.raises(KeyError), last.reading((rows, positions)):
            raise KeyError
    whole = block.mlp(x)
    assert doubles.shapes == [(3, 4), (2, 5, 4), (2, 5, 4)]
    assert out.shape == whole.shape and torch.equal(out[rows, positions], whole[rows, positions])
    assert int(out.detach().any(-1).sum()) == 3
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert int(slope.any(-1).sum()) == 3 and torch.equal(slope[rows, positions, :3], torch.full((3, 3), 2.0))


def test_a_block_of_other_names_computes_all() -> None:
    block = torch.nn.Module()
    block.feed = doubles = Doubles()
    with places.LastBlock(block).reading((torch.tensor([0]), torch.tensor([1]))):
        block.feed(torch.randn(1, 2, 4))
    assert doubles.shapes == [(1, 2, 4)]


@pytest.mark.parametrize("answers", [False, True], ids=["labels", "answers"])
@pytest.mark.parametrize("bits", [16, 4])
def test_gradients_are_those_of_all_places(
    tiny_chat_decoder: ModelSource, bits: int, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = list[int]()
    there = places.LastBlock._there

    def seen(last: places.LastBlock, forward: Any, x: Any) -> Any:
        kept.append(len(last._threads.places[0]))
        return there(last, forward, x)

    with monkeypatch.context() as patch:
        patch.setattr(places.LastBlock, "_there", seen)
        loss, own = gradients(tiny_chat_decoder, bits, 1, answers)
    assert kept == [16 if answers else 8] * 2  # places, of the projection and of the MLP
    monkeypatch.setattr(places, "AFTER", ())
    same, whole = gradients(tiny_chat_decoder, bits, 1, answers)
    assert loss == pytest.approx(same, rel=1e-3)
    assert float((own - whole).norm() / whole.norm()) < 0.02


def test_answers_of_a_quantised_head_that_is_the_embedding(checkpoints: Callable[[Case], ModelSource]) -> None:
    source = checkpoints(next(case for case in CASES if case.name == "SmolLM2"))
    loss, slopes = gradients(source, 4, 1, True)
    assert loss > 1 and float(slopes.norm()) > 0


def test_the_head_reads_the_last_token_of_each_row() -> None:
    objective = objectives.LastToken(torch.nn.Linear(4, 2), np.array([0, 1, 0]), [3, 5, 1])
    hidden = torch.randn(2, 5, 4)
    rows, positions = objective.places(np.array([1, 2]))
    assert rows.tolist() == [0, 1] and positions.tolist() == [4, 0]
    assert torch.equal(objective.vectors(hidden, np.array([1, 2])), hidden[[0, 1], [4, 0]])
    assert objectives.MeanToken(torch.nn.Linear(4, 2), np.array([0]), [3]).places(np.array([0])) is None
