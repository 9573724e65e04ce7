"""Notebook 50 runs offline twice in one kernel: a tuning stopped and gone on with, facts right, the card, the merge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from notebook_kernel import PLOTLY, Executed, Kernel, numbers, twice

from slmkit.tuning import either

pytestmark = [pytest.mark.real, pytest.mark.slow]
NAME = "50_fine_tune_your_domain"


@pytest.mark.xdist_group(NAME)
def test_fine_tune_runs_offline_twice_in_one_kernel(walked: Any, record_property: Any) -> None:
    kernel = walked(NAME)
    first, second = twice(kernel, NAME, record_property)
    assert kernel.peak_bytes[NAME] <= 2.0e9  # of all processes together: what a Binder session has
    folder = kernel.folder / "runs" / f"{NAME}_tiny"
    assert_it_was_stopped_and_went_on(folder, first, second)
    assert_answers_are_scored_with_n(kernel, folder, first)
    assert_the_folders_are_whole_and_carded(folder, first)
    assert second.seconds < first.seconds / 2


def assert_it_was_stopped_and_went_on(folder: Path, first: Executed, second: Executed) -> None:
    """No folder after the stop, the same steps in all, and none again in the second pass."""
    stopped, whole = re.findall(r"^tuned is there: (True|False)$", first.printed + second.printed, flags=re.M)
    assert (stopped, whole) == ("False", "True")
    (step, steps) = numbers(r"goes on from step (\d+) of (\d+)", first.printed)
    tuned, told = either.result(folder / "tuned")
    assert 3 <= step < steps == len(tuned.history) and not tuned.stopped
    assert not (folder / "tuned.partial").exists() and "goes on" not in second.printed
    shown = first.of_type("text/plain")
    assert any(t.startswith("cancelled") for t in shown) and any(t.startswith("done") for t in shown)
    (course,) = first.of_type(PLOTLY)
    assert len(course["data"][0]["x"]) == steps or course["data"][0]["x"]["bdata"]
    assert told["method"] == "last-k"


def assert_answers_are_scored_with_n(kernel: Kernel, folder: Path, executed: Executed) -> None:
    """Three ways answered the same questions; each has its share of facts with n, and the tuned one is compared."""
    kept = [json.loads((folder / f"{n}.json").read_text()) for n in ("untuned", "untuned-5-facts", "tuned")]
    assert all(each["asked"] == kept[0]["asked"] and len(each["answers"]) == 4 for each in kept)
    prompts = [each["answers"][0]["n_prompt_tokens"] for each in kept]
    assert prompts[0] == prompts[2] < prompts[1]
    (table,) = [t for t in executed.of_type("text/html") if "n_facts" in t]
    assert table.count("<tr>") + table.count("<tr style") >= 3 and "5 nearest facts in the prompt" in table
    pairs = re.findall(
        r"^tuned minus (untuned.*): [+-]\d+ points .*p = .*n = 4 questions", executed.printed, flags=re.M
    )
    assert pairs == ["untuned", "untuned, 5 nearest facts in the prompt"]
    for what in ("held-out answers", "a neutral text"):
        assert re.search(
            rf"perplexity of {what}: [\d.]+ before, [\d.]+ after \(x .*n = [\d,]+ tokens", executed.printed
        )


def assert_the_folders_are_whole_and_carded(folder: Path, executed: Executed) -> None:
    card = (folder / "tuned" / "README.md").read_text(encoding="utf-8")
    assert card.splitlines()[:40] == executed.printed[executed.printed.index(card[:40]) :].splitlines()[:40]
    left_out = r"Left out: a merge takes about 1.5 GB beside this notebook's own, the limit is 2\.\d GB"
    if re.search(left_out, executed.printed):  # as on Binder
        return
    merged = json.loads((folder / "merged-4bit" / "slmkit_merged.json").read_text())
    assert merged["bits"] == 4 and merged["stored_bytes"] < 80e6
    assert f"loss_stored: {merged['loss_stored']:.3f} nats a token, n = 2 texts" in executed.printed
    assert re.search(r"^merged, 4 bits: \S", executed.printed, flags=re.M)
