"""What a training on a CPU computes in another way than transformers and PEFT do: the same numbers in less time.

PyTorch's fused attention passes back slowly through short rows in bfloat16; plain attention takes a fifth of that time
and keeps its scores, which for short rows are few. PEFT adds its two thin products to a frozen layer's output, and to
the gradient of its input, in passes of their own over both; norms and gated MLPs keep what is cheap to compute anew.
What stands in for them is in `fused`. A module is taken by what it computes, not by its name: where a small random
input does not come out as from the module itself, it keeps its own way.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from threading import local
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama import modeling_llama

from slmkit.backends._torch import fused

SHORT_TOKENS = 128  # a row's, up to which plain attention is the quicker one; at 256 they are alike
GROUPED = "slmkit_grouped"  # transformers' name for `fused.attend`
AttentionInterface.register(GROUPED, fused.attend)
AttentionMaskInterface.register(GROUPED, eager_mask)


class Attention:
    """Lets a body attend in the way that is quickest for a batch, on a CPU in bfloat16; elsewhere it is left alone."""

    def __init__(self, body: Any, where: torch.device) -> None:
        dtype = next(p.dtype for p in body.parameters() if p.is_floating_point())
        self.body, self.way = body, body.config._attn_implementation
        self.applies = where.type == "cpu" and dtype == torch.bfloat16 and self.way == "sdpa"
        self.plain = GROUPED if _attends_as_llama(body) else "eager"

    def fit(self, tokens: int) -> None:
        """Choose for rows of so many tokens."""
        way = self.plain if tokens <= SHORT_TOKENS else "sdpa"
        if self.applies and way != self.way:
            self.body.set_attn_implementation(way)
            self.way = way


def _attends_as_llama(body: nn.Module) -> bool:
    """Whether all plain attention in a body is that of `fused.attend`."""
    modules = {type(m).__module__ for m in body.modules() if type(m).__name__.endswith("Attention")}
    ways = [getattr(sys.modules[name], "eager_attention_forward", None) for name in modules]
    return bool(ways) and all(map(_is_llamas, ways))


@cache
def _is_llamas(way: Callable[..., Any] | None) -> bool:
    """Whether plain attention takes what Llama's does (no caps, no sinks), and gives what `fused.attend` gives."""
    known = inspect.signature(modeling_llama.eager_attention_forward).parameters
    if way is None or list(inspect.signature(way).parameters) != list(known):
        return False
    shapes = ((2, 4, 3, 8), (2, 2, 3, 8), (2, 2, 3, 8), (2, 1, 3, 3))
    q, k, v, mask = (_random(*shape, dtype=torch.float32) for shape in shapes)
    module: Any = SimpleNamespace(num_key_value_groups=2, training=False)
    try:
        expected = way(module, q, k, v, mask, scaling=0.3)[0]
    except (AttributeError, TypeError, ValueError, RuntimeError):  # it wants more of its module
        return False
    found = fused.attend(module, q, k, v, mask, scaling=0.3)[0]
    return expected.shape == found.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def fuse(wrapped: nn.Module) -> None:
    """Let norms, PEFT's pairs and what is around them be computed as `fused` does, wherever that is the same."""
    for module in wrapped.modules():
        if _has_pair(module):
            module.forward = partial(_alone, module)  # type: ignore[method-assign]
        elif type(module).__name__.endswith("RMSNorm") and _is_plain_norm(module):
            module.forward = partial(_norm, module)  # type: ignore[method-assign]
    for module in wrapped.modules():
        if _alike(asked := [getattr(module, f"{name}_proj", None) for name in "qkv"]):
            _Shared(asked).around(module)
        elif _is_silu_mlp(module):
            module.forward = partial(_mlp, module)  # type: ignore[method-assign]


