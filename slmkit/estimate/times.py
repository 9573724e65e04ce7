"""Seconds from arithmetic: operations over what this kind of machine reaches, bytes over how fast it reads memory.

Rates were measured on two cores with AVX-512 and BF16, or are those of a small card; a whole run reaches a share of
them. Expect a factor of two either way: every figure given to a person is a range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmkit import footprint
from slmkit.estimate.networks import Network
from slmkit.estimate.terms import Use, number_bytes, packs, stored_bytes

FLOPS_PER_CORE = {4: 70e9, 2: 175e9}  # by bytes of a number
GPU_FLOPS = 10e12  # a small card (T4 class)
REACHED, REACHED_LARGE = 0.4, 0.65  # matrices below and above LARGE numbers
LARGE = 4_000_000
BYTES_PER_S = {"cpu": 16e9, "cuda": 200e9, "metal": 80e9}
OPENED_PER_S = {"cpu": 1.5e9, "cuda": 50e9, "metal": 20e9}  # quantised numbers opened
CALLS_S = 0.0004  # a block, a pass: what Python and the kernels' start take
EITHER_WAY = 2.0


@dataclass(frozen=True)
class Times:
    """Expected seconds, each (quickest, slowest) over a factor of two either way, and where they come from.

    Attributes
    ----------
    forward_s : tuple of float
        One pass over all rows.
    tokens_per_s : tuple of float
        Tokens read in it.
    written_per_s : tuple of float or None
        Tokens a decoder writes, one text at a time.
    step_s : tuple of float or None
        One training step over all rows.
    origin : str
    """

    forward_s: tuple[float, float]
    tokens_per_s: tuple[float, float]
    written_per_s: tuple[float, float] | None
    step_s: tuple[float, float] | None
    origin: str


def flops(device: str = "cpu", backend: str | None = None, *, large: bool = False) -> float:
    """Operations a second that a whole run gets out of this machine, more with large matrices."""
    reached = REACHED_LARGE if large else REACHED
    if device != "cpu":
        return reached * GPU_FLOPS
    facts = footprint.machine()
    return reached * FLOPS_PER_CORE[number_bytes("cpu", backend)] * min(facts["cores"], facts["threads"])


def times(net: Network, use: Use, backend: str | None = None) -> Times:
    """The times of a use of a network on this machine."""
    large = max(m.rows * m.columns for m in net.linear) > LARGE
    tokens, rate = use.batch * use.seq, flops(use.device, backend, large=large)
    body = sum(m.n_parameters for m in net.linear)
    attention = 4 * net.layers * net.queries * use.seq  # scores and their sum, a token
    passes = max(1, -(-use.batch // use.rows))
    packed = packs(use)
    opening = body / OPENED_PER_S[use.device] if use.bits != 16 and not packed else 0.0
    over = passes * (opening + CALLS_S * net.layers)
    forward = tokens * (2 * body + attention) / rate + over
    step = written = None
    if use.trains:
        kept = use.blocks(net) / net.layers
        backward = tokens * kept * (4 if use.method == "full" else 2) * body / rate
        again = kept * forward if use.recompute else 0.0
        step = _range(forward + again + backward + over)
    elif net.kind == "decoder":
        written_packed = packs(replace(use, method="generate"))
        opened = net.n_parameters / OPENED_PER_S[use.device] if use.bits != 16 and not written_packed else 0.0
        one = stored_bytes(net, use.bits) / BYTES_PER_S[use.device] + opened + 2 * CALLS_S * net.layers
        written = _range(1 / one)
    machine = footprint.machine()
    where = machine["gpu"] if use.device != "cpu" else f"{min(machine['cores'], machine['threads'])} cores"
    origin = (
        f"estimated: {2 * body * tokens / 1e9:,.0f} GFLOP forward at {rate / 1e9:,.0f} GFLOP/s ({where}, numbers of "
        f"{use.number_bytes} bytes), from a table and not timed here; a factor of {EITHER_WAY:g} either way"
    )
    quick, slow = _range(forward)
    return Times((quick, slow), (tokens / slow, tokens / quick), written, step, origin)


def _range(value: float) -> tuple[float, float]:
    return value / EITHER_WAY, value * EITHER_WAY
