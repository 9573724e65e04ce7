"""The notebook on distilling runs offline, twice in one kernel, and its figures are those of its folder."""

from __future__ import annotations

import json
import re
from typing import Any

import pandas as pd
import pytest
from notebook_kernel import PLOTLY, Executed, numbers, twice


@pytest.mark.xdist_group("60_distil")
@pytest.mark.real
@pytest.mark.slow
def test_distil_runs_offline_twice_in_one_kernel(walked: Any, record_property: Any) -> None:
    kernel = walked("60_distil")
    first, second = twice(kernel, "60_distil", record_property)
    assert kernel.peak_bytes["60_distil"] < 1_500_000_000
    assert numbers(r"^(\d+) texts with a label, (\d+) without, (\d+) for the test; (\d+) kinds", first.printed) == [
        32, 160, 128, 4,
    ]  # fmt: skip
    folder = kernel.folder / "distilled" / "60_tiny"
    records = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/distillation.json")
    }
    assert set(records) == {"word_counts", "half_of_minilm", "guarded", "leaking", "whispered"}
    assert_the_student_owes_its_gain_to_the_teacher(first, records["word_counts"])
    assert_the_leak_is_seen_and_counted(first, folder, records)
    (bars,) = first.of_type(PLOTLY)
    assert [trace["name"] for trace in bars["data"]] == ["teacher", "student", "labels alone"]
    assert re.search(r"3 of 6 blocks left: \[0, ", first.printed)
    assert "was swallowed by the machine at the station." in first.printed
    assert second.seconds < first.seconds / 3, "what is in the folder is read"
    for line in re.findall(r"^(?:retention|gap|distilling).*$", first.printed, flags=re.MULTILINE):
        assert line in second.printed


def assert_the_student_owes_its_gain_to_the_teacher(executed: Executed, record: dict[str, Any]) -> None:
    """With eight labels a kind the word counts gain by more than chance, and that is what is printed."""
    figures = record["figures"]
    assert (record["n_pool"], record["n_labelled"], figures["n_test"]) == (192, 32, 128)
    assert figures["gain"] > 0.08 and figures["p_vs_labels"] < 0.01 and figures["gain_interval"][0] > 0
    assert f"distilling instead of labels alone: {100 * figures['gain']:+.1f} points" in executed.printed
    assert record["saving"]["bytes_share"] < 0.05 and record["saving"]["latency_share"] < 0.5
    (table,) = [html for html in executed.of_type("text/html") if "gap_closed" in html]
    assert "word counts" in table and "half of MiniLM" in table and "NaN" not in table


def assert_the_leak_is_seen_and_counted(executed: Executed, folder: Any, records: dict[str, Any]) -> None:
    clean, leaking = records["guarded"], records["leaking"]
    assert (clean["removed"], clean["leaked"]) == ({"exact": 128}, {})
    assert (leaking["removed"], leaking["leaked"]) == ({}, {"exact": 128})
    shares = [record["figures"]["accuracy"]["student"][0] for record in (clean, leaking)]
    assert shares[1] > 0.97 > 0.9 > shares[0]
    told = pd.read_csv(folder / "leaking" / "predictions.csv")
    assert (told["student"] == told["label"]).mean() == shares[1]
    assert (
        "the guard on:" in executed.printed and "Leak: 128 texts of the pool stand in the test rows" in executed.printed
    )
    assert re.search(rf"leaking, with labels +{100 * shares[1]:.1f}% of 128 rows; .* p = \S+e-", executed.printed)
    assert records["word_counts"]["figures"]["accuracy"]["student"] == clean["figures"]["accuracy"]["student"]
