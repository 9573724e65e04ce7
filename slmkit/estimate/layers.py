"""Where in a network the estimated memory lies: each term of the peak dealt out to the layers it belongs to.

Weights, adapters with their optimizer, what trained blocks keep for the backward pass and cached keys and values lie in
the blocks; what exists once, whichever block is at work, and what the process takes without the model, stand apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from slmkit.estimate.networks import Matrix, Network
from slmkit.estimate.terms import Term, Use

AT_WORK, PROCESS = "the layer at work", "process"
# Which places a term lies in; those that are not named lie in AT_WORK.
ALL_BLOCKS = {"blocks", "norms", "KV cache"}
TRAINED_BLOCKS = {"adapters", "activations", "attention scores", "block inputs"}
TRAINED = {"master copies", "gradients", "optimizer state"}  # wherever a weight is trained
ELSEWHERE = {
    "embeddings": "embeddings", "head": "head", "logits": "head", "opened head": "head",
    "runtime": PROCESS, "trainer": PROCESS, "CUDA context": PROCESS, "reading the file": PROCESS,
    "making the copy": PROCESS,
}  # fmt: skip


def by_layer(net: Network, use: Use, terms: Iterable[Term]) -> pd.DataFrame:
    """The terms of a peak by layer; the bytes add up to the peak.

    Returns
    -------
    DataFrame
        layer ("embeddings", "block 1" .. "block N", "head", `AT_WORK`, `PROCESS`), group (of `terms.GROUPS`), where
        ("RAM" or "device"), n_bytes; in the order of the network, layers without any left out.
    """
    names = ["embeddings", *(f"block {i + 1}" for i in range(net.layers)), "head", AT_WORK, PROCESS]
    rows = [
        {"layer": layer, "group": term.group, "where": term.where, "n_bytes": n_bytes}
        for term in terms
        for layer, n_bytes in _dealt(term, _weights(term, net, use)).items()
    ]
    frame = pd.DataFrame(rows)
    order = pd.Categorical(frame["layer"], categories=names, ordered=True)
    summed = frame.assign(layer=order).groupby(["layer", "group", "where"], observed=True, sort=True)["n_bytes"].sum()
    return summed.reset_index().assign(layer=lambda found: found["layer"].astype(str))


def _weights(term: Term, net: Network, use: Use) -> dict[str, int]:
    """The layers a term lies in, with what each of them weighs in it."""
    blocks = [f"block {i + 1}" for i in range(net.layers)]
    trained = blocks[net.layers - use.blocks(net) :]
    if term.name in ALL_BLOCKS:
        return dict.fromkeys(blocks, 1)
    if term.name == "scales":
        return _by_numbers(net, blocks, quantised=True)
    if term.name in TRAINED and use.method == "full" and use.last_blocks is None:
        return _by_numbers(net, blocks, quantised=False)
    recomputed = use.recompute and term.name in ("activations", "attention scores")
    if term.name in TRAINED | TRAINED_BLOCKS and not recomputed:
        return dict.fromkeys(trained, 1)
    return {ELSEWHERE.get(term.name, AT_WORK): 1}


def _by_numbers(net: Network, blocks: list[str], *, quantised: bool) -> dict[str, int]:
    def count(matrices: Iterable[Matrix]) -> int:
        return sum(m.n_parameters for m in matrices if m.quantised or not quantised)

    a_block = count(net.linear) // net.layers
    found = {"embeddings": count(net.tables), **dict.fromkeys(blocks, a_block), "head": count(net.heads_on_top)}
    return {layer: weight for layer, weight in found.items() if weight}


def _dealt(term: Term, weights: dict[str, int]) -> dict[str, int]:
    """Bytes of a term for each layer, whole numbers that add up."""
    total, given, seen, out = sum(weights.values()), 0, 0, {}
    for layer, weight in weights.items():
        seen += weight
        out[layer] = term.n_bytes * seen // total - given
        given += out[layer]
    return out
