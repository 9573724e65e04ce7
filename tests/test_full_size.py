"""The benchmark of full sizes: its arithmetic, its work on a small model, and records that claim no accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import slmkit_data
import torch
from streamed_models import small_config
from torch import nn

from benchmarks import full_size, full_size_mlx, full_size_work
from slmkit import catalog, runs
from slmkit.backends._torch import quantise
from slmkit.errors import InputError

RECORDS = sorted(slmkit_data.path("full_size").glob("*.json"))
BNB = [path for path in RECORDS if "-bnb-" in path.name]
SCORES = {"accuracy", "macro_f1", "mcc", "ece", "task", "method", "n_test"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_a_record_of_random_weights_says_so_and_claims_no_accuracy(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["weights"] == "random" and record["machine"]["cpu"] and record["versions"]["torch"]
    assert not SCORES & set(record)
    with pytest.raises(InputError, match=r"is not a run file: it lacks .*accuracy|is not a run file: it lacks run_id"):
        runs.read_run(path)
    entry = catalog.get(record["model"])
    assert record["n_parameters"] == entry.n_parameters
    compute = {"bnb": full_size.computed_bytes, "mlx": full_size_mlx.computed_bytes}[record["backend"]]
    assert record["stored_bytes"] == pytest.approx(compute(entry, record["bits"]), rel=0.01)
    assert record.get("finite", True)


def test_records_of_random_weights_are_not_among_the_runs() -> None:
    assert RECORDS and all(run.accuracy is not None for run in runs.read_runs(slmkit_data.path("runs")))
    assert not {p.name for p in RECORDS} & {p.name for p in slmkit_data.path("runs").iterdir()}


def test_the_readme_shows_the_records_and_nothing_else() -> None:
    readme = (Path(full_size.__file__).parent / "RESULTS.md").read_text(encoding="utf-8")
    section = readme.split("## Full size, random weights", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| model")]
    assert sorted(rows) == sorted(full_size.table_row(json.loads(path.read_text("utf-8"))) for path in BNB)


def test_families_are_known_by_short_and_catalog_names() -> None:
    assert full_size.entry_of("mistral-7b") is full_size.entry_of("mistral-7b-v0.1")
    for name in ("mistral", "minilm"):
        with pytest.raises(InputError, match=rf"FAMILY must be one of phi-3, gemma-2b, .*; got '{name}'"):
            full_size.entry_of(name)


def test_bytes_are_computed_kind_by_kind() -> None:
    """Mistral 7B by hand: linear layers and head at 4 + 8/64 + 32/(64 x 256) bits, embeddings at 4.5, norms at 16."""
    head, norms = 32_000 * 4096, 65 * 4096
    linear = 7_241_732_096 - 2 * head - norms
    by_hand = (linear + head) * (4 + 8 / 64 + 32 / 16_384) / 8 + head * 4.5 / 8 + norms * 2
    assert full_size.computed_bytes(catalog.get("mistral-7b-v0.1"), 4) == pytest.approx(by_hand, rel=1e-4)


@pytest.fixture(scope="module", params=["gemma-2b", "phi-3-mini-4k-instruct"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model stored in 4 bits by the benchmark's own step."""
    made = tmp_path_factory.mktemp("stored")
    (made / "config.json").write_text(json.dumps(small_config(request.param)))
    assert full_size_work.store(made, 4)["file_bytes"] > 0
    return made


def test_both_sides_are_timed_on_the_same_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.common.set_up", lambda threads: 1)
    sides = [
        full_size_work.Own(folder, 4, [5, 6, 7, 8], 6, None),
        full_size_work.Peer(folder, [5, 6, 7, 8], None),
    ]
    for side in sides:
        assert side.prefill() > 0 and all(side.step() > 0 for _ in range(5))
    own, peer = (side.result() for side in sides)
    assert len(own["tokens"]) == len(peer["tokens"]) == 6
    assert 0 < own["stored_bytes"] < own["n_parameters"] * 0.7
    assert own["load_peak_ram_bytes"] <= own["peak_ram_bytes"]


def test_ratios_are_those_of_neighbours() -> None:
    """The machine slowed down threefold half-way; the peer took twice as long all the time."""
    prefills, steps = {"own": [1.0, 3.0], "peer": [2.0, 6.0]}, {"own": [0.1, 0.3, 0.3], "peer": [0.2, 0.6, 0.6]}
    results = {"own": {"load_s": 1.0, "tokens": []}, "peer": {"peak_ram_bytes": 7, "tokens": []}}
    facts = full_size._speed_facts(prefills, steps, results, 128)
    assert facts["prefill_ratio"] == pytest.approx(2) and facts["decode_ratio"] == pytest.approx(2)
    assert facts["prefill_tokens_per_s"] == 64 and facts["peer_decode_tokens_per_s"] == pytest.approx(1 / 0.6)
    assert "tokens" not in facts and facts["n_decoded"] == 3


def test_the_peer_computes_from_the_same_weights(folder: Path, in_bfloat16: None) -> None:
    """With slmkit's embeddings and head opened in place of the peer's 16-bit ones both are the same model."""
    peer, ids = full_size_work.peer_model(folder, torch.device("cpu")), torch.arange(20, 60)[None]
    own, _, _ = full_size_work.load(folder, 4)
    table, head = own.get_input_embeddings(), own.get_output_embeddings()
    opened = table.rows(torch.arange(table.num_embeddings))
    assert (opened - peer.get_input_embeddings().weight).norm() < 0.12 * opened.norm()
    peer.get_input_embeddings().weight = nn.Parameter(opened)
    packed = isinstance(head, quantise.QuantLinear)
    weight = quantise.bnbf.dequantize_4bit(head.weight, head.state) if packed else opened
    peer.get_output_embeddings().weight = nn.Parameter(weight)
    with torch.inference_mode():
        one, other = (m(input_ids=ids).logits.float() for m in (own, peer))
    assert (one - other).norm() < 0.05 * other.norm()


def test_a_qlora_step_moves_the_adapter(folder: Path) -> None:
    found = full_size_work.qlora_step(folder, 4, 2, 16, None)
    assert found["moved"] and found["loss"] > 0 and found["step_s"] > 0
