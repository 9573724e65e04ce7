"""Fronts, pairs and break-even points of runs say what the runs say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_runs import N_TEST, a_floor, a_run

from slmkit import plots, tradeoffs
from slmkit.errors import InputError
from slmkit.runs import probability_frame, write_run


def test_a_configuration_is_on_the_front_of_a_cost_if_none_is_as_good_for_less() -> None:
    small_slow = a_run(bits=4, right=104, stored_bytes=80_000_000, latency_p50_s=0.09)
    big_fast = a_run(right=108, stored_bytes=270_000_000, latency_p50_s=0.03, energy_j_per_1000_rows=None)
    found = tradeoffs.fronts([small_slow, big_fast]).set_index("configuration")
    sixteen, four = (found.loc[f"SmolLM2-135M, LoRA, {bits} bits"] for bits in (16, 4))
    assert (sixteen["front: stored size"], four["front: stored size"]) == ("yes", "yes")
    assert (sixteen["front: latency"], four["front: latency"]) == ("yes", "no")
    assert (sixteen["front: energy"], four["front: energy"]) == ("unknown", "yes")
    assert sixteen["Latency (ms)"] == 30 and four["Stored size (MB)"] == 80 and four["fronts"] == 2
    assert sixteen["accuracy"] == "90.0 % (83.3 to 94.2)"


def test_fronts_agree_with_the_picture() -> None:
    runs = [a_floor(), a_run(), a_run(bits=4, right=110, stored_bytes=90_000_000)]
    found = tradeoffs.fronts(runs)
    line = plots.accuracy_vs_footprint(runs).data[0]
    on = found[found["front: stored size"] == "yes"].sort_values("Stored size (MB)")
    assert on["Stored size (MB)"].tolist() == pytest.approx(list(line.x), rel=0.01)


def test_fronts_of_runs_that_do_not_compare_are_refused_and_machines_are_named() -> None:
    with pytest.raises(InputError, match="these are 2 setups"):
        tradeoffs.fronts([a_run(), a_run(task="sms_spam")])
    said = tradeoffs.caveats([a_run(), a_run(machine={"cpu": "Other CPU", "cores": 8})])
    assert "2 machines (Example CPU 2.5 GHz, 2 cores; Other CPU, 8 cores)" in said[0] and "modelled" in said[1]
    assert tradeoffs.caveats([a_run(energy_origin="counter")]) == []


def test_pairs_see_what_overlapping_intervals_hide(tmp_path: Path) -> None:
    """Nine rows that only one of them gets: the intervals overlap widely, and the difference is not luck."""
    labels = ["fraud"] * N_TEST
    runs = []
    for bits, right in ((16, 100), (4, 91)):
        proba = np.where((np.arange(N_TEST) < right)[:, None], [0.9, 0.1], [0.2, 0.8])
        runs.append(a_run(bits=bits, right=right))
        write_run(runs[-1], tmp_path, probability_frame(np.arange(N_TEST), labels, proba, ["fraud", "genuine"]))
    (pair,) = tradeoffs.pairs([*runs, a_floor()], tmp_path).to_dict("records")  # the floor has no probabilities
    assert pair["first"].endswith("16 bits") and pair["points"] == pytest.approx(7.5) and pair["n"] == N_TEST
    assert pair["intervals_overlap"] and pair["differ"] and pair["p"] == pytest.approx(2 / 2**9)
    assert 0 < pair["low"] < 7.5 < pair["high"] < 20


def test_a_training_pays_once_the_rows_have_caught_up() -> None:
    prompt = a_run("prompt", fit_s=10.0, rows_per_s=5.0)
    tuned = a_run(fit_s=110.0, rows_per_s=10.0)
    assert tradeoffs.break_even_rows(prompt, tuned) == pytest.approx(1000)
    assert tradeoffs.break_even_rows(tuned, prompt) == 0
    assert tradeoffs.break_even_rows(prompt, a_run(fit_s=110.0, rows_per_s=4.0)) is None
    with pytest.raises(InputError, match="lacks fit_s; .* different machines: Example CPU.*; Other"):
        tradeoffs.break_even_rows(a_floor(fit_s=None), a_run(machine={"cpu": "Other"}))
