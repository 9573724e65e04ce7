"""Notebook 20 runs offline twice in one kernel: four ways on the same sentences, beside the floor, and what moved."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from notebook_kernel import PLOTLY, Executed, Kernel, numbers, records, sentences, twice

from slmkit.runs import answers, read_runs

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.xdist_group("20_sentiment")
def test_sentiment_runs_offline_twice_in_one_kernel(walked: Any, record_property: Any) -> None:
    kernel = walked("20_sentiment")
    first, second = twice(kernel, "20_sentiment", record_property)
    assert kernel.peak_bytes["20_sentiment"] <= 2.0e9  # of all processes together: what a Binder session has
    assert second.seconds < first.seconds / 2
    runs = records(kernel)
    assert max(r["peak_ram_bytes"] for r in runs) <= 1.6e9
    assert Counter(r["method"] for r in runs) == {"floor": 1, "prompt": 2, "embedding": 1, "lora": 1}
    assert {(r["n_train"], r["n_test"]) for r in runs} == {(30, 30)}
    assert_told_beside_the_floor(first)
    assert_what_examples_changed_is_told(kernel, first)
    assert_pictures_are_of_these_runs(kernel, first)


def assert_told_beside_the_floor(executed: Executed) -> None:
    """Each way has its sentence against the floor, the two prompts are compared, recorded rows are marked."""
    said = sentences(executed.printed)
    assert any(s.startswith("Only the floor was run. It reaches ") for s in said)  # a slow machine's plan comes before
    against = [s for s in said if "the floor by" in s or "does not beat the floor:" in s]
    assert len([s for s in against if "SmolLM2-135M" in s]) >= 3 and [s for s in against if "MiniLM" in s]
    (pair,) = re.findall(
        r"^SmolLM2.* with a prompt .*shots 6.* (?:is|was) .*shots 0.*n = 30.*$", executed.printed, re.M
    )
    assert "points" in pair and "p " in pair
    assert any(s.startswith("recorded: ") and "beat the floor" in s and "n = 452" in s for s in said)
    assert "recorded on: Intel(R) Xeon" in executed.printed
    assert "Left out: profile tiny" in executed.printed


def assert_what_examples_changed_is_told(kernel: Kernel, executed: Executed) -> None:
    """The count of changed answers is that of the records, and the lean that is printed is a whole."""
    folder = kernel.folder / "runs" / "20_sentiment_tiny"
    asked = {run.params["shots"]: run for run in read_runs(folder) if run.method == "prompt"}
    assert set(asked) == {0, 6}
    found = answers.side_by_side({"zero": asked[0], "few": asked[6]}, folder)
    moved = int((found["zero"] != found["few"]).sum())
    assert numbers(r"^6 examples changed (\d+) of (\d+) answers", executed.printed) == [moved, 30]
    lean = re.findall(r"^ *(\w+): (\d+)% of the answer on average", executed.printed, flags=re.M)
    assert [name for name, _ in lean] == ["negative", "neutral", "positive"]
    assert sum(int(share) for _, share in lean) == pytest.approx(100, abs=2)


def assert_pictures_are_of_these_runs(kernel: Kernel, executed: Executed) -> None:
    tradeoff, matrix, recall, sure, asked, recorded = executed.of_type(PLOTLY)
    names = " ".join(str(trace.get("name")) for trace in tradeoff["data"])
    assert "floor" in names and "SmolLM2-135M" in names and "MiniLM" in names
    assert sum(int(cell.split("<br>")[0]) for row in matrix["data"][0]["text"] for cell in row) == 30
    assert [trace["name"] for trace in recall["data"]] == ["negative", "neutral", "positive"]
    assert all(len(trace["hovertext"]) == 5 for trace in recall["data"])
    for figure in (sure, asked):
        subtitle = figure["layout"]["title"]["subtitle"]["text"]
        assert "n = 30" in subtitle and "expected calibration error" in subtitle
        rows = [int(text.split(" rows")[0]) for trace in figure["data"] for text in trace.get("hovertext", [])]
        assert sum(rows) == 30
    assert "recorded" in str(recorded["layout"]["yaxis"]["ticktext"])
