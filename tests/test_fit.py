"""What a model takes, term by term: signs, what grows with what, exact bytes, reasons, and the command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import slmkit_data
import torch
from streamed_models import DECODERS
from typer.testing import CliRunner

import slmkit
from benchmarks import fit_error
from slmkit import catalog, estimate, footprint, jobs, plots
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.errors import AssetError, InputError, NotEnoughMemory
from slmkit.estimate import fits
from slmkit.estimate import terms as parts
from slmkit.estimate.terms import Use

SMOL = "smollm2-135m-instruct"
GB = 1_000_000_000
REAL = {c.method: c for c in fit_error.CASES if c.model == SMOL and c.method in ("generate", "last-k")}.values()


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores with BF16 and no GPU, so that figures do not depend on where the tests run."""
    monkeypatch.setattr(footprint, "instruction_sets", lambda: ("avx2", "avx512f", "avx512_bf16"))
    monkeypatch.setattr(footprint, "machine", lambda: {"cores": 2, "threads": 2, "gpu": None})
    monkeypatch.setattr(footprint, "device_memory", lambda: None)
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "24GB")


def peak(model: str, **how: Any) -> int:
    return int(slmkit.estimate(model, **how).peak_bytes)


def group(model: str, name: str, **how: Any) -> int:
    return fits.grouped(slmkit.estimate(model, **how).terms).get(name, 0)


@pytest.mark.parametrize("entry", catalog.MODELS.values(), ids=lambda e: e.name)
def test_every_term_is_positive_placed_and_explained(entry: catalog.ModelEntry) -> None:
    for method in estimate.METHODS:
        if entry.kind != "decoder" and method == "generate":
            with pytest.raises(InputError, match="is an encoder"):
                slmkit.estimate(entry, method=method)
        else:
            check_terms(entry, method)


def check_terms(entry: catalog.ModelEntry, method: str) -> None:
    found = slmkit.estimate(entry, method=method, seq=64)
    assert found.network.exact and found.network.n_parameters == entry.n_parameters
    assert len({term.name for term in found.terms}) == len(found.terms)
    for term in found.terms:
        assert term.n_bytes > 0 and term.where == "RAM" and term.group in parts.GROUPS and len(term.why) > 15
    assert found.peak_bytes == found.ram_bytes == sum(term.n_bytes for term in found.terms)


@pytest.mark.parametrize("method", ["infer", "lora", "last-k", "full"])
@pytest.mark.parametrize("name", [SMOL, "gemma-2-2b-it", "falcon-7b"])
def test_more_rows_and_longer_rows_take_more(name: str, method: str) -> None:
    sizes = [peak(name, method=method, seq=seq, batch=batch) for seq, batch in ((32, 1), (32, 2), (64, 2), (64, 8))]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("entry", catalog.MODELS.values(), ids=lambda e: e.name)
def test_fewer_bits_store_less_and_weigh_less(entry: catalog.ModelEntry) -> None:
    found = [slmkit.estimate(entry, bits=bits) for bits in (16, 8, 4)]
    stored = [one.stored_bytes for one in found]
    weights = [fits.grouped(one.terms)["weights"] for one in found]
    assert stored == sorted(stored, reverse=True) and weights == sorted(weights, reverse=True)
    assert len(set(stored)) == len(set(weights)) == 3


@pytest.mark.parametrize("name", DECODERS)
def test_trainings_are_ordered_by_what_they_train(name: str) -> None:
    how = {"seq": 64, "batch": 2}
    blocks = [peak(name, method="last-k", last_blocks=n, **how) for n in (1, 4, 8)]
    lora, full = peak(name, method="lora", **how), peak(name, method="full", **how)
    assert blocks == sorted(set(blocks)) and blocks[-1] < lora < full
    assert group(name, "weights", method="qlora", **how) < group(name, "weights", method="lora", **how)
    assert group(name, "optimizer", method="full", **how) == 8 * catalog.get(name).n_parameters
    ranks = [peak(name, method="lora", rank=r, **how) for r in (4, 16, 64)]
    assert ranks == sorted(set(ranks))


def test_writing_takes_no_more_than_scoring() -> None:
    for bits in (16, 8, 4):
        assert peak(SMOL, bits=bits, method="generate") < peak(SMOL, bits=bits, method="infer", batch=16)


