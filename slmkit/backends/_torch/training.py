"""Tunes by LoRA on the blocks' linear layers or by training weights: for labels with a head on the hidden states,
or for answers.

Weights are loaded anew for training (a model that has scored may hold buffers that no gradient passes), batches hold
rows of like length, and blocks below the first trained one run once, not in every epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from slmkit.assets import ModelSource
from slmkit.backends import _checks, _memory
from slmkit.backends import _completions as completions
from slmkit.backends import _course as course
from slmkit.backends import _shared as shared
from slmkit.backends._torch import device as devices
from slmkit.backends._torch import full, loading, loop, objectives, products, quick
from slmkit.backends.base import LoRAConfig, Progress, Watch
from slmkit.errors import AssetError, InputError, SlmkitError

# peft asks transformers for it on every adapter; whoever tunes a model can do nothing about it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def attach(model: nn.Module, adapter: Path, source: ModelSource, bits: int, tokenizer: Any) -> nn.Module:
    """The model with a saved adapter or saved weights in place; `AssetError` names what does not fit."""
    _checks.check_adapter(adapter, source, "bnb", tokenizer)
    if _checks.holds_weights(adapter):
        return full.restore(model, adapter, source, bits)
    wrapped = with_adapter(model, adapter, source)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return wrapped.base_model.model.eval().requires_grad_(False)


def with_adapter(model: nn.Module, adapter: Path, source: ModelSource) -> PeftModel:
    """PEFT's model around a saved adapter; `AssetError` names what does not fit."""
    _checks.check_adapter_files(adapter, ("adapter_config.json", "adapter_model.safetensors"))
    misfit = f"the adapter in {adapter} does not fit {source.name}"
    try:
        wrapped = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise AssetError(f"{misfit}: {str(error)[:300]}") from error
    with safe_open(adapter / "adapter_model.safetensors", "pt") as stored:
        strange = set(stored.keys()) ^ set(get_peft_model_state_dict(wrapped))
    if strange:  # peft only warns of them
        raise AssetError(f"{misfit}: {len(strange)} matrices have no counterpart, {min(strange)} among them")
    return wrapped


def train(
    source: ModelSource,
    texts: Sequence[str],
    y: np.ndarray,
    *,
    n_classes: int,
    bits: int,
    config: LoRAConfig,
    out: Path,
    callback: Progress | None,
    watch: Watch,
) -> list[dict[str, float]]:
    """Train and write adapter (or weights) and head to `out`; see `Backend.train_lora`."""
    shared.check_training(texts, y, n_classes, config, course.problems(watch, n_classes))
    opened = _open(source, bits, config, head=False)
    head = nn.Linear(opened.model.config.hidden_size, n_classes).to(opened.where)  # float32
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    more, known = watch.held_out or ((), ())
    rows = shared.encode(opened.tokenizer, [*texts, *more], config.max_length, opened.context)
    targets = shared.targets(y, known, n_classes)
    reads: type[objectives.LastToken] = objectives.MeanToken if source.kind == "encoder" else objectives.LastToken
    objective = reads(head, targets, [len(row) for row in rows], config.class_weights)
    history = _fit(opened, rows, targets, len(texts), objective, config, out, callback, watch)
    weight = head.weight.detach().cpu() * objective.scale
    save_file({"weight": weight, "bias": head.bias.detach().cpu()}, out / "head.safetensors")
    return history


def train_completion(
    source: ModelSource,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    bits: int,
    config: LoRAConfig,
    out: Path,
    callback: Progress | None,
    watch: Watch,
) -> list[dict[str, float]]:
    """Train on answers and write the adapter or the weights to `out`; see `Backend.train_completion`."""
    completions.check(prompts, answers, config, course.problems(watch))
    opened = _open(source, bits, config, head=True)
    base: Any = opened.model
    pairs, n_train = completions.training_pairs(
        opened.tokenizer,
        prompts,
        answers,
        watch.held_out,
        chat=source.chat,
        ends=shared.end_tokens(opened.tokenizer, base.generation_config.eos_token_id),
        max_length=min(config.max_length, opened.context or config.max_length),
    )
    rows, starts = [pair.read for pair in pairs], [pair.start for pair in pairs]
    return _fit(opened, rows, starts, n_train, objectives.Answers(base, pairs), config, out, callback, watch)


