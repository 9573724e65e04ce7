"""The ways to tune a model: what each trains, in which bits, on which blocks, and how large its steps are.

LoRA: Hu et al. 2021, arXiv 2106.09685. QLoRA: Dettmers et al. 2023, arXiv 2305.14314.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmkit import estimate
from slmkit.assets import ModelSource
from slmkit.errors import InputError, unknown

LAST_BLOCKS = 8


@dataclass(frozen=True)
class Way:
    """A way to tune.

    Attributes
    ----------
    bits : tuple of int
        What it takes, the first of them by default.
    learning_rate : float
        Its peak where nobody says: weights themselves bear smaller steps than a LoRA pair that begins at zero.
    blocks : {"all", "last", "either"}
        Which blocks it trains; with "either" a number of last blocks may be given.
    trains : {"adapter", "weights"}
    """

    bits: tuple[int, ...]
    learning_rate: float = 5e-4
    blocks: str = "all"
    trains: str = "adapter"


WAYS = {
    "lora": Way((16,)),
    "qlora": Way((4, 8)),
    "last-k": Way((16, 8, 4), blocks="last"),
    "full": Way((16,), learning_rate=1e-4, blocks="either", trains="weights"),
}
ANY = Way((16, 8, 4), blocks="either")  # adapters, in the bits and on the blocks that are asked for


def get(name: str | None) -> Way:
    """The method of that name, `ANY` for None; `InputError` with the near ones otherwise."""
    if name is not None and name not in WAYS:
        raise unknown("method", name, WAYS)
    return ANY if name is None else WAYS[name]


def rate(name: str | None, asked: float | None) -> float:
    """The learning rate asked for, or the method's own; `InputError` for one at which nothing good happens."""
    found = get(name).learning_rate if asked is None else asked
    if not 0 < found <= 1:
        raise InputError(f"learning_rate must be above 0 and at most 1 (usual: 1e-5 to 5e-3); got {asked!r}")
    return found


def choose(
    name: str | None, bits: int | None, last_blocks: int | None, source: ModelSource, *, writes: bool
) -> tuple[int, int | None]:
    """Bits and number of trained blocks (None for all) of a method, checked together.

    Parameters
    ----------
    name : str or None
        A key of `WAYS`; None for adapters as bits and blocks say.
    bits, last_blocks : int or None
        What was asked for; None takes the bits a model is stored in, else the method's first, and the method's blocks.
    source : ModelSource
    writes : bool
        Whether the model has to write answers, for which it must be a decoder.

    Raises
    ------
    InputError
        With all that does not go together.
    """
    way, problems = get(name), []
    if writes and source.kind != "decoder":
        problems.append(f"a decoder is needed to write answers; {source.name!r} is an encoder")
    kept = source.stored.bits if source.stored else None
    if kept is not None and kept not in way.bits:
        why = "changes the weights themselves" if way.trains == "weights" else "takes 16 bits only"
        problems.append(f"method {name!r} {why}, and {source.name} is stored in {kept} bits: take its 16-bit form, "
                        f"or method 'qlora' or 'last-k'")  # fmt: skip
    elif bits is not None and bits not in way.bits:
        problems.append(_other_bits(name, bits))
    if last_blocks is not None and (way.blocks == "all" or last_blocks < 1):
        need = "go with methods 'last-k' and 'full' only" if way.blocks == "all" else "be at least 1"
        problems.append(f"last_blocks must {need}; got {last_blocks!r} with method {name!r}")
    if problems:
        raise InputError("; ".join(problems))
    if way.blocks == "last" and last_blocks is None:
        last_blocks = min(LAST_BLOCKS, max(1, estimate.network_of(source).layers // 2))
    return bits or (kept if kept in way.bits else way.bits[0]), last_blocks


def _other_bits(name: str | None, bits: int) -> str:
    allowed = " or ".join(map(str, get(name).bits))
    if name is None:
        return f"bits must be one of 4, 8, 16; got {bits!r}"
    other = next(one for one, way in WAYS.items() if one != name and (bits in way.bits or bits not in ANY.bits))
    return f"method {name!r} takes bits {allowed}; got {bits!r} (method {other!r} takes other ones)"