def _has_pair(module: Any) -> bool:
    """Whether a module is a linear layer with one LoRA pair, without dropout or anything further."""
    if not isinstance(module, LoraLinear) or type(module.base_layer) is not nn.Linear or module.merged:
        return False
    if len(module.active_adapters) != 1 or module.disable_adapters:
        return False
    (name,) = module.active_adapters
    return (
        isinstance(module.lora_dropout[name], nn.Identity)
        and not module.use_dora[name]
        and module.lora_A[name].bias is module.lora_B[name].bias is None
    )


def _alike(modules: Sequence[Any]) -> bool:
    """Whether modules are such layers, of one scale and one width of input."""
    if not all(map(_has_pair, modules)):
        return False
    return len({(_scale(module), module.base_layer.in_features) for module in modules}) == 1


def _layer(module: Any) -> fused.Layer:
    (name,) = module.active_adapters
    base = module.base_layer
    return fused.Layer(base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight)


def _scale(module: Any) -> float:
    (name,) = module.active_adapters
    return float(module.scaling[name])


def _alone(module: Any, x: torch.Tensor) -> torch.Tensor:
    return fused.linear(x, [_layer(module)], _scale(module))[0]


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return fused.norm(x, module.weight, module.variance_epsilon)


def _mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up, down = (_layer(layer) for layer in (module.gate_proj, module.up_proj, module.down_proj))
    return fused.gated(x, gate, up, down, _scale(module.gate_proj))


@torch.no_grad()
def _is_plain_norm(module: Any) -> bool:
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if weight is None or epsilon is None or weight.requires_grad or weight.ndim != 1:
        return False
    tries = (size * _random(3, len(weight), dtype=weight.dtype) for size in (1.0, float(epsilon) ** 0.5))
    return all(torch.equal(module(x), _norm(module, x)) for x in tries)


@torch.no_grad()
def _is_silu_mlp(module: Any) -> bool:
    names = ("gate_proj", "up_proj", "down_proj")
    layers: list[Any] = [getattr(module, name, None) for name in names]
    if not (_alike(layers[:2]) and _alike(layers[2:]) and _scale(layers[2]) == _scale(layers[0])):
        return False
    base: nn.Linear = layers[0].base_layer
    x = _random(2, base.in_features, dtype=base.weight.dtype)
    near = 4 * torch.finfo(x.dtype).eps
    places = torch.linspace(-8, 8, 65, dtype=x.dtype)
    lit = getattr(module, "act_fn", nn.Identity())(places)
    if not torch.allclose(lit, nn.functional.silu(places), rtol=near, atol=near):
        return False
    expected, found = module(x), _mlp(module, x)
    return expected.shape == found.shape and bool((found - expected).norm() <= near * expected.norm())


def _random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Normally distributed numbers that do not touch torch's own generator, which trainings are seeded by."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


class _Shared:
    """Layers that a block asks one after the other with the same tensor: the first that is asked computes for all.

    What it computed is kept for the others within one call of the block and one thread. A layer that is asked with
    another tensor, or once more, computes alone.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules, self.threads = modules, local()

    def around(self, block: Any) -> None:
        """Take the place of the layers' forwards, and of the block's."""
        for i, module in enumerate(self.modules):
            module.forward = partial(self._ask, i)
        block.forward = partial(self._within, block.forward)

    def _within(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        self.threads.given, self.threads.waiting = None, {}
        try:
            return forward(*args, **kwargs)
        finally:  # also where the block is left by an error
            self.threads.__dict__.clear()

    def _ask(self, i: int, x: torch.Tensor) -> torch.Tensor:
        held = self.threads.__dict__
        if "given" in held and held["given"] is None:
            outs = fused.linear(x, [_layer(module) for module in self.modules], _scale(self.modules[0]))
            held["given"], held["waiting"] = x, dict(enumerate(outs))
        elif held.get("given") is not x or i not in held["waiting"]:
            return _alone(self.modules[i], x)
        out: torch.Tensor = held["waiting"].pop(i)
        return out
