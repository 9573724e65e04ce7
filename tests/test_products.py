"""Products by way of float32 where a CPU is slow in bfloat16: the same numbers, in the number type of the input."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from checkpoints import CASES, Case

from slmkit import backends
from slmkit.assets import ModelSource

torch = pytest.importorskip("torch")
from slmkit.backends._torch import device, fused, products, quantise  # noqa: E402

ROUNDING = 2**-8  # of bfloat16


@pytest.fixture
def slow_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A CPU that is; collects how many rows each input had that was opened."""
    seen: list[int] = []
    as_it_is = products.opened

    def spy(x: Any) -> Any:
        wide = as_it_is(x)
        seen.extend([x.numel() // x.shape[-1]] * (wide is not x))
        return wide

    monkeypatch.setattr(products, "widens", lambda: True)
    monkeypatch.setattr(products, "opened", spy)
    monkeypatch.setattr(products, "OPENED", 100)  # several pieces even of these weights
    device.best_dtype.cache_clear()
    yield seen
    device.best_dtype.cache_clear()


def narrow(*shape: int) -> Any:
    return torch.randn(*shape).bfloat16()


def near(found: Any, exact: Any) -> None:
    assert found.dtype == torch.bfloat16
    assert float((found.detach().float() - exact).norm()) <= ROUNDING * float(exact.norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_gradients_are_those_of_float32(bias: bool, slow_in_bfloat16: list[int]) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40, bias=bias).bfloat16()
    exact = torch.nn.Linear(24, 40, bias=bias).requires_grad_(True)
    exact.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    products.widen(layer)
    x, slope = narrow(4, 16, 24).requires_grad_(True), narrow(4, 16, 40)
    wide = x.detach().float().requires_grad_(True)
    out, wanted = layer(x), exact(wide)
    near(out, wanted)
    out.backward(slope)
    wanted.backward(slope.float())
    assert slow_in_bfloat16 == [64]
    for found, true in zip([x, *layer.parameters()], [wide, *exact.parameters()], strict=True):
        near(found.grad, true.grad)
    with torch.no_grad():
        assert torch.equal(layer(x), out)


def test_a_few_rows_and_other_number_types_keep_their_way(slow_in_bfloat16: list[int]) -> None:
    layer = products.widen(torch.nn.Linear(24, 40).bfloat16())
    few = narrow(products.LEAST_ROWS - 1, 24)
    assert torch.equal(layer(few), torch.nn.functional.linear(few, layer.weight, layer.bias))
    own = torch.nn.Linear(24, 40)
    assert "forward" not in products.widen(own).__dict__
    assert products.opened(torch.randn(64, 24)).dtype == torch.float32 and slow_in_bfloat16 == []


def test_a_cpu_that_is_quick_in_bfloat16_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "widens", lambda: False)
    assert "forward" not in products.widen(torch.nn.Linear(24, 40).bfloat16()).__dict__
    assert products.opened(x := narrow(64, 24)) is x


@pytest.mark.parametrize("slower", [torch.bfloat16, torch.float32], ids=str)
def test_what_is_quicker_is_tried(slower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU computes nothing in bfloat16")
    stock = torch.nn.functional.linear

    def linear(x: Any, *more: Any) -> Any:
        time.sleep(0.05 if x.dtype == slower else 0.0)
        return stock(x, *more)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert products.widens.__wrapped__() == (slower == torch.bfloat16)


def test_passes_with_adapters_give_what_float32_gives(slow_in_bfloat16: list[int]) -> None:
    torch.manual_seed(1)
    shapes = ((40, 24), (40,), (4, 24), (40, 4))
    layers = [fused.Layer(*(narrow(*shape).requires_grad_(i > 1) for i, shape in enumerate(shapes))) for _ in range(2)]
    x, slopes = narrow(64, 24).requires_grad_(True), [narrow(64, 40) for _ in layers]
    given = [x, *(tensor for layer in layers for tensor in (layer.a, layer.b))]
    outs = fused.linear(x, layers, 2.0)
    found = torch.autograd.grad(outs, given, slopes)
    assert slow_in_bfloat16 == [64, 64]  # forth and back
    wide = [fused.Layer(*(t.detach().float().requires_grad_(t.requires_grad) for t in layer)) for layer in layers]
    own = [x.detach().float().requires_grad_(True), *(tensor for layer in wide for tensor in (layer.a, layer.b))]
    exact = [own[0] @ w.weight.T + w.bias + 2.0 * (own[0] @ w.a.T) @ w.b.T for w in wide]
    for out, true in zip(outs, exact, strict=True):
        near(out, true)
    for gradient, true in zip(found, torch.autograd.grad(exact, own, [s.float() for s in slopes]), strict=True):
        assert float((gradient.float() - true).norm()) <= 2 * ROUNDING * float(true.norm())


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_layers_and_heads_open_their_weights_to_float32(bits: int, slow_in_bfloat16: list[int]) -> None:
    torch.manual_seed(2)
    weight = narrow(128, 64)
    layer = quantise.QuantLinear(*quantise.quantise_tensor(weight, bits, nested=False), None, bits, torch.bfloat16)
    table = quantise.QuantEmbedding(*quantise.quantise_tensor(weight, bits, nested=False), bits, torch.bfloat16)
    x = narrow(64, 64)
    for found, rows in ((layer(x), layer.dequantised()), (quantise.TiedHead(table)(x), table.dequantised())):
        near(found, x.float() @ rows.bfloat16().float().T)
    assert slow_in_bfloat16 == [64, 64]


def test_a_model_scores_nearer_to_float32(
    checkpoints: Callable[[Case], ModelSource], slow_in_bfloat16: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoints(next(case for case in CASES if case.name == "SmolLM2"))
    texts = ["a parcel is waiting for you at the station", "your account was closed", "lunch at one?"] * 4

    def vectors(dtype: str) -> Any:
        with backends.load(str(source.folder), dtype=dtype) as model:
            return model.embed(texts)

    wide, exact = vectors("bfloat16"), vectors("float32")
    assert slow_in_bfloat16
    monkeypatch.setattr(products, "widens", lambda: False)
    assert abs(wide - exact).max() <= 1.1 * abs(vectors("bfloat16") - exact).max()


@pytest.mark.parametrize("opened", [100, 64 * 40, 1 << 21])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_layer_passes_back_what_its_weight_does(
    bits: int, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "OPENED", opened)
    torch.manual_seed(3)
    bias = torch.randn(128)
    layer = quantise.QuantLinear(*quantise.quantise_tensor(torch.randn(128, 64), bits, nested=False), bias, bits)
    weight = torch.cat([piece.clone() for piece in layer.pieces(torch.float32)])
    torch.testing.assert_close(weight, layer.dequantised().float(), rtol=ROUNDING, atol=0)
    x, slope = torch.randn(3, 5, 64, requires_grad=True), torch.randn(3, 5, 128)
    out = layer(x)
    torch.testing.assert_close(out, x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(out, x, slope)[0], slope @ weight, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), out, rtol=ROUNDING, atol=0.05)


def test_what_a_thread_opens_lies_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "OPENED", 24 * 16)
    weight, places = narrow(40, 24), list[int]()

    def note() -> None:
        with torch.inference_mode():
            places.extend(piece.data_ptr() for piece in products.pieces(weight, torch.float32))

    for _ in range(2):
        thread = threading.Thread(target=note)
        thread.start()
        note()
        thread.join()
    assert len(places) == 12 and len(set(places)) <= 3
    x = torch.randn(4, 24, requires_grad=True)  # the room was made in inference mode, and is used outside of it
    assert products.forward(x.detach(), weight).isfinite().all()
    wide = torch.randn(2, 500)
    (piece,) = products.pieces(wide[:1].bfloat16(), torch.float32)  # a row that is longer than what is opened at once
    torch.testing.assert_close(piece, wide[:1], rtol=ROUNDING, atol=ROUNDING)


def test_on_other_devices_a_weight_is_opened_there_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "OPENED", 24 * 16)
    (piece,) = products.pieces(torch.empty(40, 24, dtype=torch.bfloat16, device="meta"), torch.float16)
    assert (piece.device.type, piece.dtype, piece.shape) == ("meta", torch.float16, (40, 24))
