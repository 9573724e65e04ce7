"""Scales that are looked for: less error in the same bytes, kernels that read them, and folders made before them."""

from __future__ import annotations

import json
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes import functional as bnbf
from safetensors.torch import load_file, save_file
from torch import nn

import slmkit
from slmkit import assets
from slmkit.assets import ModelSource, stored
from slmkit.backends._torch import loading, nf4, nibbles, packing, quantise
from slmkit.errors import AssetError


def normal(rows: int = 512, columns: int = 640) -> torch.Tensor:
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16()


def error(weight: torch.Tensor, packed: torch.Tensor, state: bnbf.QuantState) -> float:
    """Share of the weight's square that is lost, as bitsandbytes opens it in float32."""
    absmax = state.absmax.float()
    if state.nested:
        absmax = bnbf.dequantize_blockwise(state.absmax, state.state2) + state.offset
    opened = bnbf.QuantState(
        absmax, shape=state.shape, code=state.code, blocksize=state.blocksize, quant_type="nf4", dtype=torch.float32
    )
    return float((bnbf.dequantize_4bit(packed, opened) - weight).square().sum() / weight.float().square().sum())


@pytest.mark.parametrize(("nested", "most"), [(True, 0.85), (False, 0.72)], ids=["layer", "embedding"])
def test_the_error_is_less_than_that_of_the_largest_magnitude_in_the_same_bytes(nested: bool, most: float) -> None:
    """Layers keep their blocks of 64; an embedding has smaller ones, with scales of half the width."""
    weight = normal()
    usual = bnbf.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=nested)
    found = quantise.quantise_tensor(weight, 4, nested=nested)
    assert error(weight, *found) < most * error(weight, *usual)
    assert found[0].shape == usual[0].shape and found[1].absmax.nbytes == usual[1].absmax.nbytes


def test_no_other_scale_is_much_better_and_the_signs_count() -> None:
    weight, block = normal(64), 64
    blocks = weight.float().view(-1, block)
    code = bnbf.get_4bit_type("nf4", device="cpu")

    def lost(scales: torch.Tensor) -> torch.Tensor:
        nearest = (blocks / scales).unsqueeze(-1).sub(code).abs().argmin(-1)
        return (code[nearest] * scales - blocks).square().sum(1)

    top = blocks.abs().amax(1, keepdim=True)
    tried = torch.stack([lost(top * factor / 100) for factor in (*range(-130, -59), *range(60, 131))])
    _, scales = nf4.quantise(weight, block)
    assert lost(scales.view(-1, 1)).sum() < 1.03 * tried.amin(0).sum()
    assert 0.2 < (scales < 0).float().mean() < 0.8
    assert lost(scales.view(-1, 1)).sum() < 0.97 * tried[71:].amin(0).sum()


def test_a_block_of_zeros_and_one_of_a_single_number_come_back() -> None:
    weight = torch.zeros(2, 64, dtype=torch.bfloat16)
    weight[1, 5] = -0.75
    packed, state = quantise.quantise_tensor(weight, 4, nested=False)
    state.absmax = state.absmax.float()
    assert torch.equal(bnbf.dequantize_4bit(packed, state), weight)


@pytest.mark.skipif(not packing.available(), reason="this CPU has no AVX512-BF16, so weights are never laid out anew")
def test_the_layout_for_writing_reads_negative_scales_and_blocks_of_32() -> None:
    weight = normal(256)
    packed, state = quantise.quantise_tensor(weight, 4, nested=False)
    assert (state.absmax < 0).any() and state.blocksize == 32
    x = torch.randn(1, 640, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = bnb.matmul_4bit(x, nibbles.pack(packed, 256), quant_state=nibbles.packed_state(state)).float()
    exact = x.float() @ bnbf.dequantize_4bit(packed, state).float().T
    assert (found - exact).norm() < 0.01 * exact.norm()


def test_numbers_that_are_none_are_refused_by_name(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    tensors = load_file(tiny_decoder.folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    for path in tiny_decoder.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssetError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"):
        slmkit.quantize(str(tmp_path), out=tmp_path / "out", backend="bnb")
    assert not (tmp_path / "out").exists()


def test_folders_of_the_scheme_before_are_read_as_they_are(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    """Largest magnitude as scale, blocks of 64 throughout, an embedding's scales in float32."""
    old = tmp_path / "old"
    slmkit.quantize(tiny_decoder.name, out=old, backend="bnb")
    weights = load_file(tiny_decoder.folder / "model.safetensors")
    model = loading.empty_model(tiny_decoder.folder, "decoder", torch.bfloat16)
    tensors = {name: tensor.bfloat16() for name, tensor in weights.items()}
    wanted = {}
    for name, module in quantise.quantisable(model):
        key = f"{name}.weight"
        if key not in weights:
            continue
        nested = isinstance(module, nn.Linear)
        tensors[key], state = bnbf.quantize_4bit(
            weights[key].bfloat16(), blocksize=64, quant_type="nf4", compress_statistics=nested
        )
        tensors |= {f"{key}.{part}": value for part, value in quantise.state_tensors(state, 4).items()}
        wanted[name] = bnbf.dequantize_4bit(tensors[key], state).float()
    save_file(tensors, old / "model.safetensors", {"format": "pt", "scheme": "nf4-dq"})
    for name in ("config.json", stored.CARD):
        text = (old / name).read_text()
        facts = json.loads(text.replace("nf4-dq-mse", "nf4-dq"))
        facts.pop("sha256", None)
        (old / name).write_text(json.dumps(facts))
    with slmkit.load(str(old)) as read:
        assert read.scheme == "nf4-dq"
        read.loglikelihood(["The bank"], [" wrote"])
    opened = loading.load_module(assets.resolve(str(old)), 4, torch.bfloat16, torch.device("cpu"))
    for name, tensor in wanted.items():
        layer = opened.get_submodule(name)
        assert torch.allclose(layer.dequantised().float(), tensor, rtol=0.01, atol=1e-4), name  # type: ignore[operator]
