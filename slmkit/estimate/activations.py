"""Bytes of numbers that exist only while a batch runs, per token, read off the modelling code of transformers 5.23.

`D` is the width of a number, 2 bytes for bfloat16. Root-mean-square norms compute in float32 whatever D is, and keep
that copy for the backward pass; a frozen linear layer keeps nothing, its LoRA pair keeps its input. On a CPU less is
kept, see `Way` and `slmkit.backends._torch.quick`, which finds by trying what is listed here by type of model.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.estimate.networks import Network

FLOAT32 = 4
SILU_MLPS = {"llama", "mistral", "qwen2"}  # with a matrix each for gate and up-projection
PLAIN_NORMS = {*SILU_MLPS, "phi3"}
PLAIN_ATTENTION = {*PLAIN_NORMS, "gemma"}


@dataclass(frozen=True)
class Way:
    """What a training on a CPU computes in its own way.

    Attributes
    ----------
    norms : bool
        Norms that keep what they put out in D: adapters are trained.
    mlps : bool
        MLPs that keep their gate and up-projection alone: adapters are trained on weights of 16 bits.
    plain : bool
        Attention whose scores exist as a whole, for short rows in bfloat16.
    """

    norms: bool = False
    mlps: bool = False
    plain: bool = False

    def grouped(self, net: Network) -> bool:
        """Whether keys and values are not repeated for groups of heads, and scores are kept in D alone."""
        return self.plain and net.model_type in PLAIN_ATTENTION


ELSEWHERE = Way()


def passing_bytes(net: Network, number: int, *, adapters: bool = False) -> int:
    """Bytes a token needs at the widest place of one block, freed before the next block.

    Parameters
    ----------
    net : Network
    number : int
        D.
    adapters : bool
        Each layer's output exists three times for a moment: its own, the adapter's, and their sum.
    """
    copies = 2 if adapters else 0
    wide = (3 if net.gated else 2) + copies
    mlp = number * (2 * net.hidden + wide * net.inner)
    repeated = 2 * net.queries if net.kv_heads < net.heads else 2 * net.shared
    attention = number * (2 * net.hidden + (4 + copies) * net.queries + repeated + 2 * net.shared)
    norm = number * net.hidden + (1 if net.layer_norm else 3) * FLOAT32 * net.hidden
    return max(mlp, attention, norm)


def kept_bytes(net: Network, number: int, *, rank: int, way: Way = ELSEWHERE) -> int:
    """Bytes a token leaves in one trained block until the backward pass has been there.

    Norms' inputs; inputs of the linear layers, once for those that share one; queries, keys and values as attention
    reads them (repeated for groups of heads), its output twice; the MLP's gate, its activation, its up-projection and
    the product of the two.
    """
    if way.norms and net.model_type in PLAIN_NORMS:
        norms = net.norms * (net.hidden * number + FLOAT32)
    else:
        norms = net.norms * net.hidden * (number if net.layer_norm else FLOAT32)
    if net.qk_norms:
        norms += FLOAT32 * (net.queries + net.shared)
    inputs = (1 if net.parallel else 2) * net.hidden
    repeated = net.queries if net.kv_heads < net.heads else net.shared
    attention = 2 * net.queries + 2 * net.shared if way.grouped(net) else 3 * net.queries + 2 * repeated
    lean = way.mlps and net.model_type in SILU_MLPS
    mlp = (2 if lean or not net.gated else 4) * net.inner
    ranks = rank * sum(matrix.count for matrix in net.linear) // net.layers
    return norms + number * (inputs + attention + mlp + ranks)


def scores_bytes(net: Network, rows: int, tokens: int, number: int, *, way: Way = ELSEWHERE) -> int:
    """Bytes of attention scores that one trained block keeps, where they exist as a whole.

    That is in some architectures, and where plain attention is taken for short rows: in float32, and in D.
    """
    plain = number if way.grouped(net) else FLOAT32 + number if way.plain else 0
    return rows * net.heads * tokens * tokens * (net.score_bytes or plain)


def mask_bytes(net: Network, rows: int, tokens: int, number: int) -> int:
    """Bytes of what says which token sees which, for rows of different lengths, and of scores while they are computed.

    The mask is boolean, and once more in numbers where attention wants it so.
    """
    cells = rows * tokens * tokens
    scores = 2 * FLOAT32 * cells * net.heads if net.score_bytes else 0
    return scores + (cells * (1 + number) if rows > 1 else 0)