def test_a_large_vocabulary_shows_in_embeddings_logits_and_opened_head() -> None:
    names = {term.name: term.n_bytes for term in slmkit.estimate("gemma-3-270m", bits=4, batch=16).terms}
    table = 262_144 * 640
    assert names["embeddings"] == table // 2 and names["opened head"] == 2 * table
    assert names["logits"] > 16 * 262_144 * 12


def test_adapters_are_counted_as_peft_counts_them(tiny_decoder: ModelSource) -> None:
    from slmkit.backends._torch import loading, training
    from slmkit.backends.base import LoRAConfig

    for blocks in (None, 1):
        model = loading.load_module(tiny_decoder, 16, torch.bfloat16, torch.device("cpu"))
        wrapped = training._with_lora(model, LoRAConfig(last_blocks=blocks), torch.bfloat16)
        counted = sum(p.numel() for name, p in wrapped.named_parameters() if "lora_" in name)
        net = estimate.network_of(tiny_decoder.folder)
        assert parts.adapter_parameters(net, Use(16, "lora", last_blocks=blocks)) == counted


def test_the_largest_settings_fit_and_the_next_do_not() -> None:
    found = slmkit.estimate("smollm2-360m-instruct", method="lora", seq=128, batch=8, limit_bytes=3 * GB)
    limits, largest = found.limits, found.largest
    assert not fits.within(found.network, replace(found.use, batch=4096), limits)
    for name, value in largest.items():
        if name == "bits":
            continue
        assert value is not None
        changed = {"batch": 1, name: value} if name == "seq" else {name: value}
        assert fits.within(found.network, replace(found.use, **changed), limits)
        beyond = {**changed, name: value + 1}
        top = {"seq": found.network.context, "last_blocks": found.network.layers}.get(name)
        assert value == top or not fits.within(found.network, replace(found.use, **beyond), limits)
    assert slmkit.estimate("falcon-7b", limit_bytes=6 * GB).largest["bits"] == 4
    assert slmkit.estimate("falcon-7b", limit_bytes=1 * GB).largest == {"batch": None, "seq": None, "bits": None}


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        slmkit.estimate(SMOL, bits=5, method="prefix", seq=9000, batch=0, last_blocks=31, rank=0, backend="onnx")
    said = str(caught.value)
    for piece in (
        "bits must be one of 4, 8, 16; got 5",
        "method must be one of infer, generate, lora, qlora, last-k, full; got 'prefix'",
        "batch must be at least 1; got 0",
        "seq must be at most the 8,192 tokens of SmolLM2-135M's context; got 9,000",
        "last_blocks must be between 1 and the 30 blocks",
        "rank must be at least 1; got 0",
        "backend must be one of 'bnb', 'mlx', 'dummy'; got 'onnx'",
    ):
        assert piece in said
    with pytest.raises(InputError, match="qlora trains over 8 or 4 bits; got bits 16"):
        slmkit.estimate(SMOL, bits=16, method="qlora")
    with pytest.raises(InputError, match="full training changes the weights themselves, which needs 16 bits; got 4"):
        slmkit.estimate(SMOL, bits=4, method="full")


def test_models_are_named_in_every_way(tmp_path: Path) -> None:
    config = catalog.config_values(catalog.get(SMOL))
    (tmp_path / "config.json").write_text(json.dumps(config))
    for model in (config, str(tmp_path), tmp_path / "config.json", str(tmp_path / "config.json")):
        assert slmkit.estimate(model).terms == slmkit.estimate(SMOL).terms
    with pytest.raises(InputError, match=r"unknown model 'smolm2'\. Did you mean"):
        slmkit.estimate("smolm2")
    with pytest.raises(AssetError, match="nobody/nothing is not on this disk, and nothing is fetched"):
        slmkit.estimate("nobody/nothing")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(AssetError, match="must hold a JSON object; got list"):
        slmkit.estimate(str(tmp_path / "config.json"))


def test_an_unknown_architecture_is_taken_for_a_llama_and_says_so() -> None:
    config = catalog.config_values(catalog.get("llama-3.2-1b"))
    known, guessed = slmkit.estimate(config), slmkit.estimate({**config, "model_type": "olmo"})
    assert guessed.peak_bytes == pytest.approx(known.peak_bytes, rel=0.1)
    assert not guessed.network.exact and any("not one slmkit knows" in note for note in guessed.notes)


