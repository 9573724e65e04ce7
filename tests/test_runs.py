"""Run files are whole or absent, come back as they were, and shipped ones say that they were recorded."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from sample_runs import a_study
from slmkit_data import path

from slmkit.errors import InputError
from slmkit.runs import FIGURES, Run, probability_frame, read_probabilities, read_run, read_runs, to_frame, write_run

KEYS = """run_id created_utc slmkit_version versions machine task data_sha256 licence n_train n_test model revision
backend bits scheme method params seed accuracy accuracy_low accuracy_high macro_f1 mcc ece recall_by_class pr_auc
recall_at_1pct_fpr stored_bytes adapter_bytes bytes_per_parameter peak_ram_bytes peak_device_bytes load_s fit_s
latency_p50_s latency_p95_s rows_per_s energy_j_per_1000_rows energy_origin p_vs_floor p_vs_16bit"""


def test_round_trip_with_probabilities(tmp_path: Path) -> None:
    run = a_study()[0]
    frame = probability_frame(np.array([4, 9]), ["a", "b"], np.array([[0.75, 0.25], [0.125, 0.875]]), ["a", "b"])
    written = write_run(run, tmp_path, frame)
    assert read_run(written) == run and read_runs(tmp_path) == [run]
    back = read_probabilities(run, tmp_path)
    assert back.to_dict("list") == frame.to_dict("list")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_record_has_the_keys_that_were_promised(tmp_path: Path) -> None:
    values = json.loads(write_run(a_study()[0], tmp_path).read_text())
    assert not set(KEYS.split()) - set(values)
    assert list(to_frame(a_study()).columns) == [f.name for f in fields(Run)]


def test_broken_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "x.json"
    for content, message in [
        ("{", "is not a run file"),
        ("[]", "it lacks"),
        ('{"run_id": "1"}', "it lacks created_utc"),
    ]:
        broken.write_text(content)
        with pytest.raises(InputError, match=message):
            read_run(broken)
    with pytest.raises(InputError, match="no folder of runs at"):
        read_runs(tmp_path / "none")


def test_a_nan_is_never_written(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="JSON compliant"):
        write_run(replace(a_study()[0], ece=float("nan")), tmp_path)
    assert list(tmp_path.glob("*.json")) == []


def test_shipped_runs_are_real_and_marked_as_recorded() -> None:
    shipped = read_runs(path("runs"), recorded=True)
    assert {run.method for run in shipped} >= {"floor", "lora"}
    for run in shipped:
        assert run.machine["cpu"] and run.versions["slmkit"] and run.n_test > 0
        assert set(run.origins) <= set(FIGURES) and "measured" not in run.origins.values()
        scored = read_probabilities(run, path("runs"))
        assert len(scored) == run.n_test and "text" not in scored.columns
        assert np.isclose((scored["label"] == scored["predicted"]).mean(), run.accuracy)
