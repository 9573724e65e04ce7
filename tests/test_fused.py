"""What a training on a CPU computes in ways of its own: the states and the gradients of transformers and PEFT."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, Case

from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig

torch = pytest.importorskip("torch")
from slmkit.backends._torch import device, fused, lanes, loop, objectives, places, quick, training  # noqa: E402

DECODERS = [case for case in CASES if case.kind == "decoder"]
WHOLE = ("Llama 2", "SmolLM2", "TinyLlama", "Llama 3.2", "Mistral", "Qwen2.5")
TAKEN = {name: {"_norm", "_within", "_mlp"} for name in WHOLE} | {name: {"_norm"} for name in ("Phi-3", "Phi-3 128k")}
TAKEN |= {name: {"_within"} for name in ("Gemma", "Gemma 2", "Gemma 3")} | {"Falcon": set()}
GROUPED = {*WHOLE, "Phi-3", "Phi-3 128k", "Gemma"}
ROWS = [[5 + i, 7, 9 + 3 * i, 11, 13, 17 + i, 19, 23, 29, 31, 37][: 4 + 2 * (i % 4)] for i in range(8)]
Y = np.array([0, 0, 1, 0] * 2)  # uneven, so that the gradient of the head's bias is no sum that nearly cancels


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """States of the padded batch's tokens and gradients by name, from the ways of their own or from the stock ones."""

    def run(
        source: ModelSource, own: bool, *, dtype: Any = torch.float32, bits: int = 16, recompute: bool = False,
        n_lanes: int = 1, last_blocks: int | None = None,
    ) -> tuple[Any, dict[str, Any], Any]:  # fmt: skip
        monkeypatch.setattr(device, "best_dtype", lambda _: (dtype, "planted"))
        config = LoRAConfig(rank=4, alpha=12, max_length=32, last_blocks=last_blocks)
        with monkeypatch.context() as stock:
            if not own:
                stock.setattr(quick, "fuse", lambda wrapped: None)
                stock.setattr(places, "AFTER", ())
            opened = training._open(source, bits, config, head=False)
            generator = torch.Generator().manual_seed(3)
            for name, parameter in opened.model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(0, 0.05, generator=generator)
            torch.manual_seed(5)
            head = torch.nn.Linear(opened.model.config.hidden_size, 2)
            objective = objectives.LastToken(head, Y, [len(row) for row in ROWS])
            learner = loop.Loop(opened.model, objective, ROWS, 8, 0, config, opened.where, {})
        learner.attention.applies = own  # in float32 too, to be compared tightly
        learner.lanes = lanes.Lanes(n_lanes)
        if recompute:
            assert learner.recompute()
        with learner.ready():
            learner.gradients(np.arange(8), 2048)
            with torch.no_grad():
                hidden = learner._hidden(np.arange(8))
            assert (learner.lanes.parts([len(row) for row in ROWS], 2048) is None) == (n_lanes == 1)
        real = torch.arange(hidden.shape[1]) < torch.tensor([len(row) for row in ROWS])[:, None]
        return hidden[real], {n: p.grad for n, p in zip(learner.names, learner.trained, strict=True)}, learner

    return run


def ways_of(model: Any) -> set[str]:
    """Names of what stands in for forwards, single LoRA layers left out."""
    partials = [m.__dict__["forward"] for m in model.modules() if isinstance(m.__dict__.get("forward"), partial)]
    partials += [way.args[0] for way in partials if way.func.__name__ == "_there" and isinstance(way.args[0], partial)]
    return {way.func.__name__ for way in partials} - {"_alone", "_ask"}


def assert_alike(found: tuple[Any, ...], wanted: tuple[Any, ...], near: float) -> None:
    assert float((found[0] - wanted[0]).float().norm() / wanted[0].float().norm()) < near
    assert list(found[1]) == list(wanted[1])
    for name, gradient in wanted[1].items():
        assert float(gradient.norm()) > 0, name
        assert float((found[1][name] - gradient).norm() / gradient.norm()) < near, name