def test_full_training_is_marked_as_not_measured_and_takes_less_on_fewer_blocks() -> None:
    assert any("not measured" in note for note in slmkit.estimate(SMOL, method="full").notes)
    assert not any("not measured" in note for note in slmkit.estimate(SMOL, method="lora").notes)
    sizes = [peak(SMOL, method="full", last_blocks=n, seq=64, batch=2) for n in (1, 2, 8, 30)]
    assert sizes == sorted(set(sizes)) and sizes[-1] < peak(SMOL, method="full", seq=64, batch=2)
    with pytest.raises(InputError, match="last_blocks belongs to lora, qlora, last-k and full; got method 'infer'"):
        slmkit.estimate(SMOL, last_blocks=2)


def test_a_card_holds_the_model_and_ram_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "machine", lambda: {"cores": 2, "threads": 2, "gpu": "a card"})
    monkeypatch.setattr(footprint, "device_memory", lambda: 4 * GB)
    found = slmkit.estimate("mistral-7b-v0.1", bits=4)
    assert {term.where for term in found.terms if term.group == "weights"} == {"device"}
    assert found.device_bytes > 4 * GB > GB > found.ram_bytes and not found.fits
    with pytest.raises(NotEnoughMemory, match=r"may use 4\.00 GB \(graphics card\)"):
        estimate.check_fits("mistral-7b-v0.1", 4)
    assert slmkit.estimate("gemma-2b", bits=4).fits and estimate.check_fits("gemma-2b", 4)


def test_times_are_ranges_that_grow_with_the_work() -> None:
    small, large = (slmkit.estimate(SMOL, method="lora", batch=batch).times for batch in (2, 8))
    assert small.step_s and large.step_s and small.written_per_s is None
    assert large.step_s[0] > small.step_s[0] > small.forward_s[0] > 0
    assert math.isclose(small.step_s[1] / small.step_s[0], 4) and "a factor of 2 either way" in small.origin
    four, sixteen = (slmkit.estimate(SMOL, bits=bits).times.written_per_s for bits in (4, 16))
    assert four and sixteen and four[0] > sixteen[0]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["fit", *arguments])


def test_the_command_shows_terms_reasons_settings_and_times() -> None:
    done = run(SMOL, "--method", "last-k", "--last-k", "4", "--seq", "64", "--limit", "2GB")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        "SmolLM2-135M at 16 bits (train adapters in the last blocks, 4 rows of 64 tokens, 4 of 30"
    )
    for piece in (
        "it fits in 2.00 GB (given)",
        "optimizer state",
        "AdamW's two moments",
        "Largest that fits",
        "Stored:",
    ):
        assert piece in done.stdout
    assert (
        "rows of 64 tokens" in done.stdout and "for a training step" in done.stdout and "a factor of 2" in done.stdout
    )
    assert "does NOT fit in 1.00 GB" in run("falcon-7b", "--limit", "1GB").stdout


def test_the_command_gives_json() -> None:
    found = json.loads(run(SMOL, "--bits", "4", "--json", "--limit", "2GiB").stdout)
    assert found["peak_ram_bytes"] == sum(term["n_bytes"] for term in found["terms"]) and found["fits"] is True
    assert found["limits"] == {"RAM": {"bytes": 2 * 1024**3, "origin": "given"}} and found["peak_device_bytes"] is None
    assert {"why", "where", "group", "name"} <= set(found["terms"][0]) and found["origin"] == "estimated"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smolm",), "unknown model 'smolm'"),
        ((SMOL, "--seq", "10000"), "seq must be at most the 8,192 tokens"),
        ((SMOL, "--batch", "0"), "batch must be at least 1; got 0"),
        ((SMOL, "--limit", "much"), "a memory size must look like"),
        (("minilm", "--method", "generate"), "is an encoder"),
    ],
)
def test_wrong_questions_end_with_2_and_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and said in done.stderr


