"""The notebook on writing runs offline, twice in one kernel; its scores are those of its answers, live and recorded."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import slmkit_data
from notebook_kernel import PLOTLY, numbers, sentences, twice

from slmkit import assets, writing

NAME, MODEL = "80_assistants_summaries_translation_tutor", "smollm2-135m-instruct"


@pytest.mark.xdist_group(NAME)
@pytest.mark.real
@pytest.mark.slow
def test_writing_runs_offline_twice_in_one_kernel(walked: Any, record_property: Any) -> None:
    kernel = walked(NAME)
    first, second = twice(kernel, NAME, record_property)
    (peak,) = numbers(r"^At most (\d+) MB in one process that wrote", first.printed)
    record_property("peak_mb", peak)
    assert 500 < peak <= 1500
    kept = json.loads((kernel.folder / "answers" / "80_tiny" / writing.FILE).read_text(encoding="utf-8"))
    assert len(kept) == 5 and all(one["text"].strip() and one["seconds"] > 0 for one in kept.values())
    for n, recorded in ((2, 22), (1, 11), (1, 23)):
        assert re.search(rf"^{n + recorded} answers: {n} written here, {recorded} recorded on \S", first.printed, re.M)
    assert re.search("^alone: 0 written here, 20 recorded on", first.printed, re.M)
    assert re.search("^with notes: 1 written here, 19 recorded on", first.printed, re.M)
    said = sentences(first.printed)
    assert any(re.match(r"floor: the German as it is: \d+\.\d % .*, n = 24$", line) for line in said)
    for job in ("translation", "summary", "tutor"):
        assert_the_score_is_that_of_the_answers(job, said)
    verdicts = [line for line in said if "the model's best" in line]
    assert [line.split(":")[0] for line in verdicts] == ["translation", "summary", "tutor", "assistant"]
    assert any("is not shown to beat the floor" in line for line in verdicts), "a model of this size fails somewhere"
    invented = [int(n) for n in re.findall(r": (\d+)% of its answers state an amount", first.printed)]
    assert len(invented) == 3 and invented[0] == 0, "a fact that is read out is not invented"
    (picture,) = first.of_type(PLOTLY)
    assert picture["data"][0]["name"] == "floor" and len(picture["data"][0]["x"]) == 4
    assert_larger_models_have_estimates_and_no_scores(first)
    assert second.seconds < first.seconds / 2


def assert_the_score_is_that_of_the_answers(job: str, said: list[str]) -> None:
    """Within two answers of that of all recorded ones: only the two written here may differ."""
    asked = writing.rows(job)
    prompts = writing.prompts(job, list(asked["text"]))
    texts, _ = writing.partly_recorded(
        MODEL, prompts, "unused", live=0, max_new_tokens=writing.JOBS[job].max_new_tokens
    )
    recorded = writing.scores(job, texts, asked).mean()
    shown = [re.match(rf"SmolLM2-135M-Instruct: (\S+) % \(.*\), n = {len(asked)}; against the floor", s) for s in said]
    shares = [float(match[1]) / 100 for match in shown if match]
    assert any(abs(share - recorded) <= 2 / len(asked) + 0.001 for share in shares), (job, recorded, shares)


def assert_larger_models_have_estimates_and_no_scores(executed: Any) -> None:
    estimated, recorded = (
        next(html for html in executed.of_type("text/html") if column in html)
        for column in ("peak_GB</th>", "decode</th>")
    )
    for name in ("Phi-3", "Gemma", "Llama 2", "Mistral", "Falcon"):
        assert name in estimated
    assert estimated.count("<tr") == 1 + 12 and "score" not in estimated and "falcon-7b" in recorded
    assert "recorded on: AMD EPYC, 2 cores" in executed.printed


def test_recorded_answers_are_complete_and_of_the_packaged_model() -> None:
    kept = assets.read_json(slmkit_data.path("answers") / writing.FILE)
    revision = assets.resolve(MODEL).revision
    assert len(kept) == 24 + 12 + 24 + 2 * 20
    for one in kept.values():
        assert (one["model"], one["revision"]) == (MODEL, revision) and one["cpu"] and one["cores"] >= 1
        assert one["n_new_tokens"] <= one["tokens"] and one["seconds"] > 0
