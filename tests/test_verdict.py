"""The sentences say what the runs say: the difference, its test, and plainly when nothing beats the floor."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_runs import HOSTILE, a_floor, a_run, a_study

from slmkit import plots
from slmkit.runs import Run, probability_frame, to_frame, write_run
from slmkit.runs.configurations import configurations, setups
from slmkit.verdict import findings, verdicts


def of(kind: str, runs: list[Run], folder: Path | None = None) -> list[str]:
    return [f.sentence for f in findings(runs, folder) if f.kind == kind]


def test_a_model_that_beats_the_floor_is_said_to_with_points_p_and_size() -> None:
    [sentence] = of("floor", [a_run(right=110, p_vs_floor=0.002), a_floor(102)])
    assert sentence == (
        "SmolLM2-135M with LoRA at 16 bits beats the floor by 6.7 points "
        "(91.7 % against 85.0 %, n = 120, p = 0.002) for 269 MB stored."
    )


def test_a_better_but_untested_or_insignificant_model_does_not_beat_the_floor() -> None:
    [sentence] = of("floor", [a_run(right=104, p_vs_floor=0.61), a_floor(102)])
    assert "does not beat the floor: +1.7 points" in sentence and "p = 0.61, not significant" in sentence
    [sentence] = of("floor", [a_run(right=110, p_vs_floor=None), a_floor(102)])
    assert "does not beat the floor" in sentence and "not tested" in sentence
    [sentence] = of("floor", [a_run(right=80, p_vs_floor=0.001), a_floor(102)])
    assert "is worse than the floor by 18.3 points" in sentence
    assert "-1.7 points" in of("floor", [a_run(right=100, p_vs_floor=0.6), a_floor(102)])[0]


def test_points_are_those_a_reader_gets_from_the_figures_shown() -> None:
    pattern = r": ([+-]?[\d.]+) points \(([\d.]+) % against ([\d.]+) %"
    for right in range(90, 118):
        sentence = of("floor", [a_run(right=right, p_vs_floor=0.9), a_floor(101)])[0]
        points, ours, floor = map(float, re.findall(pattern, sentence)[0])
        assert points == round(ours - floor, 1)


def test_when_nothing_beats_the_floor_that_comes_first() -> None:
    runs = [a_run(right=104, p_vs_floor=0.6), a_run(bits=4, right=103, p_vs_floor=0.9), a_floor(102)]
    assert verdicts(runs)[0] == (
        "Nothing beats the floor: none of the 2 configurations tried is significantly better. "
        "The floor reaches 85.0 % (77.5 to 90.3), n = 120, 1.90 MB stored."
    )
    assert verdicts([a_run()])[0].startswith("No floor was run")
    assert verdicts([a_floor()]) == ["Only the floor was run. It reaches 85.0 % (77.5 to 90.3), n = 120."]


def test_bits_say_what_they_save_and_what_they_cost() -> None:
    low = a_run(
        bits=4, right=106, stored_bytes=71_000_000, peak_ram_bytes=900_000_000, latency_p50_s=0.0434, p_vs_16bit=1.0
    )
    [sentence] = of("bits", [a_run(right=107), low, a_floor()])
    assert sentence == (
        "4 bits instead of 16 for SmolLM2-135M with LoRA save 198 MB stored (74 %), cost 0.9 points (p = 1, not "
        "significant), take 88.0 MB more of peak memory (11 %) and take 1.4 times as long per row. "
        "Costs more than it saves: memory and time for a smaller file; no loss was shown."
    )
    faster = replace(low, latency_p50_s=0.0155, accuracy=107 / 120)
    assert "A trade: saves time, costs memory;" in of("bits", [a_run(right=107), faster])[0]
    assert "leave the accuracy as it is" in of("bits", [a_run(right=107), faster])[0]
    assert "need 50 % of the time per row" in of("bits", [a_run(right=107), faster])[0]


def test_bits_are_compared_only_within_the_same_settings() -> None:
    assert of("bits", [a_run(params={"shots": 4}), a_run(bits=4, params={"shots": 0})]) == []
    assert of("bits", [a_run(), a_run(bits=4, model="minilm")]) == []


def test_seeds_are_averaged_and_counted_not_pooled() -> None:
    seeds = [a_run(right=k, seed=s, p_vs_floor=p) for s, k, p in ((0, 111, 0.01), (1, 108, 0.2), (2, 114, 0.001))]
    floors = [a_floor(k, seed=s) for s, k in ((0, 102), (1, 101), (2, 103))]
    [sentence] = of("floor", [*seeds, *floors])
    assert "beats the floor by 7.5 points (mean of 3 seeds, 92.5 % against 85.0 %" in sentence
    assert "p < 0.05 in 2 of 3 seeds" in sentence
    weak = [replace(run, p_vs_floor=0.01 if run.seed == 0 else 0.2) for run in seeds]
    assert "does not beat the floor" in of("floor", [*weak, *floors])[0]
    assert "p < 0.05 in 1 of 3 seeds, not significant" in of("floor", [*weak, *floors])[0]


def test_the_cheapest_within_noise_is_by_interval_without_probabilities() -> None:
    small = a_run("embedding", "minilm", 16, 106, stored_bytes=46_000_000)
    [sentence] = of("cheapest", [a_run(right=110), small, a_floor(90)])
    assert sentence.startswith(
        "The smallest that cannot be told apart from the best: MiniLM-L6-v2 with an embedding head"
    )
    assert "not tested in pairs" in sentence and "46.0 MB stored" in sentence
    [sentence] = of("cheapest", [a_run(right=118), small, a_floor(90)])
    assert sentence.startswith("Nothing clearly smaller comes within noise of the best, SmolLM2-135M with LoRA")


def test_a_floor_that_is_best_is_said_to_be_the_smallest_too() -> None:
    [sentence] = of("cheapest", [a_floor(118), a_run(right=100)])
    assert sentence.startswith("The most accurate is the smallest too: the TF-IDF floor")


def test_of_about_one_size_the_more_accurate_is_named() -> None:
    near = a_run(bits=4, right=109, stored_bytes=80_000_000)
    runs = [a_run(right=112), near, a_run("prompt", bits=4, right=107, stored_bytes=79_000_000)]
    assert "apart from the best: SmolLM2-135M with LoRA at 4 bits" in of("cheapest", runs)[0]


def test_the_cheapest_within_noise_is_a_paired_test_with_probabilities(tmp_path: Path) -> None:
    labels = ["a", "b"] * 60

    def written(run: Run, wrong: int) -> Run:
        hit = np.arange(120) >= wrong
        columns = np.array(
            [[0.9, 0.1] if (label == "a") == ok else [0.1, 0.9] for label, ok in zip(labels, hit, strict=True)]
        )
        write_run(run, tmp_path, probability_frame(np.arange(120), labels, columns, ["a", "b"]))
        return run

    best = written(a_run(right=118), 2)
    near, far = (a_run("embedding", "minilm", 16, k, stored_bytes=46_000_000) for k in (115, 105))
    assert "paired test: p = 0.25, not significant" in of("cheapest", [best, written(near, 5)], tmp_path)[0]
    assert "Nothing clearly smaller" in of("cheapest", [best, written(far, 15)], tmp_path)[0]


def test_the_number_of_comparisons_is_said() -> None:
    [caveat] = of("caveat", a_study())
    assert caveat.startswith("16 comparisons were made (11 with the floor, 5 with 16 bits)") and "about 0.8" in caveat


def test_configurations_are_numbered_best_first_and_told_apart() -> None:
    configs = configurations(a_study())
    assert [c.number for c in configs] == list(range(1, 13))
    assert [c.accuracy for c in configs] == sorted((c.accuracy for c in configs), reverse=True)
    assert len({c.name for c in configs}) == 12
    repeat = replace(a_run(right=90), run_id="again", created_utc="2026-03-02T10:00:00+00:00")
    [one] = configurations([a_run(right=110), repeat])
    assert one.accuracy == pytest.approx(0.75)


def test_other_rows_are_another_setup_and_sentences_say_which() -> None:
    few, other = a_run(n_train=40), a_run(task="sms_spam")
    near = a_run(seed=1, n_train=322)
    assert [len(group) for group in setups([a_run(), few, other, near])] == [2, 1, 1]
    assert verdicts([a_run(), other])[1].startswith("sms_spam, 320 training rows: No floor was run")


def test_the_frame_gives_the_same_words_and_plots_offers_them() -> None:
    assert plots.verdicts(to_frame(a_study())) == verdicts(a_study())


def test_hostile_names_are_cleaned() -> None:
    for sentence in verdicts([a_run(model=HOSTILE, method=HOSTILE), a_floor(), a_run(task=HOSTILE)]):
        assert "\u202e" not in sentence and "\x1b" not in sentence


def test_setups_of_one_task_are_told_apart_by_what_differs() -> None:
    def leads(*runs: Run) -> list[str]:
        return [sentence.partition(":")[0] for sentence in verdicts(list(runs))]

    few, other = a_run(right=90, n_test=40), a_run(right=90, data_sha256="cd" * 32)
    assert leads(a_run(), few) == [f"fraud_messages, 320 training rows, {n} test rows" for n in (120, 40)]
    assert leads(a_run(), other) == [f"fraud_messages, 320 training rows, data {h * 4}" for h in ("ab", "cd")]
    assert leads(a_run(), a_run(task="sms_spam")) == [f"{t}, 320 training rows" for t in ("fraud_messages", "sms_spam")]
