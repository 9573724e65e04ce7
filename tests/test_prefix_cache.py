"""States of the lower blocks: the same training as without them, computed once for all runs, and never a broken one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available

from slmkit.assets import ModelSource, tensors
from slmkit.backends import _states as states
from slmkit.backends.base import LoRAConfig, Watch

TEXTS = ["You have won a free prize! Call now.", "See you at lunch tomorrow.", "Your card will be blocked today.",
         "Thanks for the flowers, they are lovely.", "Confirm your password.", "Sales fell by a tenth."]  # fmt: skip
Y = np.array([1, 0] * 3)
LORA = LoRAConfig(rank=4, alpha=8, epochs=3, learning_rate=5e-3, batch_size=4, max_length=32, last_blocks=1)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Passes through each of the two blocks while inside."""
    from torch.nn.modules.module import register_module_forward_hook
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    passes = [0, 0]

    def count(module: Any, *_: Any) -> None:
        if isinstance(module, LlamaDecoderLayer):
            passes[module.self_attn.layer_idx] += 1

    hook = register_module_forward_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


@pytest.fixture
def train(tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Losses of a training with a cache of this test's own, and passes through both blocks."""
    backend = available("bnb")
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))

    def run(texts: list[str] = TEXTS, config: LoRAConfig = LORA, watch: Watch | None = None) -> Any:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        how: dict[str, Any] = {"n_classes": 2, "bits": 16, "config": config, "out": out, "watch": watch}
        with counted() as passes:
            history = backend.train_lora(tiny_decoder, texts, Y[: len(texts)], **how)
        return [entry["loss"] for entry in history], passes, tensors.read(out, "weight")

    return run


def segments(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "prefix").glob("*/*.npy"))


def test_training_on_kept_states_is_training_on_all_blocks(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        kept, passes, _ = train()
    assert passes[0] == 1 and passes[1] >= 6  # two steps in each of three epochs
    assert "of 6 rows: 0 there, 0.0 MB to compute and keep in" in caplog.text
    monkeypatch.setattr(states, "LIMIT_BYTES", 0)
    held, passes, _ = train()
    assert passes[0] == 1 and "are held in memory" in caplog.text and held == kept
    monkeypatch.setattr("slmkit.backends._torch.prefix.MEMORY_BYTES", 0)
    anew, passes, _ = train()
    assert passes[0] == passes[1] >= 6 and "lower blocks run in every epoch" in caplog.text
    np.testing.assert_allclose(kept, anew, atol=0.02)


def test_a_later_run_computes_no_lower_block_and_gets_the_same_weights(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    first, _, weight = train()
    again, passes, same = train()
    assert passes[0] == 0 and again == first
    np.testing.assert_array_equal(same, weight)
    _, passes, _ = train(TEXTS[:4], replace(LORA, epochs=1, learning_rate=1e-3, rank=2))  # fewer rows, other settings
    assert passes[0] == 0 and len(segments(tmp_path)) == 1
    _, passes, _ = train(TEXTS[1:5] + ["A text that was not there."])
    assert passes[0] == 1 and len(segments(tmp_path)) == 2
    small, large = sorted(len(np.load(path)) for path in segments(tmp_path))
    assert 2 * small < large  # the new row alone


def test_held_out_rows_have_their_states_too(train: Callable[..., Any]) -> None:
    held_out = (["The train is late again.", "Call now to claim it."], [0, 1])
    _, passes, _ = train(watch=Watch(held_out=held_out))
    _, again, _ = train(watch=Watch(held_out=held_out, stop=threading.Event()))
    assert passes[0] == 1 and again[0] == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "no index", "odd index"])
def test_what_is_broken_is_computed_again(
    train: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    kept, *_ = train()
    (segment,) = segments(tmp_path)
    content, index = segment.read_bytes(), segment.with_suffix(".json")
    {
        "flip": lambda: segment.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "cut": lambda: segment.write_bytes(content[:-1]),
        "no index": index.unlink,
        "odd index": lambda: index.write_text('{"rows": 3}'),
    }[damage]()
    again, passes, _ = train()
    assert passes[0] == 1
    np.testing.assert_allclose(again, kept, atol=0.02)
    assert damage == "no index" or "computed again" in caplog.text


# the store


def rows_of(*lengths: int) -> list[states.Row]:
    return [tuple(range(n)) for n in lengths]


def filled(key: str, n_tokens: int) -> states.Store:
    store = states.Store({"model": key}, 8)
    assert store.look(rows_of(n_tokens)) == rows_of(n_tokens) and store.room(8 * n_tokens)
    store.add(rows_of(n_tokens), [np.full((n_tokens, 8), n_tokens, np.uint8)])
    return store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    return tmp_path


def test_rows_come_back_and_belong_to_one_model(cache: Path) -> None:
    filled("a", 5)
    again, other = states.Store({"model": "a"}, 8), states.Store({"model": "b"}, 8)
    assert again.look(rows_of(5, 6)) == rows_of(6) and other.look(rows_of(5)) == rows_of(5)
    np.testing.assert_array_equal(again[rows_of(5)[0]], np.full((5, 8), 5, np.uint8))


def test_the_limit_takes_what_was_unused_for_longest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, at in (("old", 1), ("new", 2)):
        filled(key, 10)
        (index,) = states.Store({"model": key}, 8).folder.glob("*.json")
        os.utime(index, (at, at))
    monkeypatch.setattr(states, "LIMIT_BYTES", 600)  # a segment has 208 bytes
    filled("third", 30)
    assert states.Store({"model": "old"}, 8).look(rows_of(10)) and not states.Store({"model": "new"}, 8).look(
        rows_of(10)
    )
    assert not states.Store({"model": "x"}, 8).room(601)


def test_a_full_disk_leaves_nothing_and_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from full_disk import open_on_full_disk

    monkeypatch.setattr(states, "open", open_on_full_disk(150, ".part"), raising=False)
    with pytest.raises(OSError, match="No space left"):
        filled("a", 50)
    assert not [p for p in cache.rglob("*") if p.is_file()]
