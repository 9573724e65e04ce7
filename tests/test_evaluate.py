"""One evaluation: what stands in its record, where each figure comes from, and what is kept of a fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import binomtest

from slmkit import evaluate
from slmkit.runs import FIGURES, read_probabilities, read_run

NOTHING_SAID = lambda event: None  # noqa: E731
TASK = {"name": "toy", "positive": "fraud", "licence": "CC0"}


@pytest.fixture(scope="module")
def split_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty rows, the last twenty for testing; four test labels are the wrong way round."""
    texts = [f"{'pay the fee for parcel' if i % 2 else 'lunch with the team on day'} {i}" for i in range(60)]
    labels = ["fraud" if i % 2 else "ham" for i in range(60)]
    for i in (43, 47, 50, 54):
        labels[i] = "ham" if labels[i] == "fraud" else "fraud"
    parts = ["train"] * 40 + ["test"] * 20
    frame = pd.DataFrame({"row": range(100, 160), "text": texts, "label": labels, "part": parts})
    path = tmp_path_factory.mktemp("split") / "split.parquet"
    frame.to_parquet(path, index=False)
    return str(path)


@pytest.fixture
def job(split_file: str, tmp_path: Path) -> Any:
    def make(method: str = "floor", **more: Any) -> evaluate.Job:
        own = (
            {"model": None, "backend": None, "bits": None}
            if method == "floor"
            else {"model": "dummy", "backend": "dummy"}
        )
        facts = {"run_id": f"{method:0<12}"[:12], "task": TASK, "data_sha256": "00", "split_file": split_file}
        facts |= {"out": str(tmp_path), "method": method, "params": {}, "seed": 0, "measure_s": 0.2}
        return evaluate.Job(**{**facts, **own, **({} if method == "floor" else {"bits": 16}), **more})

    return make


def run_of(job: evaluate.Job, stage: str = "score") -> Any:
    message = {"stage": stage, "job": dataclasses.asdict(job)}
    return evaluate.evaluate(json.loads(json.dumps(message)), NOTHING_SAID)


def test_the_record_agrees_with_the_probabilities_beside_it(job, tmp_path):
    run = read_run(Path(run_of(job())["run_file"]))
    frame = read_probabilities(run, tmp_path)
    assert frame["row"].tolist() == list(range(140, 160))
    assert run.accuracy == (frame["predicted"] == frame["label"]).mean() == 0.8
    assert run.accuracy_low < 0.8 < run.accuracy_high and (run.n_train, run.n_test) == (40, 20)
    assert (frame[["p_fraud", "p_ham"]].sum(axis=1) - 1).abs().max() < 1e-4
    assert run.recall_by_class == {"fraud": 0.8, "ham": 0.8}
    assert (run.model, run.bits, run.backend, run.licence, run.params) == (None, None, None, "CC0", {"C": 1.0})
    assert run.latency_p50_s > 0 and run.rows_per_s > 10 and run.stored_bytes > 100 and run.fit_s > 0
    assert run.machine["cores"] >= 1 and "numpy" in run.versions and run.pr_auc is not None


def test_every_figure_has_an_origin_and_unknown_is_null(job):
    run = read_run(Path(run_of(job("embedding"))["run_file"]))
    there = {name for name in FIGURES if getattr(run, name) is not None}
    assert set(run.origins) == there and "p_vs_floor" not in there
    assert run.origins["accuracy"] == "measured"
    assert run.origins["energy_j_per_1000_rows"] == ("estimated" if run.energy_origin == "modelled" else "measured")
    assert run.bytes_per_parameter == pytest.approx(run.stored_bytes / 65_536, rel=0.2)
    assert {"model", "bits", "backend", "seed"}.isdisjoint(run.params) and "C" in run.params


def test_the_paired_p_is_the_exact_one(job, tmp_path):
    floor = read_run(Path(run_of(job())["run_file"]))
    beside = evaluate.probabilities_file(floor, tmp_path)
    theirs = read_probabilities(floor, tmp_path)
    ours = theirs.copy()
    wrong = ours.index[ours["predicted"] == ours["label"]][:6]
    ours.loc[wrong, "predicted"] = ours.loc[wrong, "label"].map({"fraud": "ham", "ham": "fraud"})
    assert evaluate.paired_p(ours, beside) == pytest.approx(binomtest(0, 6).pvalue)
    assert evaluate.paired_p(ours.sample(frac=1, random_state=0), beside) == pytest.approx(binomtest(0, 6).pvalue)
    assert evaluate.paired_p(ours.iloc[1:], beside) is None, "other rows"
    assert evaluate.paired_p(ours, tmp_path / "missing.csv") is None and evaluate.paired_p(ours, None) is None
    run = read_run(Path(run_of(job("prompt", floor=str(beside), params={"shots": 2}))["run_file"]))
    assert run.p_vs_floor == evaluate.paired_p(read_probabilities(run, tmp_path), beside)
    assert run.p_vs_16bit is None and run.params["shots"] == 2


def test_a_saved_fit_is_scored_as_it_is_and_a_damaged_one_is_made_again(job, tmp_path):
    training = job("lora", params={"epochs": 1})
    facts = run_of(training, "fit")
    assert evaluate.fitted(training) == facts and facts["fit_peak_ram_bytes"] > 10_000_000
    run = read_run(Path(run_of(training)["run_file"]))
    assert run.fit_s == facts["fit_s"] and run.adapter_bytes > 0
    card = (training.model_folder / "README.md").read_text(encoding="utf-8")
    assert f"| accuracy, % | {100 * run.accuracy:.1f} | {100 * run.accuracy_low:.1f} to " in card and "20 test" in card
    assert evaluate.fitted(training) == facts, "a card with scores leaves the folder whole"
    head = training.model_folder / "adapter" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-7])
    assert evaluate.fitted(training) is None
    again = read_run(Path(run_of(training)["run_file"]))
    assert again.fit_s != facts["fit_s"] and evaluate.fitted(training) is not None
    assert again.accuracy == run.accuracy


def test_the_whole_record_is_json_without_nan(job):
    path = Path(run_of(job("embedding", bits=4))["run_file"])
    values = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in a record"))
    assert values["bits"] == 4 and values["scheme"] and values["run_id"] == "embedding000"


def test_a_model_that_cannot_be_prepared_is_left_to_its_own_evaluation():
    found = evaluate.evaluate(
        {"stage": "prepare", "models": [["dummy", 4, "dummy"], ["no-such-model", 4, "dummy"]]}, NOTHING_SAID
    )
    assert len(found["errors"]) == 1 and "no-such-model, 4 bits: unknown model" in found["errors"][0]
