"""Weights in 4 or 8 bits: layers that compute from them, a pre-quantised folder made once, and its loading.

bitsandbytes leaves embeddings and the tied head in 16 bits, half of a small model; here they are quantised too. 4 bits
are NF4 (Dettmers et al. 2023, arXiv 2305.14314): layers in blocks of 64 with doubly quantised scales, embeddings in
blocks of 32 with scales in bfloat16, each scale looked for (`nf4`). 8 bits are dynamic in blocks of 64 (Dettmers et al.
2022, arXiv 2110.02861). Weights stay in the layout they were stored in, so that a model that has scored can still be
trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as bnbf
from safetensors import safe_open
from torch import nn

from slmkit.backends._torch import nf4, products
from slmkit.backends._torch.nibbles import unpack_rows
from slmkit.errors import AssetError, SlmkitError

SCHEMES = {4: "nf4-dq-mse", 8: "dyn8-b64"}
EARLIER = {
    4: ("nf4-dq",),
    8: (),
}  # still read: the largest magnitude as scale, blocks of 64 throughout
BLOCK, TABLE_BLOCK = 64, 32  # numbers that share a scale; in an embedding of 4 bits
HEAD_ROWS = 8192  # rows of a tied head de-quantised at a time


class _Matmul(torch.autograd.Function):
    """x @ W.T with W de-quantised some rows at a time, in both directions; W itself gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantLinear) -> torch.Tensor:
        ctx.layer = layer
        return products.product(x, layer.pieces(x.dtype))

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        slope = slopes[0].reshape(-1, slopes[0].shape[-1])
        of_x = products.passed_back(slope, ctx.layer.pieces(slope.dtype))
        return of_x.view(*slopes[0].shape[:-1], -1), None


