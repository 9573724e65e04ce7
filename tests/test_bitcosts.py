"""What the bits cost: paired, with its interval, as ratios on one machine, and called by its name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_runs import HOSTILE, a_floor, a_run, a_study

from slmkit import bitcosts, metrics, plots, report
from slmkit.errors import InputError
from slmkit.runs import Run, probability_frame, read_runs, write_run
from slmkit.runs.configurations import configurations

CHEAP = {"stored_bytes": 71_000_000, "peak_ram_bytes": 500_000_000, "latency_p50_s": 0.02, "p_vs_16bit": None}
DEAR = CHEAP | {"peak_ram_bytes": 900_000_000, "latency_p50_s": 0.05, "energy_j_per_1000_rows": 600.0}


def write(run: Run, folder: Path, wrong: set[int], n: int = 120) -> Run:
    """The run with probabilities: right on all rows but the wrong ones."""
    right = np.array([i not in wrong for i in range(n)])
    labels = ["a", "b"] * (n // 2)
    first = np.array([(label == "a") == ok for label, ok in zip(labels, right, strict=True)])
    proba = np.where(first[:, None], [0.9, 0.1], [0.1, 0.9])
    low, high = metrics.wilson(int(right.sum()), n)
    run = replace(run, accuracy=right.mean(), accuracy_low=low, accuracy_high=high, n_test=n)
    write_run(run, folder, probability_frame(np.arange(n), labels, proba, ["a", "b"]))
    return run


def pair_of(runs: list[Run], folder: Path | None = None) -> bitcosts.BitsPair:
    [pair] = bitcosts.pairs_of(configurations(runs), folder)
    return pair


def test_the_difference_is_paired_on_the_same_rows(tmp_path: Path) -> None:
    sixteen = write(a_run(), tmp_path, set(range(10)))
    four = write(a_run(bits=4, **CHEAP), tmp_path, set(range(5, 19)))
    pair = pair_of([sixteen, four], tmp_path)
    wanted = metrics.mcnemar([i not in range(5, 19) for i in range(120)], [i >= 10 for i in range(120)])
    assert pair.comparison.points == pytest.approx(100 * wanted["difference"], abs=0.1)
    assert pair.interval == pytest.approx((wanted["low"], wanted["high"])) and pair.comparison.known == [wanted["p"]]
    assert "cannot be told from 120 rows" in pair.sentence
    assert re.search(r"\(-\d+\.\d to \+\d+\.\d points\)", pair.sentence)


def test_few_rows_cannot_tell_and_many_can(tmp_path: Path) -> None:
    runs = [write(a_run(), tmp_path, set(), 2000), write(a_run(bits=4, **CHEAP), tmp_path, {3}, 2000)]
    assert "accuracy holds: at most 0.3 points are lost" in pair_of(runs, tmp_path).sentence
    runs = [write(a_run(), tmp_path, set(), 2000), write(a_run(bits=4, **CHEAP), tmp_path, set(range(40)), 2000)]
    pair = pair_of(runs, tmp_path)
    assert "accuracy is lower by more than chance" in pair.sentence and pair.paid[0] == "accuracy"


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (DEAR, "costs more than it saves: memory, time and energy for a smaller file"),
        (CHEAP, "saves memory and time too"),
        (CHEAP | {"latency_p50_s": 0.05}, "a trade: saves memory, costs time"),
        (CHEAP | {"peak_ram_bytes": 812_000_000, "latency_p50_s": 0.031}, "a smaller file, and nothing else"),
        (dict.fromkeys(CHEAP | DEAR), "only the stored size is known"),
    ],
)
def test_the_balance_is_called_by_its_name(costs: dict[str, float], words: str) -> None:
    pair = pair_of([a_run(), a_run(bits=4, **costs)])
    assert pair.in_all == words and "accuracy was not compared row by row" in pair.sentence


def test_costs_of_two_machines_are_not_compared() -> None:
    pair = pair_of([a_run(), a_run(bits=4, **DEAR, machine={"cpu": "Another CPU", "cores": 2})])
    assert pair.ratio("latency_p50_s") is None and pair.ratio("stored_bytes") == pytest.approx(71 / 269)
    assert pair.in_all == "only the stored size is known"


def test_a_stored_model_is_compared_with_what_it_was_made_from() -> None:
    stored = a_run(bits=4, model="/somewhere/small", base_revision="12fd25f7", revision="sha256:ab", **CHEAP)
    assert pair_of([a_run(), stored]).sixteen.first.model == "smollm2-135m-instruct"
    assert bitcosts.pairs_of(configurations([a_run(), replace(stored, base_revision="other")]), None) == []


def test_several_seeds_give_the_mean_and_no_pooled_p(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        runs.append(write(a_run(seed=seed), tmp_path, set(range(10))))
        runs.append(write(a_run(bits=4, seed=seed, **CHEAP), tmp_path, set(range(10 + seed))))
    pair = pair_of(runs, tmp_path)
    assert len(pair.comparison.known) == 2 and "120 rows a seed" in pair.sentence
    row = bitcosts.frame(runs, tmp_path).iloc[1]
    assert row["p"] is None and row["test"] == "p < 0.05 in 0 of 2 seeds, not significant"
    assert row["points"] == pytest.approx(-0.4, abs=0.11) and row["low"] < row["points"] < row["high"]


def test_the_table_has_16_bits_first_and_ratios_to_it(tmp_path: Path) -> None:
    sixteen, four = a_run(), a_run(bits=4, **DEAR)
    eight = replace(sixteen, run_id="eight", bits=8, scheme="dyn8-b64", stored_bytes=143_000_000)
    frame = bitcosts.frame([four, eight, sixteen, a_floor()])
    assert frame["bits"].tolist() == [16, 8, 4]
    assert frame["stored_ratio"].round(2).tolist() == [1.0, 0.53, 0.26]
    assert frame["latency_ratio"].round(2).tolist() == [1.0, 1.0, 1.61] and frame["energy_is"][2] == "modelled"
    assert bitcosts.frame([a_run(), a_floor()]).empty


def test_the_shipped_records_are_compared(tmp_path: Path) -> None:
    """LoRA on Financial PhraseBank: the difference and p of the README."""
    from slmkit_data import path

    folder = path("runs")
    wanted = {"task": "financial_phrasebank", "model": "smollm2-135m-instruct", "method": "lora"}
    runs = [r for r in read_runs(folder, recorded=True) if {k: getattr(r, k) for k in wanted} == wanted]
    row = bitcosts.frame(runs, folder).set_index("bits").loc[4]
    assert (row["n_test"], row["points"], round(row["p"], 2)) == (452, 1.3, 0.11)
    assert row["in_all"] == "a trade: saves memory, costs time and energy"
    assert row["low"] < 0 < row["high"] and row["stored_ratio"] == pytest.approx(0.29, abs=0.01)


def test_the_report_shows_the_bits_with_interval_and_ratio(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write(a_run(), folder, set(range(10)))
    write(a_run(bits=4, **DEAR), folder, set(range(5, 19)))
    page = report.write(folder, tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h3>What the bits cost</h3>") : page.index("More figures of each")]
    assert re.search(r">-3\.4 \(-\d+\.\d to \+\d+\.\d\)<", section) and ">71.0 × 0.26<" in section
    assert ">600 × 1.46 (modelled)<" in section and ">50.0 × 1.61<" in section
    assert ">costs more than it saves: memory, time and energy for a smaller file<" in section
    for run in (a_run(), a_floor()):
        write_run(run, tmp_path / "none")
    assert "What the bits cost" not in report.write(tmp_path / "none", tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_picture_has_a_bar_for_each_known_ratio() -> None:
    figure = plots.bits_cost([run for run in a_study() if run.method != "lora"])
    assert len(figure.data) == 3 and figure.layout.xaxis.title.text == "× 16 bits"
    minilm = next(bar for bar in figure.data if "MiniLM" in bar.name)
    assert list(minilm.y) == ["Stored size", "Peak memory", "Latency"]
    assert list(minilm.x) == pytest.approx([17 / 46, 360 / 390, 5.2 / 4.6])
    assert minilm.text[0] == "4 bits: × 0.37" and "accuracy -0.9 points" in minilm.hovertext[0]
    hostile = plots.bits_cost([a_run(model=HOSTILE), a_run(model=HOSTILE, bits=4, **CHEAP)])
    assert "<img" not in hostile.to_json()
    with pytest.raises(InputError, match="no model was run with the same method in 16 bits and in fewer"):
        plots.bits_cost([a_run(), a_floor()])