@pytest.mark.parametrize("name", [case.name for case in DECODERS])
def test_states_and_gradients_of_every_architecture_are_the_stock_ones(
    name: str, checkpoints: Callable[[Case], ModelSource], step: Callable[..., Any]
) -> None:
    source = checkpoints(case(name))
    found, wanted = step(source, True), step(source, False)
    assert ways_of(found[2].model) == TAKEN[name] | {"_there"} and ways_of(wanted[2].model) == set()
    assert found[2].attention.plain == (quick.GROUPED if name in GROUPED else "eager")
    assert (found[2].body.config._attn_implementation == quick.GROUPED) == (name in GROUPED)
    assert wanted[2].body.config._attn_implementation == ("eager" if name == "Gemma 2" else "sdpa")
    assert_alike(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["SmolLM2", "Qwen2.5"])
def test_in_bfloat16_they_differ_by_rounding(
    name: str, checkpoints: Callable[[Case], ModelSource], step: Callable[..., Any]
) -> None:
    source = checkpoints(case(name))
    assert_alike(step(source, True, dtype=torch.bfloat16), step(source, False, dtype=torch.bfloat16), 0.08)


@pytest.mark.parametrize("how", [{"recompute": True}, {"last_blocks": 1}, {"bits": 4}, {"bits": 8}], ids=str)
def test_they_are_the_same_where_less_is_kept_trained_or_stored(
    how: dict[str, Any], checkpoints: Callable[[Case], ModelSource], step: Callable[..., Any]
) -> None:
    source = checkpoints(case("TinyLlama"))
    found, wanted = step(source, True, **how), step(source, False, **how)
    assert_alike(found, wanted, 1e-5)
    taken = TAKEN["TinyLlama"] - ({"_mlp", "_within"} if "bits" in how else set())
    assert ways_of(found[2].model) - {"run"} == taken | {"_there"}


def on_the_way_back() -> list[torch.Tensor]:
    """Tensors alive that came out of a forward pass and can be passed back through."""
    return [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.grad_fn is not None]


@pytest.mark.parametrize("recompute", [False, True])
def test_they_are_the_same_on_two_threads_and_nothing_of_a_step_lives_on(
    recompute: bool, checkpoints: Callable[[Case], ModelSource], step: Callable[..., Any], two_threads: None
) -> None:
    source = checkpoints(case("Qwen2.5"))
    others = on_the_way_back()  # what other tests left
    found = step(source, True, n_lanes=2, recompute=recompute)
    gc.collect()
    assert not [tensor for tensor in on_the_way_back() if not any(tensor is other for other in others)]
    assert_alike(found, step(source, False), 1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_grouped_attention_is_llamas(masked: bool) -> None:
    from transformers.models.llama.modeling_llama import eager_attention_forward

    torch.manual_seed(0)
    given = [torch.randn(2, 5, heads, 8, dtype=torch.float64).transpose(1, 2) for heads in (6, 2, 2)]
    mask = torch.full((2, 1, 5, 5), torch.finfo(torch.float32).min, dtype=torch.float64).triu(1)
    module: Any = torch.nn.Module().eval()
    module.num_key_value_groups = 3
    wanted, found = [], []
    for way, results in ((eager_attention_forward, wanted), (fused.attend, found)):
        own = [tensor.clone().requires_grad_(True) for tensor in given]
        out, _ = way(module, *own, mask if masked else None, scaling=0.4)
        results += [out.detach(), *torch.autograd.grad((out * torch.arange(8)).sin().sum(), own)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # Llama's softmax is in float32


class Norm(torch.nn.Module):
    """One that does more than its name says."""

    def __init__(self, more: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(8), requires_grad=False)
        self.variance_epsilon, self.more = 1e-5, more

    def forward(self, x: Any) -> Any:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)) + self.more


class PlainRMSNorm(Norm):
    pass