class QuantLinear(nn.Linear):
    """A linear layer over quantised weights, shape (out, in); `state` holds the scales.

    While `packing` has the weight in its own layout, `packed` holds the scales that go with it.
    """

    packed: bnbf.QuantState | None = None

    def __init__(
        self,
        weight: torch.Tensor,
        state: bnbf.QuantState,
        bias: torch.Tensor | None,
        bits: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = state.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.state, self.bits, self.dtype, self.stored_state_bytes = state, bits, dtype, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., in) -> (..., out)
        if self.packed is not None:
            out = _packed_matmul(x, self.weight, self.packed)
        elif self.bits == 8 or (x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()):
            out = _Matmul.apply(products.opened(x), self).to(x.dtype)
        else:
            out = bnb.matmul_4bit(products.opened(x), self.weight, quant_state=self.state).to(x.dtype)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def pieces(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Rows (n, in), on a CPU some at a time, each good until the next one is asked for."""
        at_once = products.rows_at_once(self.in_features) if self.weight.device.type == "cpu" else self.out_features
        weights = self.weight.view(self.out_features, -1).split(at_once)
        scales = self.state.absmax.view(self.out_features, -1).split(at_once)
        for weight, absmax in zip(weights, scales, strict=True):
            state = _state_like(self.state, absmax.reshape(-1), torch.Size((len(weight), self.in_features)))
            if self.bits == 4:
                piece = bnbf.dequantize_4bit(weight.reshape(-1, 1), state)
            else:
                piece = bnbf.dequantize_blockwise(weight, state)
            yield from products.pieces(piece, dtype)

    def dequantised(self) -> torch.Tensor:  # (out, in), as inference in float32 reads it
        if self.bits == 4:
            exact = _state_like(self.state, self.state.absmax, self.state.shape, torch.float32)
            return bnbf.dequantize_4bit(self.weight, exact)
        return bnbf.dequantize_blockwise(self.weight, self.state)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantLinear:
        super()._apply(fn, recurse)
        self.state.to(self.weight.device)
        return self


class QuantEmbedding(nn.Module):
    """Rows of a quantised table, shape (vocabulary, hidden); only the rows asked for are de-quantised.

    `packed` is as in `QuantLinear`, for a table that is the head as well.
    """

    packed: bnbf.QuantState | None = None

    def __init__(self, weight: torch.Tensor, state: bnbf.QuantState, bits: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = state.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.state, self.bits, self.dtype, self.stored_state_bytes = state, bits, dtype, 0
        self.scale: float | None = None  # what Gemma multiplies its embeddings by, and not its head

    def rows(self, ids: torch.Tensor | slice) -> torch.Tensor:  # (n,) -> (n, hidden)
        if self.packed is not None:
            assert isinstance(ids, torch.Tensor)
            packed = unpack_rows(self.weight, ids)
        else:
            packed = self.weight.view(self.num_embeddings, -1)[ids].contiguous()
        absmax = self.state.absmax.view(self.num_embeddings, -1)[ids].reshape(-1).float()
        shape = torch.Size((packed.shape[0], self.embedding_dim))
        state = _state_like(self.state, absmax, shape)
        if self.bits == 4:
            return bnbf.dequantize_4bit(packed.view(-1, 1), state).to(self.dtype)
        return bnbf.dequantize_blockwise(packed.view(shape), state).to(self.dtype)

    def dequantised(self) -> torch.Tensor:  # (vocabulary, hidden)
        return self.rows(slice(None))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (...) -> (..., hidden)
        found = self.rows(ids.reshape(-1)).view(*ids.shape, self.embedding_dim)
        return found if self.scale is None else found * torch.tensor(self.scale, dtype=found.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantEmbedding:
        super()._apply(fn, recurse)
        self.state.to(self.weight.device)
        return self


class TiedHead(nn.Module):
    """The vocabulary head that shares a quantised embedding's table, de-quantised some rows at a time."""

    def __init__(self, embedding: QuantEmbedding) -> None:
        super().__init__()
        self._embedding = [embedding]  # in a list, so that its weights are not counted twice

    @property
    def table(self) -> QuantEmbedding:
        """The embedding that it shares."""
        return self._embedding[0]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # (..., hidden) -> (..., vocabulary)
        table = self.table
        if table.packed is not None:
            return _packed_matmul(hidden, table.weight, table.packed)
        wide = products.opened(hidden)
        parts = (table.rows(slice(at, at + HEAD_ROWS)) for at in range(0, table.num_embeddings, HEAD_ROWS))
        return torch.cat([(wide @ part.to(wide.dtype).T).to(hidden.dtype) for part in parts], dim=-1)


def _packed_matmul(x: torch.Tensor, weight: torch.Tensor, state: bnbf.QuantState) -> torch.Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        raise SlmkitError(
            "these weights are laid out for writing text and pass no gradient; load the model to train it"
        )
    return bnb.matmul_4bit(x, weight, quant_state=state)


def quantise_tensor(weight: torch.Tensor, bits: int, *, nested: bool) -> tuple[torch.Tensor, bnbf.QuantState]:
    """Quantise a 2-D weight, shape (out, in).

    `nested` quantises the scales as well, as layers have them; without it, 4 bits are as embeddings have them.
    """
    return quantise_pieces([weight], weight.shape, bits, nested=nested)


def quantise_pieces(
    pieces: Iterable[torch.Tensor], shape: tuple[int, ...], bits: int, *, nested: bool
) -> tuple[torch.Tensor, bnbf.QuantState]:
    """As `quantise_tensor`, of a weight that comes some rows at a time; the same bytes, since blocks lie in rows."""
    block = TABLE_BLOCK if bits == 4 and not nested else BLOCK
    packed, scales = [], []
    for piece in pieces:
        if bits == 4:
            part, absmax = nf4.quantise(piece, block)
        else:
            part, state = bnbf.quantize_blockwise(piece.contiguous(), blocksize=block)
            absmax = state.absmax
        packed.append(part)
        scales.append(absmax)
        del piece
    if bits == 4:
        state = nf4.state_of(torch.cat(scales), torch.Size(shape), block, nested=nested)
    else:
        state.absmax, state.shape = torch.cat(scales), torch.Size(shape)
    return torch.cat(packed), state


def quantisable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the linear layers and embeddings whose weights are stored in blocks."""
    for name, module in model.named_modules():
        if (isinstance(module, nn.Linear) and module.in_features % BLOCK == 0) or (
            isinstance(module, nn.Embedding) and module.embedding_dim % BLOCK == 0 and module.num_embeddings > 1024
        ):
            yield name, module


def fill_quantised(
    model: nn.Module, bits: int, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> nn.Module:
    """Put the tensors of a pre-quantised folder into an empty model (on the meta device), replacing its layers.

    Files are read and not mapped, and each layer goes to the device at once: the host never holds them all for it.

    Raises `AssetError` when the folder's scheme or tensors do not belong to this model.
    """
    path = folder / "model.safetensors"
    with safe_open(path, "pt", backend="pread") as stored:
        scheme = (stored.metadata() or {}).get("scheme")
        if scheme not in (SCHEMES[bits], *EARLIER[bits]):
            raise AssetError(f"{path} is stored as {scheme}, not as {SCHEMES[bits]}")
        keys = set(stored.keys())
        done = set()
        for name, module in list(quantisable(model)):
            if f"{name}.weight" in keys:
                done |= _replace(model, name, module, stored, keys, bits, dtype)
                model.get_submodule(name).to(device)
        for key in sorted(keys - done):
            value = stored.get_tensor(key)
            value = value.to(device, dtype if value.is_floating_point() else value.dtype)
            _set(model, key, nn.Parameter(value, requires_grad=False))
    _tie_head(model)
    missing = [name for name, p in model.named_parameters() if p.is_meta]
    if missing:
        raise AssetError(f"{path} lacks {', '.join(missing[:3])} ({len(missing)} tensors missing)")
    return model


def _replace(
    model: nn.Module, name: str, module: nn.Module, stored: Any, keys: set[str], bits: int, dtype: torch.dtype
) -> set[str]:
    key = f"{name}.weight"
    used = {k for k in keys if k == key or k.startswith(f"{key}.")}
    parts = {k.removeprefix(f"{key}."): stored.get_tensor(k) for k in used if k != key}
    n_bytes = sum(part.numel() * part.element_size() for part in parts.values())
    weight, state = stored.get_tensor(key), _state_from(parts, bits)
    layer: QuantEmbedding | QuantLinear
    if isinstance(module, nn.Embedding):
        layer = QuantEmbedding(weight, state, bits, dtype)
        layer.scale = getattr(module, "scalar_embed_scale", None)
    else:
        bias = None
        if f"{name}.bias" in keys:
            bias = stored.get_tensor(f"{name}.bias").to(dtype)
            used.add(f"{name}.bias")
        layer = QuantLinear(weight, state, bias, bits, dtype)
    layer.stored_state_bytes = n_bytes
    _set(model, name, layer)
    return used


def _tie_head(model: nn.Module) -> None:
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or not any(p.is_meta for p in head.parameters()):
        return
    name = next(n for n, m in model.named_modules() if m is head)
    if isinstance(embedding, QuantEmbedding):
        _set(model, name, TiedHead(embedding))
    else:
        head.weight = embedding.weight


def state_tensors(state: bnbf.QuantState, bits: int) -> dict[str, torch.Tensor]:
    if bits == 4:
        return {k: v.detach().clone() for k, v in state.as_dict(packed=True).items()}
    facts = json.dumps({"shape": list(state.shape), "dtype": str(state.dtype).removeprefix("torch.")}).encode()
    return {"absmax": state.absmax, "facts": torch.frombuffer(bytearray(facts), dtype=torch.uint8).clone()}


def _state_from(parts: dict[str, torch.Tensor], bits: int) -> bnbf.QuantState:
    if bits == 4:
        state = bnbf.QuantState.from_dict(parts, device=torch.device("cpu"))
        if state.nested:  # scales are opened once here: opening them again at every call costs more than the matmul
            state.absmax = bnbf.dequantize_blockwise(state.absmax, state.state2) + state.offset
            state.nested, state.state2, state.offset = False, None, None
        return state
    facts = json.loads(bytes(parts["facts"].tolist()))
    code = bnbf.create_dynamic_map()
    dtype = getattr(torch, facts["dtype"])
    return bnbf.QuantState(
        absmax=parts["absmax"], shape=torch.Size(facts["shape"]), code=code, blocksize=BLOCK, dtype=dtype
    )


def _state_like(
    state: bnbf.QuantState, absmax: torch.Tensor, shape: torch.Size, dtype: torch.dtype | None = None
) -> bnbf.QuantState:
    return bnbf.QuantState(
        absmax=absmax,
        shape=shape,
        code=state.code,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        dtype=dtype or state.dtype,
    )


def _set(model: nn.Module, dotted: str, value: Any) -> None:
    parent, _, leaf = dotted.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, leaf, value)