@dataclass(frozen=True)
class _Opened:
    """Weights loaded for one training, LoRA in place (`wrapped` around the model) or the weights themselves opened."""

    source: ModelSource
    bits: int
    model: Any
    wrapped: PeftModel | None
    tokenizer: Any
    where: torch.device

    @property
    def context(self) -> int | None:
        """Tokens the model can read, where its configuration says so."""
        return getattr(self.model.config, "max_position_embeddings", None)


def _open(source: ModelSource, bits: int, config: LoRAConfig, *, head: bool) -> _Opened:
    _checks.check_whole_bits(bits, config)
    torch.manual_seed(config.seed)
    where = devices.pick_device()
    dtype = devices.choose_dtype(None, where)
    loading.check_architecture(source)
    tokenizer = loading.load_tokenizer(source)
    model, wrapped = loading.load_module(source, bits, dtype, where), None
    if config.trains == "weights":
        full.open_up(model, config, head=head)
    else:
        wrapped = _with_lora(model, config, dtype)
        if where.type == "cpu":
            quick.fuse(wrapped)
    return _Opened(source, bits, model, wrapped, tokenizer, where)


def _fit(
    opened: _Opened,
    rows: Sequence[Sequence[int]],
    targets: Sequence[Any] | np.ndarray,
    n_train: int,
    objective: objectives.Objective,
    config: LoRAConfig,
    out: Path,
    callback: Progress | None,
    watch: Watch,
) -> list[dict[str, float]]:
    wide = opened.where.type == "cpu" and products.widens()
    exact = course.exact("torch", "transformers", threads=torch.get_num_threads(), widened=wide)
    key = {"model": opened.source.revision, "bits": opened.bits, **exact}
    pad = opened.tokenizer.pad_token_id
    training = loop.Loop(opened.model, objective, rows, n_train, pad, config, opened.where, key)
    before = full.glimpse(opened.model) if opened.wrapped is None else {}
    under_way = _memory.Training(opened.source.name, "bnb", opened.bits, training.held_bytes)
    dtype = str(training.lora[0].dtype).removeprefix("torch.")
    whole = course.identity(opened.source, "bnb", opened.bits, dtype, rows, targets) | {"device": opened.where.type}
    lengths = [len(row) for row in rows[:n_train]]
    history = course.Course(training, lengths, config, watch, callback, whole, exact).run()
    del under_way
    if opened.wrapped is None:
        full.save(opened.model, out, before)
    else:
        _check_moved(opened.wrapped)
        opened.wrapped.save_pretrained(str(out), safe_serialization=True)
    computed_in = f"{dtype}: {devices.best_dtype(opened.where.type)[1]}"
    _checks.write_adapter_facts(out, opened.source, "bnb", opened.bits, opened.tokenizer, computed_in)
    return history


def _with_lora(model: nn.Module, config: LoRAConfig, dtype: torch.dtype) -> PeftModel:
    names = {n.rsplit(".", 1)[-1] for n, m in loop.blocks_of(model).named_modules() if isinstance(m, nn.Linear)}
    if not names:
        raise InputError(f"{type(model).__name__} has no linear layers in its blocks that LoRA could adapt")
    n_blocks = len(loop.blocks_of(model))
    chosen = None
    if config.last_blocks is not None:
        loop.last_of(model, config.last_blocks)
        chosen = list(range(n_blocks - config.last_blocks, n_blocks))
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=sorted(names),
        layers_to_transform=chosen,
        layers_pattern=_blocks_name(model) if chosen else None,
        exclude_modules=r".*pooler.*" if hasattr(model, "pooler") else None,  # it reads no token's hidden state
    )
    model.requires_grad_(False)
    wrapped = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return wrapped.eval()  # no dropout: the model is frozen


def _blocks_name(model: nn.Module) -> str:
    blocks = loop.blocks_of(model)
    return next(n for n, m in model.named_modules() if m is blocks).rsplit(".", 1)[-1]


def _check_moved(model: PeftModel) -> None:
    still: list[Any] = [n for n, p in model.named_parameters() if "lora_B" in n and not p.detach().any()]
    if len(still) > len([n for n, _ in model.named_parameters() if "lora_B" in n]) // 2:
        raise SlmkitError(f"training left {len(still)} adapter matrices at zero ({still[0]}): no gradient reached them")
