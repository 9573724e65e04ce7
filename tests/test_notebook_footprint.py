"""The notebook on accuracy and footprint runs offline, twice in one kernel, over recorded runs and its own."""

from __future__ import annotations

import re
from typing import Any

import pytest
import slmkit_data
from notebook_kernel import PLOTLY, Executed, numbers, records, sentences, twice

import slmkit
from slmkit import cascade, tradeoffs
from slmkit.runs import read_probabilities

WIDGET = "application/vnd.jupyter.widget-view+json"
SHIPPED = slmkit_data.path("runs")


@pytest.mark.xdist_group("70_accuracy_vs_footprint")
@pytest.mark.real
@pytest.mark.slow
def test_footprint_runs_offline_twice_in_one_kernel(walked: Any, record_property: Any) -> None:
    kernel = walked("70_accuracy_vs_footprint")
    first, second = twice(kernel, "70_accuracy_vs_footprint", record_property)
    n_runs, n_failed, peak = numbers(r"^(\d+) runs, (\d+) failed; at most (\d+) MB in one process", first.printed)
    record_property("peak_mb", peak)
    assert (n_runs, n_failed) == (2, 0) and peak <= 1500
    own = {run["method"]: run for run in records(kernel)}
    assert set(own) == {"floor", "embedding"}
    assert_own_runs_stand_on_the_recorded_rows(first, own)
    assert_fronts_pairs_and_cascades_are_those_of_the_records(first)
    tradeoff, scoring, training, curve = first.of_type(PLOTLY)
    assert any("recorded" in str(trace.get("name")) for trace in tradeoff["data"])
    assert [bar["y"][0] for bar in (scoring["data"][0], training["data"][0])] == ["embeddings"] * 2
    assert {"gradients", "optimizer"} <= {bar["name"] for bar in training["data"]} - {
        b["name"] for b in scoring["data"]
    }
    assert curve["layout"]["xaxis"]["title"]["text"].startswith("Rows sent") and len(curve["data"]) == 4
    assert first.of_type(WIDGET), "the explorer is shown"
    assert second.seconds < first.seconds


def assert_own_runs_stand_on_the_recorded_rows(executed: Executed, own: dict[str, Any]) -> None:
    """The same rows as those recorded, so that MiniLM of today is compared with SmolLM2 of then, message by message."""
    recorded = [run for run in slmkit.read_runs(SHIPPED) if run.task == "fraud_messages" and run.seed == 0]
    assert {(run.data_sha256, run.split_sha256, run.n_test) for run in recorded} == {
        (run["data_sha256"], run["split_sha256"], run["n_test"]) for run in own.values()
    }
    found = re.search(r"MiniLM-L6-v2 with an embedding head .*SmolLM2-135M with LoRA.*n = 400, p", executed.printed)
    assert found, "the paired verdict of an own and a recorded run"


def assert_fronts_pairs_and_cascades_are_those_of_the_records(executed: Executed) -> None:
    printed, runs = executed.printed, slmkit.read_runs(SHIPPED, recorded=True)
    pairs = tradeoffs.pairs([r for r in runs if r.task == "fraud_messages"], SHIPPED)
    assert numbers(r"^(\d+) pairs, recorded; in (\d+) the two", printed) == [
        len(pairs), pairs["intervals_overlap"].sum(),
    ]  # fmt: skip
    (hidden,) = numbers(r"^of those (\d+) differ row by row", printed)
    assert hidden == (pairs["intervals_overlap"] & pairs["differ"]).sum() > 0
    assert any(s.startswith("Nothing beats the floor: none of the 16 configurations") for s in sentences(printed))
    assert numbers(r"has paid after (\d+),(\d+) messages", printed) == [1, 682]
    bank = {(r.method, r.model, r.bits): r for r in runs if r.task == "financial_phrasebank"}
    ends = [bank["floor", None, None], bank["lora", "smollm2-135m-instruct", 4]]
    for goal in ({"calls": 0.2}, {"lose": 0.01}):
        found = cascade.routed(*(read_probabilities(run, SHIPPED) for run in ends), **goal)
        assert all(f"- {line}" in printed for line in found.lines())
        joules = [run.energy_j_per_1000_rows / 1000 for run in ends]
        assert f"and {found.cost(*joules):.2f} J" in printed
    assert sum("front: stored size" in html for html in executed.of_type("text/html")) == 2
