"""What the mlx backend does beyond the contract: settings that moved, its quantised copy, files it cannot use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmkit import assets
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend
from slmkit.errors import AssetError, InputError


def test_mlx_gets_the_settings_transformers_5_moved(mlx: Backend) -> None:
    from slmkit.backends._mlx.weights import settings_for_mlx

    assert settings_for_mlx({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}) == {"rope_theta": 1e5}
    assert settings_for_mlx({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e5}}) == {}
    gemma = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    layers = ["sliding_attention"] * 5 + ["full_attention"]
    wanted = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    assert settings_for_mlx({"rope_parameters": gemma, "layer_types": layers}) == wanted
    scaled = settings_for_mlx({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}})
    assert scaled["rope_scaling"] == {"rope_type": "llama3", "type": "llama3", "factor": 8.0}


def test_mlx_keeps_its_quantised_copy(mlx: Backend, tiny_decoder: ModelSource) -> None:
    mlx.load(tiny_decoder, bits=4).release()
    (copy,) = (assets.cache_dir() / "quantised").glob(f"{tiny_decoder.folder.name}-*mlx-affine-g64-4bit")
    stamp = (copy / "model.safetensors").stat().st_mtime_ns
    mlx.load(tiny_decoder, bits=4).release()
    assert (copy / "model.safetensors").stat().st_mtime_ns == stamp
    assert json.loads((copy / "config.json").read_text())["quantization"]["bits"] == 4
    (copy / "model.safetensors").write_bytes(b"broken")
    with mlx.load(tiny_decoder, bits=4) as model:  # made again
        assert np.isfinite(model.embed(["a"])).all()


def test_mlx_names_unreadable_weights_and_unknown_architectures(
    mlx: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_decoder.folder, tmp_path / "cut"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(AssetError, match="the weights in .*cut cannot be read"):
        mlx.load(replace(tiny_decoder, folder=folder))
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch", "architectures": ["X"]}))
    with pytest.raises(InputError, match="does not know the architecture .*nonesuch"):
        mlx.load(replace(tiny_decoder, folder=folder))


def test_mlx_leaves_a_layer_alone_whose_width_is_no_multiple_of_64(mlx: Backend) -> None:
    from mlx import nn

    from slmkit.backends._mlx.weights import _can_be_quantised

    assert _can_be_quantised("", nn.Linear(128, 3)) and not _can_be_quantised("", nn.Linear(96, 64))
