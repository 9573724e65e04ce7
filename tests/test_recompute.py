"""Blocks computed anew on the way back: the same gradients for less kept, when memory asks for it and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_course import Planted, walk
from tuning_rows import LABELS, TEXTS

import slmkit
from slmkit import backends, estimate
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig, Watch
from slmkit.classify import LoRAClassifier
from slmkit.errors import NotEnoughMemory

torch = pytest.importorskip("torch")
MB = 10**6
SMOL = "smollm2-135m-instruct"


def step(source: ModelSource, recompute: bool, **changes: Any) -> tuple[float, dict[str, Any], int]:
    """Loss and gradients of one batch in two micro-batches, and the bytes that were kept for the way back."""
    from slmkit.backends._torch import loop, objectives, training

    config = LoRAConfig(rank=4, max_length=32, **changes)
    opened = training._open(source, 8 if changes.get("trains") is None else 16, config, head=False)
    for name, parameter in opened.model.named_parameters():  # or A would get no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    head = torch.nn.Linear(opened.model.config.hidden_size, 2)
    torch.nn.init.normal_(head.weight, std=0.1)
    rows = [[5 + i, 7, 9 + i, 11, 13][: 3 + i % 3] for i in range(8)]
    objective = objectives.LastToken(head, np.arange(8) % 2, [len(row) for row in rows])
    training = loop.Loop(opened.model, objective, rows, 8, 0, config, opened.where, {})
    assert not recompute or (training.recompute() and not training.recompute())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        loss, _ = training.gradients(np.arange(8), 20)
    return loss, {n: p.grad for n, p in zip(training.names, training.trained, strict=True)}, sum(kept)


@pytest.mark.parametrize("changes", [{}, {"last_blocks": 1}, {"trains": "weights"}])
@pytest.mark.parametrize("kind", ["tiny_decoder", "tiny_encoder"])
def test_gradients_are_those_of_blocks_that_keep_everything(
    request: pytest.FixtureRequest, kind: str, changes: dict[str, Any]
) -> None:
    source = request.getfixturevalue(kind)
    loss, gradients, kept = step(source, False, **changes)
    again, anew, spared = step(source, True, **changes)
    assert again == pytest.approx(loss, rel=1e-6) and all(gradients[n].abs().max() > 0 for n in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(anew[name], gradient, rtol=1e-4, atol=1e-6)
    assert spared < 0.5 * kept


def train(source: ModelSource, out: Path, watch: Watch | None) -> list[dict[str, float]]:
    config, y = LoRAConfig(rank=4, epochs=1, batch_size=4, learning_rate=3e-3), np.arange(len(TEXTS)) % 2
    out.mkdir()
    how: dict[str, Any] = {"n_classes": 2, "bits": 16, "config": config, "out": out, "watch": watch}
    return backends.get("bnb").train_lora(source, TEXTS, y, **how)


def test_a_training_does_it_where_it_is_told_to_and_says_so(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    usual, lean = (train(tiny_decoder, tmp_path / str(w), w and Watch(recompute=True)) for w in (None, True))
    assert not any("recomputed" in entry for entry in usual) and all(entry["recomputed"] == 1 for entry in lean)
    np.testing.assert_allclose([e["loss"] for e in lean], [e["loss"] for e in usual], rtol=1e-3)


def test_it_begins_when_a_single_row_is_too_much_and_is_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner, watch = Planted(bears=9, spares=20), Watch(checkpoints=tmp_path / "kept")
    history = walk(learner, watch, epochs=1)
    assert "with one row of 13 tokens" in caplog.text and "computed a second time on the way back" in caplog.text
    assert [entry.get("recomputed") for entry in history][-1] == 1 and learner.value[0] == 2
    later = Planted(bears=9, spares=20)
    walk(later, watch, epochs=1)
    assert later.bears == 20  # it was told at once, not by an error
    with pytest.raises(NotEnoughMemory, match="Take a smaller max_length"):
        walk(Planted(bears=8, spares=9))


def test_the_estimate_asks_for_it_between_what_fits_and_what_does_not(
    monkeypatch: pytest.MonkeyPatch, tiny_decoder: ModelSource
) -> None:
    need = [sum(estimate.model_memory(SMOL, 16, training=True, recompute=lean).values()) for lean in (False, True)]
    assert need[1] < need[0] - 150 * MB
    assert not estimate.check_training(SMOL, 16, limit=(need[0], "all"))
    assert estimate.check_training(SMOL, 16, limit=(need[0] - 1, "less"))
    assert estimate.check_training(SMOL, 16, limit=(need[1], "least"))
    with pytest.raises(NotEnoughMemory, match="with blocks computed anew on the way back"):
        estimate.check_training(SMOL, 16, limit=(need[1] - 1, "too little"))
    on_mlx = sum(estimate.model_memory(SMOL, 16, training=True, backend="mlx").values())
    assert not estimate.check_training(SMOL, 16, limit=(on_mlx, "all"), backend="mlx")
    assert estimate.check_training(SMOL, 16, limit=(on_mlx - 1, "less"), backend="mlx")
    lean = sum(estimate.model_memory(SMOL, 16, training=True, recompute=True, backend="mlx").values())
    with pytest.raises(NotEnoughMemory):
        estimate.check_training(SMOL, 16, limit=(lean - 1, "too little"), backend="mlx")
    told = slmkit.estimate(SMOL, method="lora", seq=128, batch=4, limit_bytes=need[0] - MB)
    assert told.fits and "block inputs" in {term.name for term in told.terms} and told.peak_bytes == need[1]
    assert any("computed anew" in note for note in told.notes)
    assert told.times.step_s > slmkit.estimate(SMOL, method="lora", seq=128, batch=4).times.step_s
    how: dict[str, Any] = {"training": True, "batch_tokens": 512, "rank": 16}
    tight = sum(estimate.model_memory(tiny_decoder, 16, **how).values()) - 1
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", str(tight))
    fitted = LoRAClassifier(str(tiny_decoder.folder), epochs=1, checks=False).fit(TEXTS, LABELS)
    assert all(entry["recomputed"] == 1 for entry in fitted.history_)
