"""How long a study takes and how much memory its largest process needs, an evaluation at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slmkit.estimate.fits import gigabytes, model_memory
from slmkit.estimate.networks import Network, network_of
from slmkit.estimate.terms import device_here
from slmkit.estimate.times import flops

FLOOR_BYTES = 350_000_000  # no torch: pandas, scikit-learn and the n-gram matrix of some thousand rows
STUDY_BYTES = 45_000_000  # pandas and the rows, beside what a model needs
FOUR_BIT_SLOWER = 1.3  # weights are opened on the fly
START_S, FLOOR_START_S, MEASURE_S = 4.0, 2.0, 6.0
FLOOR_S_PER_ROW = 0.003
PROMPT_TOKENS, LABEL_TOKENS = 60, 6  # instruction, shared by all rows; label words scored after each row


def study_estimate(plan: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Estimate how long a study takes here and how much memory its largest process needs.

    Parameters
    ----------
    plan : sequence of mapping
        One entry an evaluation: method ("floor", "embedding", "prompt", "lora"), model (as `network_of` takes it, None
        for the floor), bits, n_train, n_test, epochs, mean_tokens; optionally shots, batch_tokens, last_blocks, rank.

    Returns
    -------
    dict
        seconds (float), peak_bytes (int), estimated (True) and lines: one readable sentence an evaluation. Expect the
        seconds to be wrong by a factor of two.
    """
    lines, seconds, peak = [], 0.0, 0
    for item in plan:
        net = None if item.get("model") is None or item["method"] == "floor" else network_of(item["model"])
        took, need = _seconds(item, net), _peak(item, net)
        what = item["method"] if net is None else f"{item['method']} with {net.title} at {item['bits']} bits"
        lines.append(f"{what}: about {duration(took)}, {gigabytes(need)} (estimated)")
        seconds, peak = seconds + took, max(peak, need)
    return {"seconds": seconds, "peak_bytes": peak, "lines": lines, "estimated": True}


def duration(seconds: float) -> str:
    """Seconds in words, as coarse as an estimate is: "40 s", "7 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds(item: Mapping[str, Any], net: Network | None) -> float:
    n_train, n_test, tokens = item["n_train"], item["n_test"], item["mean_tokens"]
    if net is None:
        return FLOOR_START_S + MEASURE_S / 2 + FLOOR_S_PER_ROW * (n_train + n_test) * max(tokens, 10) / 30
    forward = {
        "embedding": (n_train + n_test) * tokens,
        "prompt": n_test * (tokens + LABEL_TOKENS) + PROMPT_TOKENS + (item.get("shots") or 0) * tokens,
        "lora": n_test * tokens,
    }.get(item["method"], n_test * tokens)
    flop = 2 * net.n_parameters * forward
    if item["method"] == "lora":
        kept = min(item.get("last_blocks") or net.layers, net.layers) / net.layers
        once = 2 * net.n_parameters * (1 - kept) * n_train * tokens  # blocks below the first trained one: computed once
        flop += 4 * net.n_parameters * kept * n_train * tokens * (item.get("epochs") or 1) + once
    slower = FOUR_BIT_SLOWER if item["bits"] != 16 else 1.0
    starts = 2 if item["method"] == "lora" else 1  # training and scoring have a process each
    return starts * START_S + MEASURE_S + flop * slower / flops(device_here())


def _peak(item: Mapping[str, Any], net: Network | None) -> int:
    if net is None:
        return FLOOR_BYTES
    names = ("batch_tokens", "last_blocks", "rank", "train_tokens", "seq")
    how = {key: item[key] for key in names if item.get(key) is not None}
    return STUDY_BYTES + sum(model_memory(net, item["bits"], training=item["method"] == "lora", **how).values())
