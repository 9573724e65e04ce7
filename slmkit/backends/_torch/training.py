"""LoRA for classification: an adapter on the blocks' linear layers and a head on the last token's hidden state.

Weights are loaded anew for training (a model that has scored may hold buffers that no gradient passes), batches hold
texts of like length, and micro-batches below a token budget keep memory small without changing the effective batch.
Adapter weights compute in the model's number type while the optimiser works on float32 copies (Micikevicius et al.
2018, arXiv 1710.03740). Blocks below the first trained one run once, not in every epoch. No vocabulary logits are
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from slmkit.backends import _shared as shared
from slmkit.backends._torch import device as devices
from slmkit.backends._torch import loading, prefix, scoring, traits
from slmkit.backends.base import LoRAConfig, Progress
from slmkit.errors import AssetError, InputError, SlmkitError


def attach(model: nn.Module, adapter: Path, source: ModelSource, tokenizer: Any) -> nn.Module:
    """The model with a saved adapter in place; `AssetError` names what does not fit."""
    _checks.check_adapter(adapter, source, "bnb", tokenizer)
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
) -> list[dict[str, float]]:
    """Train and write adapter and head to `out`; see `Backend.train_lora`."""
    shared.check_training(texts, y, n_classes, config)
    torch.manual_seed(config.seed)
    where = devices.pick_device()
    dtype = devices.choose_dtype(None, where)
    loading.check_architecture(source)
    tokenizer = loading.load_tokenizer(source)
    model = _with_lora(loading.load_module(source, bits, dtype, where), config, dtype)
    head = nn.Linear(model.config.hidden_size, n_classes).to(where)  # float32
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    context = getattr(model.config, "max_position_embeddings", None)
    rows = shared.encode(tokenizer, texts, config.max_length, context)
    loop = _Loop(model, head, rows, torch.as_tensor(y), tokenizer.pad_token_id, config, where)
    under_way = _memory.Training(source.name, "bnb", bits, loop.held_bytes)
    history = loop.run(callback)
    del under_way
    _check_moved(model)
    model.save_pretrained(str(out), safe_serialization=True)
    _checks.write_adapter_facts(out, source, "bnb", bits, tokenizer)
    save_file({"weight": head.weight.detach().cpu(), "bias": head.bias.detach().cpu()}, out / "head.safetensors")
    return history


def _with_lora(model: nn.Module, config: LoRAConfig, dtype: torch.dtype) -> PeftModel:
    names = {n.rsplit(".", 1)[-1] for n, m in _blocks(model).named_modules() if isinstance(m, nn.Linear)}
    if not names:
        raise InputError(f"{type(model).__name__} has no linear layers in its blocks that LoRA could adapt")
    n_blocks = len(_blocks(model))
    chosen = None
    if config.last_blocks is not None:
        if not 1 <= config.last_blocks <= n_blocks:
            raise InputError(f"last_blocks must be between 1 and {n_blocks} for this model; got {config.last_blocks}")
        chosen = list(range(n_blocks - config.last_blocks, n_blocks))
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=sorted(names),
        layers_to_transform=chosen,
        layers_pattern=_blocks_name(model) if chosen else None,
    )
    model.requires_grad_(False)
    wrapped = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return wrapped.eval()  # no dropout: the model is frozen


def _blocks(model: nn.Module) -> nn.ModuleList:
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def _blocks_name(model: nn.Module) -> str:
    blocks = _blocks(model)
    return next(n for n, m in model.named_modules() if m is blocks).rsplit(".", 1)[-1]


class _Loop:
    """One training: masters in float32, gradients added up over micro-batches, one-cycle learning rate."""

    def __init__(
        self,
        model: PeftModel,
        head: nn.Linear,
        rows: list[list[int]],
        y: torch.Tensor,
        pad_id: int,
        config: LoRAConfig,
        where: torch.device,
    ) -> None:
        self.model, self.head, self.rows, self.y = model, head, rows, y.to(where)
        self.body = scoring.body_of(model.base_model.model)
        self.pad_id, self.config, self.where = pad_id, config, where
        self.border = traits.rope_border(self.body.config)
        self.lora = [p for n, p in model.named_parameters() if "lora_" in n and p.requires_grad]
        self.masters = [p.detach().float().clone().requires_grad_(True) for p in self.lora]
        trained = [*self.masters, *head.parameters()]
        self.optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.01)
        self.states: list[torch.Tensor] | None = None  # outputs of the blocks below the first trained one, a row each

    def run(self, callback: Progress | None) -> list[dict[str, float]]:
        plan = shared.training_plan([len(row) for row in self.rows], self.config)
        first = len(_blocks(self.body)) - self.config.last_blocks if self.config.last_blocks else 0
        if not prefix.can_cache(self.body, first, sum(map(len, self.rows))):
            return self._steps(plan, callback)
        self.states = prefix.lower_states(self.body, first, self.rows, self.pad_id, self.where)
        with prefix.only_blocks(self.body, slice(first, None)):
            return self._steps(plan, callback)

    def _steps(self, plan: list[tuple[int, np.ndarray]], callback: Progress | None) -> list[dict[str, float]]:
        history = shared.History(len(plan), callback)
        for step, (epoch, batch) in enumerate(plan):
            rate = shared.one_cycle(step, len(plan), self.config.learning_rate)
            loss, n_tokens = self._step(batch, rate)
            history.add(epoch, loss, rate, n_tokens)
        return history.entries

    def _step(self, batch: np.ndarray, rate: float) -> tuple[float, int]:
        total, n_tokens = 0.0, 0
        self.optimiser.zero_grad(set_to_none=True)
        lengths = [len(self.rows[i]) for i in batch]
        for part in shared.length_batches(lengths, self.config.max_batch_tokens, border=self.border):
            rows = batch[part]
            ids, mask = scoring.pad([self.rows[i] for i in rows], self.pad_id, self.where)
            if self.states is None:
                given = {"input_ids": ids}
            else:
                given = {"inputs_embeds": nn.utils.rnn.pad_sequence([self.states[i] for i in rows], batch_first=True)}
            hidden = self.body(**given, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, H)
            last = hidden[torch.arange(len(rows), device=self.where), mask.sum(1) - 1]
            logits = self.head(last.float())
            loss = nn.functional.cross_entropy(logits, self.y[rows], reduction="sum") / len(batch)
            loss.backward()
            self._collect()
            total += loss.item()
            n_tokens += int(mask.sum())
        nn.utils.clip_grad_norm_([*self.masters, *self.head.parameters()], 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            for parameter, master in zip(self.lora, self.masters, strict=True):
                parameter.copy_(master)
        return total, n_tokens

    def held_bytes(self) -> int:
        """Bytes of the trained weights, their masters and gradients, and the optimiser's states."""
        trained = [*self.masters, *self.head.parameters()]
        states = [value for p in trained for value in self.optimiser.state[p].values() if torch.is_tensor(value)]
        grads = [p.grad for p in trained if p.grad is not None]
        return sum(t.numel() * t.element_size() for t in [*self.lora, *trained, *grads, *states])

    def _collect(self) -> None:
        for parameter, master in zip(self.lora, self.masters, strict=True):
            if parameter.grad is not None:
                grad = parameter.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                parameter.grad = None


def _check_moved(model: PeftModel) -> None:
    still: list[Any] = [n for n, p in model.named_parameters() if "lora_B" in n and not p.detach().any()]
    if len(still) > len([n for n, _ in model.named_parameters() if "lora_B" in n]) // 2:
        raise SlmkitError(f"training left {len(still)} adapter matrices at zero ({still[0]}): no gradient reached them")