def table() -> list[dict[str, str]]:
    with open(slmkit_data.path("fit") / "fit_error.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_published_error_is_that_of_todays_predictions() -> None:
    """Median at most 10 %, worst at most 20 %, at least 8 held-out pairs, and no prediction moved since."""
    rows = table()
    cases = {(c.model, c.bits, c.method, c.seq, c.batch): c for c in fit_error.CASES}
    for row in rows:
        case = cases.get((row["model"], int(row["bits"]), row["method"], int(row["seq"]), int(row["batch"])))
        if case is not None:
            assert int(row["predicted_bytes"]) == pytest.approx(case.predicted().peak_bytes, rel=0.01), row
        error = int(row["predicted_bytes"]) / int(row["measured_bytes"]) - 1
        assert float(row["error"]) == pytest.approx(error, abs=1e-3) and abs(error) <= fit_error.WORST
    by_part = {
        part: sorted(abs(float(r["error"])) for r in rows if r["part"] == part) for part in ("held out", "calibration")
    }
    assert len(by_part["held out"]) >= 8 and len(rows) >= 16
    assert all(errors[len(errors) // 2] <= fit_error.MEDIAN for errors in by_part.values())


def test_the_picture_shows_every_pair_of_the_table() -> None:
    frame = pd.DataFrame(
        {
            "part": ["held out", "held out", "<i>"],
            "model": ["<b>x</b>", SMOL, SMOL],
            "bits": [4, 16, 16],
            "method": ["lora", "infer", "infer"],
            "seq": [64, 64, 64],
            "batch": [1, 2, 3],
            "measured_bytes": [1e9, 2e9, 5e8],
            "predicted_bytes": [1.1e9, 2e9, 4e8],
        }
    )
    figure = plots.predicted_vs_measured(frame)
    held, other = (trace for trace in figure.data if trace.mode == "markers")
    assert list(held.x) == [1.0, 2.0] and list(held.y) == [1.1, 2.0] and held.name == "held out (2)"
    assert held.customdata[0].startswith("&lt;b&gt;x") and held.customdata[0].endswith("+10.0 %") and len(other.x) == 1
    assert "3 pairs; error: median 10.0 %, worst 20.0 %" in figure.layout.title.subtitle.text
    for trace in (t for t in figure.data if t.mode == "lines"):
        assert trace.y[0] / trace.x[0] == pytest.approx(trace.y[1] / trace.x[1])
    with pytest.raises(InputError, match=r"must have rows and the columns part, .*; lacks \['seq'\]"):
        plots.predicted_vs_measured(frame.drop(columns="seq"))
    with pytest.raises(InputError, match="must have rows"):
        plots.predicted_vs_measured(frame.head(0))


def test_the_readme_states_the_published_error() -> None:
    rows: list[dict[str, Any]] = [{**row, "error": float(row["error"]), "measured_s": None} for row in table()]
    readme = (Path(fit_error.__file__).parent / "RESULTS.md").read_text(encoding="utf-8")
    for part, found in fit_error.summary(rows).items():
        if isinstance(found, dict):
            line = f"| {part} | {found['n']} | {100 * found['median']:.1f} % | {100 * found['worst']:.1f} % |"
            assert line in readme, line


@pytest.mark.slow
@pytest.mark.parametrize("case", REAL, ids=lambda c: c.method)
def test_predictions_hold_here(case: fit_error.Case, real_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of a fresh child of the real model: within 20 % where bfloat16 is native, as published; else within 35 %."""
    monkeypatch.undo()
    job = {"model": case.model, "bits": case.bits}
    jobs.run_child({"do": "prepare", **job}, module="benchmarks.fit_error_work")
    more = {"method": case.method, "seq": case.seq, "batch": case.batch, "last_blocks": case.last_blocks}
    found = jobs.run_child({"do": "measure", **job, **more}, module="benchmarks.fit_error_work")
    allowed = 0.2 if parts.number_bytes("cpu") == 2 else 0.35
    assert case.predicted().peak_bytes == pytest.approx(found["peak_bytes"], rel=allowed)


def test_the_pairs_of_a_training_of_weights_train_weights(
    tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from benchmarks import fit_error_work
    from slmkit.backends.bnb import BnbBackend

    asked: list[Any] = []
    train = BnbBackend.train_lora
    monkeypatch.setattr(
        BnbBackend, "train_lora", lambda *a, config, **more: asked.append(config) or train(*a, config=config, **more)
    )
    cases = [case for case in fit_error.CASES if case.method == "full"]
    assert [case.last_blocks for case in cases] == [None, 4] and all(case.part == "held out" for case in cases)
    found = fit_error_work.measure(str(tiny_decoder.folder), 16, "full", 16, 4, 1)
    fit_error_work.measure(str(tiny_decoder.folder), 16, "last-k", 16, 4, 1)
    assert [config.trains for config in asked] == ["weights", "adapter"] and found["peak_bytes"] > 0
