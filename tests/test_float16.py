"""Float16 where there is no bfloat16: chosen by capability, with the loss amplified so that small gradients live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmkit import adapters, backends
from slmkit.assets import ModelSource
from slmkit.backends import _shared as shared
from slmkit.backends.base import LoRAConfig, Watch

torch = pytest.importorskip("torch")
TEXTS = ["You have won a free prize! Call now.", "See you at lunch tomorrow.", "Your card will be blocked today.",
         "Thanks for the flowers, they are lovely.", "Confirm your password.", "Sales fell by a tenth."]  # fmt: skip
Y = np.array([1, 0] * 3)


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((9, 0), "bfloat16", "compute capability 9.0 has bfloat16"),
        ((8, 0), "bfloat16", "compute capability 8.0 has bfloat16"),
        ((7, 5), "float16", "7.5 only emulates bfloat16 and has float16, with the loss amplified in training"),
        ((6, 1), "float32", "6.1 only emulates bfloat16, and is no quicker in float16"),
    ],
)
def test_a_card_computes_in_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str, reason: str
) -> None:
    from slmkit.backends._torch import device

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    found, why = device.best_dtype.__wrapped__("cuda")
    assert found == getattr(torch, dtype) and reason in why


def test_a_cpu_computes_in_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from slmkit.backends._torch import device

    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native)
        assert device.best_dtype.__wrapped__("cpu")[0] == dtype


def gradients(source: ModelSource, dtype: Any, amplified: float, size: float | None) -> tuple[Any, float]:
    """Of the adapter, and the amplification left: for labels by a head of a size (what comes back is as small), or
    for answers."""
    from slmkit.backends._torch import device, loop, objectives, training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "best_dtype", lambda _: (dtype, "planted"))
        opened = training._open(source, 16, LoRAConfig(rank=4, max_length=32), head=False)
    for name, parameter in opened.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    torch.manual_seed(1)
    rows = [[5 + i, 7, 9 + i, 11, 13] for i in range(8)]
    objective: Any = objectives.Answers(opened.model, [shared.Pair(tuple(row), (13, 2)) for row in rows])
    if size is not None:
        head = torch.nn.Linear(opened.model.config.hidden_size, 2)
        torch.nn.init.normal_(head.weight, std=size)
        objective = objectives.LastToken(head, np.arange(8) % 2, [5] * 8)
    loop_ = loop.Loop(opened.model, objective, rows, 8, 0, LoRAConfig(), opened.where, {})
    assert loop_.amplified == (loop.AMPLIFIED if dtype == torch.float16 else 1)
    loop_.amplified = amplified
    loop_.gradients(np.arange(8), 512)
    parts = [p.grad.flatten() for n, p in zip(loop_.names, loop_.trained, strict=True) if "lora_" in n]
    return torch.cat(parts), loop_.amplified


def test_small_gradients_live_only_in_an_amplified_loss(tiny_decoder: ModelSource) -> None:
    exact, _ = gradients(tiny_decoder, torch.float32, 1.0, 1e-7)
    amplified, _ = gradients(tiny_decoder, torch.float16, 2.0**16, 1e-7)
    plain, _ = gradients(tiny_decoder, torch.float16, 1.0, 1e-7)
    off = [float((g - exact).norm() / exact.norm()) for g in (amplified, plain)]
    assert off[0] < 0.05 < 0.5 < off[1], off


def test_answers_are_learned_from_an_amplified_loss_too(tiny_decoder: ModelSource) -> None:
    exact, _ = gradients(tiny_decoder, torch.float32, 1.0, None)
    amplified, _ = gradients(tiny_decoder, torch.float16, 2.0**8, None)
    assert float((amplified - exact).norm() / exact.norm()) < 0.05


def test_what_is_too_much_for_it_is_halved_until_it_fits(tiny_decoder: ModelSource) -> None:
    exact, _ = gradients(tiny_decoder, torch.float32, 1.0, 1.0)
    halved, left = gradients(tiny_decoder, torch.float16, 2.0**40, 1.0)
    assert 1 < left < 2.0**30
    assert float((halved - exact).norm() / exact.norm()) < 0.05


def test_a_training_in_float16_says_so_and_goes_on_with_its_amplification(
    tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmkit.backends._torch import device, loop

    monkeypatch.setattr(device, "best_dtype", lambda _: (torch.float16, "it is planted"))
    monkeypatch.setattr(loop, "AMPLIFIED", 2.0**40)
    engine, y = backends.get("bnb"), Y

    def train(name: str, watch: Watch | None = None, callback: Any = None) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        config = LoRAConfig(rank=4, epochs=6, batch_size=2, learning_rate=5e-3)
        how: dict[str, Any] = {"n_classes": 2, "bits": 16, "config": config, "out": tmp_path / name}
        return engine.train_lora(tiny_decoder, TEXTS, y, **how, watch=watch, callback=callback)

    losses = [entry["loss"] for entry in train("whole")]
    assert losses[-1] < 0.5 * losses[0]
    told = json.loads((tmp_path / "whole" / adapters.FACTS).read_text())
    assert told["computed_in"] == "float16: it is planted"

    def stop(event: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("cut", Watch(checkpoints=tmp_path / "kept"), stop)
    monkeypatch.setattr(loop, "AMPLIFIED", 2.0**2)  # what the checkpoint says counts
    again = [entry["loss"] for entry in train("cut", Watch(checkpoints=tmp_path / "kept"))]
    assert again == losses
    saved = [tmp_path / name / "adapter_model.safetensors" for name in ("whole", "cut")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
