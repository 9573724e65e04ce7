"""`slmkit.estimate(...)`: one question about one model, answered term by term with reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from slmkit.errors import InputError, listed
from slmkit.estimate import fits
from slmkit.estimate import terms as parts
from slmkit.estimate.networks import Model, Network, network_of
from slmkit.estimate.terms import METHODS, NOT_MEASURED, Term, Use
from slmkit.estimate.times import Times, times

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BITS = {"qlora": 4}  # others 16
DEFAULT_SEQ, DEFAULT_BATCH = 128, 4
LAST_BLOCKS = 8
DEVICES = {"bnb": None, "mlx": None, "dummy": "cpu"}


@dataclass(frozen=True)
class Estimate:
    """What a model takes in one use.

    Attributes
    ----------
    network : Network
    use : Use
    stored_bytes : int
        Of the weights on the disk.
    terms : tuple of Term
        Of the peak; largest first within the order of groups.
    limits : mapping of str to (int, str)
        What may be used in "RAM" (and on a "device" of its own): bytes, and who says so.
    times : Times
    largest : dict
        The largest settings that fit, as `largest_settings`.
    notes : tuple of str
        What is known only in part.
    """

    network: Network
    use: Use
    stored_bytes: int
    terms: tuple[Term, ...]
    limits: fits.Limits
    times: Times
    largest: dict[str, int | None]
    notes: tuple[str, ...]

    @property
    def ram_bytes(self) -> int:
        """Peak of the process's memory."""
        return parts.total(self.terms, "RAM")

    @property
    def device_bytes(self) -> int:
        """Peak on the device, 0 where it is the CPU."""
        return parts.total(self.terms, "device")

    @property
    def peak_bytes(self) -> int:
        """Both together."""
        return self.ram_bytes + self.device_bytes

    @property
    def fits(self) -> bool:
        """Whether every place stays within its limit."""
        return all(parts.total(self.terms, place) <= allowed for place, (allowed, _) in self.limits.items())

    def by_layer(self) -> pd.DataFrame:
        """Where the peak lies: a frame with layer, group, where and n_bytes, which add up to it; see `layers`."""
        from slmkit.estimate.layers import by_layer

        return by_layer(self.network, self.use, self.terms)

    def facts(self) -> dict[str, Any]:
        """All of it as values for JSON; bytes, seconds and tokens/s."""
        use = asdict(self.use) | {"tokens_at_once": self.use.tokens, "blocks": self.use.blocks(self.network)}
        return {
            "model": self.network.name,
            "title": self.network.title,
            "n_parameters": self.network.n_parameters,
            "exact": self.network.exact,
            **use,
            "origin": "estimated",
            "stored_bytes": self.stored_bytes,
            "peak_ram_bytes": self.ram_bytes,
            "peak_device_bytes": self.device_bytes or None,
            "terms": [asdict(term) for term in self.terms],
            "limits": {place: {"bytes": allowed, "origin": origin} for place, (allowed, origin) in self.limits.items()},
            "fits": self.fits,
            "largest_that_fits": self.largest,
            "times": asdict(self.times),
            "notes": list(self.notes),
        }


