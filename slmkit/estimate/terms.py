"""The bytes of a process that runs or trains a model, term by term, each with one sentence of why.

What can be derived from what the code does is derived: weights and scales, adapters and their optimizer, the keys and
values that are cached, logits, what one block holds for a moment and what it keeps for the backward pass. Four figures
are measured instead (`RUNTIME_BYTES`, `TOKENIZER_BYTES`, `TRAINER_BYTES` and `SLACK`), on two cores with AVX-512 and
BF16; `benchmarks/fit_error.py` holds predictions against peaks that they were not measured on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from slmkit import footprint
from slmkit.errors import InputError
from slmkit.estimate.activations import Way, kept_bytes, mask_bytes, passing_bytes, scores_bytes
from slmkit.estimate.networks import BLOCK, Matrix, Network

BITS = (16, 8, 4)
METHODS = ("infer", "generate", "lora", "qlora", "last-k", "full")
NOT_MEASURED = {"full": "no measured peak of a training of the weights themselves was held against this yet"}
GROUPS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "cache", "buffers", "runtime")

RUNTIME_BYTES = 480_000_000  # interpreter, torch, transformers, scikit-learn, a model class
TOKENIZER_BYTES = 700  # a vocabulary entry, with its merge
TRAINER_BYTES = 25_000_000  # peft and the first backward pass
SLACK = 1.2  # what the allocator holds for each byte of activations
CUDA_BYTES = 500_000_000  # context and kernels on the device
# Making a copy first: parameters x these, beside the runtime. A GGUF file as a whole; 8 and 4 bits tensor by tensor.
PREPARING_BYTES = {16: 4.6, 8: 1.1, 4: 0.6}

PASS_TOKENS, PASS_ROWS = 2048, 64  # one pass of scoring and embedding, padding included
SHORT_ROW = 32  # tokens of a row where nobody says
LABEL_REST = 1  # tokens of a label after its first
MICRO_TOKENS = 512  # one pass of training, and where there is room for it
ROOMY_TOKENS = 1024
MAPPED_BYTES = 1 << 16  # what Linux maps of a file around a byte that is read
TABLE_BYTES = {4: 64 + 150, 8: 45}  # a quantised tensor's code table and facts
NESTED_BYTES = 1024 + 64 + 200


@dataclass(frozen=True)
class Term:
    """Some of the bytes: their name and group (one of `GROUPS`), "device" or "RAM", and why there are so many."""

    name: str
    group: str
    n_bytes: int
    where: str
    why: str


@dataclass(frozen=True)
class Use:
    """What is done with a model.

    Attributes
    ----------
    bits : {16, 8, 4}
    method : str
        Of `METHODS`.
    seq, batch : int
        Tokens of a row, and rows: of one call when scoring, at once when training (max_batch_tokens = batch x seq).
    last_blocks : int or None
        Blocks that are trained; None is all.
    rank : int
        Of the adapter.
    number_bytes : int
        Width of a number that is computed with: 2 (bfloat16) or 4 (float32).
    device : str
        "cpu", "cuda" or "metal".
    train_tokens : int
        Of all training rows, 0 where nobody knows: no more rows of the embedding table are read, and where only the
        last blocks are trained, what comes out of the others is kept for each.
    recompute : bool
        A training keeps of each trained block its input alone and computes the rest anew on the way back.
    preparing : bool
        The process also makes the quantised copy, or at 16 bits the de-quantised copy of a GGUF file.
    torch : bool
        The engine is torch, which keeps less of a training on a CPU than MLX does.
    """

    bits: int
    method: str = "infer"
    seq: int = SHORT_ROW
    batch: int = PASS_ROWS
    last_blocks: int | None = None
    rank: int = 16
    number_bytes: int = 2
    device: str = "cpu"
    train_tokens: int = 0
    recompute: bool = False
    preparing: bool = False
    torch: bool = True

    @property
    def trains(self) -> bool:
        """Whether weights of any kind are trained."""
        return self.method not in ("infer", "generate")

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        if self.trains:
            return self.batch
        return 1 if self.method == "generate" else max(1, min(self.batch, PASS_ROWS, PASS_TOKENS // self.seq))

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return self.rows * self.seq

    @property
    def place(self) -> str:
        """Where the model is."""
        return "RAM" if self.device == "cpu" else "device"

    def blocks(self, net: Network) -> int:
        """Blocks that are trained."""
        return min(self.last_blocks or net.layers, net.layers)


def check_bits(bits: int) -> int:
    """Return `bits` if slmkit stores weights so, else raise `InputError`."""
    if bits not in BITS:
        raise InputError(f"bits must be one of {', '.join(map(str, sorted(BITS)))}; got {bits!r}")
    return bits


def device_here(backend: str | None = None) -> str:
    """Where a model runs on this machine: "cuda", "metal" or "cpu"."""
    gpu = footprint.machine()["gpu"] if backend != "dummy" else None
    if gpu is None:
        return "cpu"
    return "metal" if sys.platform == "darwin" else "cpu" if backend == "mlx" else "cuda"


def number_bytes(device: str, backend: str | None = None) -> int:
    """Bytes of the numbers a device computes with: bfloat16 where it is native, else float32."""
    if device != "cpu":
        return 2
    sets = footprint.instruction_sets()
    native = "avx512_bf16" in sets or "amx_bf16" in sets or "neon" in sets
    return 2 if native and backend != "mlx" else 4


def stored_bytes(net: Network, bits: int) -> int:
    """Bytes of all weights as stored, scales and code tables included, embeddings quantised too."""
    check_bits(bits)
    return net.plain * 2 + sum(_stored(matrix, bits) for matrix in net.matrices)


def _stored(matrix: Matrix, bits: int) -> int:
    n = matrix.n_parameters
    if bits == 16 or not matrix.quantised:
        return 2 * n
    scales = n // BLOCK
    if bits == 4 and not matrix.table:
        return n // 2 + scales + 4 * scales // 256 + matrix.count * NESTED_BYTES
    return n * bits // 8 + 4 * scales + matrix.count * TABLE_BYTES[bits]


def terms(net: Network, use: Use) -> tuple[Term, ...]:
    """All terms that are not zero; their sum is the peak."""
    found = [*_weights(net, use), *(_trained(net, use) if use.trains else ()), *_working(net, use), *_runtime(net, use)]
    if use.preparing:
        found += _preparing(net, use, found)
    return tuple(term for term in found if term.n_bytes > 0)


def total(found: tuple[Term, ...] | list[Term], where: str | None = None) -> int:
    """Sum of the bytes, of those on the device or in RAM only."""
    return sum(term.n_bytes for term in found if where in (None, term.where))


def _weights(net: Network, use: Use) -> Iterator[Term]:
    """In memory. Scales of 4-bit layers are opened once at load, to 4 bytes a block of 64; those of tables stay as they
    are stored, 2 bytes a block of 32."""
    parts = {"blocks": net.linear, "embeddings": net.tables, "head": net.heads_on_top}
    scales = 0
    for name, matrices in parts.items():
        quantised = sum(m.n_parameters for m in matrices if use.bits != 16 and m.quantised)
        plain = sum(m.n_parameters for m in matrices) - quantised
        scales += 4 * (quantised // BLOCK)
        why = [f"{quantised / 1e6:,.1f} M numbers x {use.bits} bits"] if quantised else []
        why += [f"{plain / 1e6:,.1f} M numbers x {use.number_bytes} bytes"] if plain else []
        tied = " (the head is the same table)" if name == "embeddings" and net.tied and net.kind == "decoder" else ""
        n_bytes = quantised * use.bits // 8 + plain * use.number_bytes
        if name == "embeddings" and _read_in_part(net, use, n_bytes):
            n_bytes = use.train_tokens * MAPPED_BYTES
            why = [f"of the mapped file no more than {MAPPED_BYTES:,} bytes for each of {use.train_tokens:,} tokens"]
        yield Term(name, "weights", n_bytes, use.place, " + ".join(why) + tied)
    yield Term("scales", "weights", scales, use.place, f"4 bytes for every {BLOCK} quantised numbers")
    norms = net.plain * use.number_bytes
    yield Term("norms", "weights", norms, use.place, f"{net.plain:,} numbers of norms and biases, never quantised")


def _read_in_part(net: Network, use: Use, table_bytes: int) -> bool:
    """Whether a training reads so few rows of a table in a mapped file that most of it never comes into memory."""
    mapped = use.bits == 16 and use.device == "cpu" and net.file_bytes == use.number_bytes
    whole = use.method == "full" and use.last_blocks is None  # the table is trained too
    return use.trains and mapped and not whole and 0 < use.train_tokens * MAPPED_BYTES < table_bytes


def adapter_parameters(net: Network, use: Use) -> int:
    """Numbers of a LoRA pair on every linear layer of the trained blocks."""
    once = sum((m.rows + m.columns) * m.count for m in net.linear) // net.layers
    return use.rank * once * use.blocks(net)


def whole_parameters(net: Network, use: Use) -> int:
    """Numbers that training the weights themselves changes: of the last blocks, or all there are."""
    if use.last_blocks is None:
        return net.n_parameters
    blocks = sum(matrix.n_parameters for matrix in net.linear) + net.plain
    return blocks * use.blocks(net) // net.layers


def _trained(net: Network, use: Use) -> Iterator[Term]:
    if use.method == "full":
        n, what = whole_parameters(net, use), "the weights themselves"
    else:
        n = adapter_parameters(net, use)
        what = f"a pair of rank {use.rank} on every linear layer of {use.blocks(net)} blocks"
        yield Term("adapters", "adapter", n * use.number_bytes, use.place, f"{what}: {n:,} numbers")
    masters = f"a float32 copy of {n:,} trained numbers, which the optimizer changes"
    yield Term("master copies", "adapter", 4 * n, use.place, masters)
    why = f"float32 sums over the passes of a step, of {n:,} numbers; a pass's own replace the activations it frees"
    yield Term("gradients", "gradients", 4 * n, use.place, why)
    yield Term("optimizer state", "optimizer", 8 * n, use.place, f"AdamW's two moments in float32, {n:,} numbers each")


def _working(net: Network, use: Use) -> Iterator[Term]:
    d, tokens = use.number_bytes, use.tokens
    passing = passing_bytes(net, d, adapters=use.trains and use.method != "full") * tokens
    said = f"{use.rows} rows of {use.seq} = {tokens:,} tokens at once"
    if use.trains:
        way = _way(use)
        kept = kept_bytes(net, d, rank=0 if use.method == "full" else use.rank, way=way)
        n, whose = use.blocks(net), f"each of {use.blocks(net)} trained blocks"
        if use.recompute:
            why = f"{said} x {net.hidden * d:,} bytes that {whose} is given, x {SLACK}"
            yield Term("block inputs", "activations", round(SLACK * net.hidden * d * n * tokens), use.place, why)
            n, whose = 1, "the one block that is computed anew"
        why = f"{said} x {kept:,} bytes that {whose} keeps for the backward pass, x {SLACK}"
        yield Term("activations", "activations", round(SLACK * kept * n * tokens), use.place, why)
        scores = scores_bytes(net, use.rows, use.seq, d, way=way)
        why = f"{use.rows} rows x {net.heads} heads x {use.seq} x {use.seq} scores, which {n} blocks keep, x {SLACK}"
        yield Term("attention scores", "activations", round(SLACK * scores * n), use.place, why)
    why = f"{said} x {passing // max(1, tokens):,} bytes at the widest place of a block, x {SLACK}"
    yield Term("passing activations", "activations", round(SLACK * passing), use.place, why)
    why = f"{use.rows} rows x {use.seq} x {use.seq} tokens that may see each other"
    yield Term("attention mask", "activations", mask_bytes(net, use.rows, use.seq, d), use.place, why)
    yield from _cached(net, use)
    if net.kind == "decoder" and not use.trains:
        yield Term("logits", "logits", *_logits(net, use))
    yield from _buffers(net, use)


def _way(use: Use) -> Way:
    """What a training computes in a way of its own, as `slmkit.backends._torch.quick` chooses it."""
    here = use.device == "cpu" and use.torch
    adapters = here and use.method != "full"
    return Way(adapters, adapters and use.bits == 16, here and use.number_bytes == 2 and use.seq <= PLAIN_TOKENS)


def _logits(net: Network, use: Use) -> tuple[int, str, str]:
    width = use.number_bytes * (2 if use.bits != 16 and net.tied and not packs(use) else 1) + 8
    positions = use.rows * (LABEL_REST if use.method == "infer" else 1)
    n_bytes = (positions * width + use.rows * 4) * net.vocab
    why = f"{use.rows} rows x {net.vocab:,} words of the vocabulary x {width + 4} bytes: logits, their float32 and logs"
    return n_bytes, use.place, why


def _cached(net: Network, use: Use) -> Iterator[Term]:
    if not use.trains and net.kind == "decoder":
        a_token = 2 * net.shared * use.number_bytes * net.layers
        why = f"keys and values of {use.tokens:,} tokens, {a_token:,} bytes each over {net.layers} blocks"
        yield Term("KV cache", "cache", a_token * use.tokens, use.place, why)
    if use.trains and use.blocks(net) < net.layers and net.model_type in CUTTABLE:
        n_bytes = use.train_tokens * net.hidden * use.number_bytes
        why = f"what comes out of the frozen blocks, once for each of {use.train_tokens:,} training tokens"
        yield Term("kept states", "cache", n_bytes if n_bytes <= MAX_KEPT_BYTES else 0, use.place, why)


PLAIN_TOKENS = 128  # of a row, as slmkit.backends._torch.quick has it
CUTTABLE = {"llama", "mistral", "phi3"}  # as slmkit.backends._torch.prefix has it
MAX_KEPT_BYTES = 1 << 30
OPENED = 1 << 21  # numbers at once, as slmkit.backends._torch.products has it


def packs(use: Use) -> bool:
    """Whether 4-bit weights are laid out anew so that they are multiplied unopened (`_torch.packing`)."""
    return use.method == "generate" and use.bits == 4 and use.device == "cpu" and use.number_bytes == 2


def _buffers(net: Network, use: Use) -> Iterator[Term]:
    d = use.number_bytes
    if packs(use):
        layers = sum(m.n_parameters for m in net.matrices if m.quantised and not m.table)
        tables = sum(m.n_parameters for m in net.tables if m.quantised and net.tied)
        why = f"2 bytes for every {BLOCK} numbers, 4 in a table: scales beside the others, as the kernel reads them"
        yield Term("scales of the written layout", "buffers", (2 * layers + 4 * tables) // BLOCK, use.place, why)
        largest = max(m.rows * m.columns for m in net.matrices if m.quantised) // 2
        yield Term("laying out", "buffers", largest, use.place, "the largest matrix, twice while it is laid out anew")
        return
    heads = net.heads_on_top if net.kind == "decoder" and not use.trains else ()
    if use.bits != 16:
        opened = max((m.rows * m.columns for m in (*net.linear, *heads) if m.quantised), default=0)
        why = f"the largest quantised matrix, opened to {d} bytes a number while it is multiplied"
        if use.trains and use.torch and use.device == "cpu" and opened > OPENED:
            opened, why = OPENED, f"rows of a quantised matrix, opened to {d} bytes a number while they are multiplied"
        yield Term("opened matrix", "buffers", opened * d, use.place, why)
        if net.kind == "decoder" and net.tied and not use.trains:
            n = net.tables[0].n_parameters
            why = f"the quantised embedding table opened as the head: {n / 1e6:,.1f} M numbers x {d} bytes"
            yield Term("opened head", "buffers", n * d, use.place, why)


def _runtime(net: Network, use: Use) -> Iterator[Term]:
    why = f"Python, torch, transformers, and {TOKENIZER_BYTES} bytes for each of {net.vocab:,} tokens; measured"
    yield Term("runtime", "runtime", RUNTIME_BYTES + TOKENIZER_BYTES * net.vocab, "RAM", why)
    if use.trains:
        yield Term("trainer", "runtime", TRAINER_BYTES, "RAM", "peft and the backward pass's own memory; measured")
    if use.device == "cuda":
        yield Term("CUDA context", "runtime", CUDA_BYTES, "device", "context and kernels of torch and bitsandbytes")
    if use.bits == 16 and (use.device == "cuda" or (use.number_bytes == 2 and net.file_bytes == 4)):
        copied = net.n_parameters * net.file_bytes
        working = 0 if use.device == "cuda" else total(list(_working(net, use)))
        why = f"the file of {net.file_bytes}-byte numbers is read while it is narrowed or moved; what computing takes"
        yield Term("reading the file", "buffers", copied - working, "RAM", f"{why} later is less")


def _preparing(net: Network, use: Use, found: list[Term]) -> Iterator[Term]:
    making = round(PREPARING_BYTES[use.bits] * net.n_parameters)
    already = total(found) - sum(term.n_bytes for term in found if term.group == "runtime")
    million = net.n_parameters / 1e6
    why = f"a copy is made first: {million:,.0f} M parameters x {PREPARING_BYTES[use.bits]} bytes; measured"
    yield Term("making the copy", "buffers", making - already, "RAM", why)