def test_a_norm_is_taken_for_what_it_computes() -> None:
    model = torch.nn.ModuleDict(
        {"plain": PlainRMSNorm(), "moved": PlainRMSNorm(1e-6), "named": Norm(), "trained": PlainRMSNorm()}
    )
    model["trained"].weight.requires_grad_(True)
    quick.fuse(model)
    assert [name for name, module in model.items() if "forward" in module.__dict__] == ["plain"]
    x = torch.randn(3, 8)
    found, wanted = (
        torch.autograd.grad(way(y).cos().sum(), y)[0]
        for way, y in ((model["plain"], x.clone().requires_grad_()), (model["named"], x.clone().requires_grad_()))
        if model["named"].weight.copy_(model["plain"].weight) is not None
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


class Block(torch.nn.Module):
    """Asks its three layers as a plan says: which one, with which of the tensors."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in zip("qkv", (12, 8, 8), strict=True):
            setattr(self, f"{name}_proj", torch.nn.Linear(6, width, bias=name != "v"))

    def forward(self, plan: str, tensors: dict[str, Any]) -> list[Any]:
        if "!" in plan:
            self.q_proj(tensors["x"])
            raise ValueError("in the middle of it")
        return [getattr(self, f"{ask[0]}_proj")(tensors[ask[1]]) for ask in plan.split()]


@pytest.fixture
def blocks() -> tuple[Any, Any]:
    """A block whose layers compute for each other, and the same as PEFT has it."""
    import copy

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    stock: Any = get_peft_model(Block(), lora).eval()
    own = copy.deepcopy(stock)
    quick.fuse(own)
    return own.base_model.model, stock.base_model.model


ORDERS = ("qx kx vx", "vx qx kx", "qx ky vx", "qx qx ky vy", "kx", "qx kx vx qy ky vy", "qy vx")


@pytest.mark.parametrize("plan", ORDERS)
def test_layers_that_are_asked_in_any_order_give_their_own(blocks: tuple[Any, Any], plan: str) -> None:
    torch.manual_seed(1)
    given, results = {name: torch.randn(3, 6) for name in "xy"}, []
    for block in blocks:
        tensors = {name: tensor.clone().requires_grad_(True) for name, tensor in given.items()}
        outs = block(plan, tensors)
        weights = [tensors[name] for name in "xy"] + [p for n, p in block.named_parameters() if "lora_" in n]
        slopes = torch.autograd.grad(sum(o.sin().sum() for o in outs), weights, allow_unused=True)
        results.append([*outs, *slopes])
    for found, wanted in zip(*results, strict=True):
        if wanted is None:
            assert found is None or not found.any()
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_two_threads_compute_for_their_own_layers_alone(
    blocks: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, stock = blocks
    linear, met, asked = fused.linear, threading.Barrier(2, timeout=30), list[int]()

    def counted(x: Any, layers: Any, scale: float) -> Any:
        asked.append(len(layers))
        return linear(x, layers, scale)

    def in_step(*_: Any) -> None:  # both threads have asked a layer before one of them asks the next
        met.wait()

    monkeypatch.setattr(fused, "linear", counted)
    for name in "qkv":
        getattr(own, f"{name}_proj").register_forward_hook(in_step)
    given = [{"x": torch.randn(3, 6)}, {"x": torch.randn(3, 6)}]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda tensors: own("qx kx vx", tensors), given))
    assert asked == [3, 3]
    for outs, tensors in zip(found, given, strict=True):
        for out, wanted in zip(outs, stock("qx kx vx", tensors), strict=True):
            torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)


def test_what_was_computed_for_others_is_gone_with_the_block_s_call(blocks: tuple[Any, Any]) -> None:
    own, _ = blocks
    tensors = {"x": torch.randn(3, 6), "y": torch.randn(3, 6)}
    held = own.forward.func.__self__.threads
    own("qx", tensors)
    assert held.__dict__ == {}
    with pytest.raises(ValueError, match="in the middle"):
        own("!", tensors)
    assert held.__dict__ == {}
    before = own.k_proj(tensors["x"])
    with torch.no_grad():
        tensors["x"].mul_(2)  # the same object, other numbers
    assert not torch.equal(own.k_proj(tensors["x"]), before) and held.__dict__ == {}