def estimate(
    model: Model,
    *,
    bits: int | None = None,
    method: str = "infer",
    seq: int = DEFAULT_SEQ,
    batch: int = DEFAULT_BATCH,
    last_blocks: int | None = None,
    rank: int = 16,
    backend: str | None = None,
    limit_bytes: int | None = None,
    train_tokens: int = 0,
) -> Estimate:
    """Say what a model takes in one use, and whether it fits, from its configuration alone.

    Parameters
    ----------
    model
        A catalog name, a Hugging Face folder, a GGUF file, a config.json, a hub id that is on this disk, or the values
        of a configuration.
    bits : {16, 8, 4} or None
        How weights are stored; None takes 4 for "qlora" and 16 otherwise.
    method : {"infer", "generate", "lora", "qlora", "last-k", "full"}
        Scoring (which takes more than writing); writing text alone, one text at a time; adapters on all blocks, over
        quantised weights, on the last blocks; the weights themselves.
    seq, batch : int
        Tokens of a row, and rows: of one call when scoring, in one pass when training.
    last_blocks : int or None
        Blocks that "last-k" trains; None takes 8. For the other trainings None is all.
    rank : int
        Of the adapter.
    backend : {"bnb", "mlx"} or None
    limit_bytes : int or None
        What may be used where the model is; None asks the machine (`footprint.memory_limit`, the card).
    train_tokens : int
        Of all training rows, for the states that "last-k" keeps of the frozen blocks.

    Raises
    ------
    InputError
        With all that is wrong with the arguments.
    """
    net = network_of(model)
    width = DEFAULT_BITS.get(method, 16) if bits is None else bits
    _check(net, width, method, seq, batch, last_blocks, rank, backend, limit_bytes)
    if method == "last-k" and last_blocks is None:
        last_blocks = min(LAST_BLOCKS, net.layers)
    device = parts.device_here(backend)
    number = parts.number_bytes(device, backend)
    use = Use(
        width, method, seq, batch, last_blocks, rank, number, device, train_tokens, torch=backend != "mlx"
    )  # fmt: skip
    limits = fits.limits_of(None if limit_bytes is None else (limit_bytes, "given"))
    lean = replace(use, recompute=True)
    if use.trains and not fits.within(net, use, limits) and fits.within(net, lean, limits):
        use = lean  # as a training then does
    return Estimate(
        network=net,
        use=use,
        stored_bytes=parts.stored_bytes(net, width),
        terms=parts.terms(net, use),
        limits=limits,
        times=times(net, use, backend),
        largest=fits.largest_settings(net, use, limits),
        notes=tuple(_notes(net, use, backend)),
    )


def _check(
    net: Network,
    bits: int,
    method: str,
    seq: int,
    batch: int,
    last_blocks: int | None,
    rank: int,
    backend: str | None,
    limit_bytes: int | None,
) -> None:
    """Raise one `InputError` with everything that is wrong."""
    wrong = []
    if bits not in parts.BITS:
        wrong.append(f"bits must be one of {', '.join(map(str, sorted(parts.BITS)))}; got {bits!r}")
    if method not in METHODS:
        wrong.append(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    counts = {"seq": seq, "batch": batch, "rank": rank, "limit": 1 if limit_bytes is None else limit_bytes}
    wrong += [f"{name} must be at least 1; got {value!r}" for name, value in counts.items() if value < 1]
    if net.context and seq > net.context:
        wrong.append(f"seq must be at most the {net.context:,} tokens of {net.title}'s context; got {seq:,}")
    if last_blocks is not None and not 1 <= last_blocks <= net.layers:
        wrong.append(f"last_blocks must be between 1 and the {net.layers} blocks of {net.title}; got {last_blocks}")
    if last_blocks is not None and method in ("infer", "generate"):
        wrong.append(f"last_blocks belongs to lora, qlora, last-k and full; got method {method!r}")
    if method == "qlora" and bits == 16:
        wrong.append("qlora trains over 8 or 4 bits; got bits 16 (that is lora)")
    if method == "full" and bits != 16:
        wrong.append(f"full training changes the weights themselves, which needs 16 bits; got {bits}")
    if method == "generate" and net.kind != "decoder":
        wrong.append(f"{net.title} is an encoder and writes no text (method infer)")
    if backend is not None and backend not in DEVICES:
        wrong.append(f"backend must be one of {listed(DEVICES)}; got {backend!r}")
    if wrong:
        raise InputError("; ".join(wrong))


def _notes(net: Network, use: Use, backend: str | None) -> list[str]:
    notes = []
    if use.method in NOT_MEASURED:
        notes.append(f"not measured: {NOT_MEASURED[use.method]}")
    if not net.exact:
        notes.append("this architecture is not one slmkit knows: sizes beyond its shape are taken to be a Llama's")
    if use.device != "cpu" or backend == "mlx":
        notes.append("not measured: the published error is that of bitsandbytes on a CPU")
    if use.recompute:
        notes.append("it fits as it is trained then: blocks are computed anew on the way back, which takes longer")
    if use.rows < use.batch:
        notes.append(f"{use.batch:,} rows are read {use.rows} at a time (at most {parts.PASS_TOKENS:,} tokens a pass)")
    if use.trains and use.blocks(net) < net.layers and net.model_type in parts.CUTTABLE and not use.train_tokens:
        a_token = net.hidden * use.number_bytes
        notes.append(
            f"not counted: {a_token:,} bytes for each training token, kept of the frozen blocks (1.07 GB at most)"
        )
    return notes
