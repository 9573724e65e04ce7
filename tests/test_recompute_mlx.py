"""Blocks computed anew on the way back on MLX: the same training for less memory, and for this one model only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, Case
from tuning_rows import TEXTS

from slmkit.assets import ModelSource
from slmkit.backends.base import Backend, LoRAConfig, Watch

DECODERS = [case for case in CASES if case.kind == "decoder"]
LONG = [" ".join([text] * 6) for text in TEXTS[:8]]


@pytest.fixture
def train(mlx: Backend, tmp_path: Path) -> Callable[..., Any]:
    """Losses of a training in two micro-batches a step, whether blocks were computed anew, and the most memory."""
    import mlx.core as mx

    def run(source: ModelSource, recompute: bool, **changes: Any) -> tuple[list[float], set[Any], int]:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        how = {
            "rank": 4,
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "max_length": 64,
            "max_batch_tokens": 128,
        }
        config, y = LoRAConfig(**{**how, **changes}), np.arange(len(LONG)) % 2
        mx.clear_cache()
        mx.reset_peak_memory()
        history = mlx.train_lora(
            source, LONG, y, n_classes=2, bits=16, config=config, out=out, watch=Watch(recompute=recompute)
        )
        return [e["loss"] for e in history], {e.get("recomputed") for e in history}, int(mx.get_peak_memory())

    return run


@pytest.mark.parametrize("name", [case.name for case in DECODERS])
def test_every_architecture_learns_the_same(
    name: str, checkpoints: Callable[[Case], ModelSource], train: Callable[..., Any]
) -> None:
    source = checkpoints(next(case for case in DECODERS if case.name == name))
    usual, lean = (train(source, recompute, epochs=1) for recompute in (False, True))
    assert usual[1] == {None} and lean[1] == {1}
    np.testing.assert_allclose(lean[0], usual[0], rtol=2e-3, atol=2e-3)


def test_a_deep_model_needs_far_less_memory(
    checkpoints: Callable[[Case], ModelSource], train: Callable[..., Any]
) -> None:
    small = next(case for case in DECODERS if case.name == "SmolLM2")
    source = checkpoints(replace(small, name="SmolLM2, 12 blocks", sizes={**small.sizes, "layers": 12}))
    usual, lean, after = (train(source, recompute) for recompute in (False, True, False))
    assert lean[1] == {1} and lean[2] < 0.6 * usual[2]
    np.testing.assert_allclose(lean[0], usual[0], rtol=2e-3, atol=2e-3)
    assert after[:2] == usual[:2]  # another model of the kind keeps its own way


def test_trained_weights_and_last_blocks_too(tiny_decoder: ModelSource, train: Callable[..., Any]) -> None:
    for changes in ({"trains": "weights", "learning_rate": 1e-3}, {"last_blocks": 1}):
        usual, lean = (train(tiny_decoder, recompute, **changes)[0] for recompute in (False, True))
        np.testing.assert_allclose(lean, usual, rtol=2e-3, atol=2e-3)
