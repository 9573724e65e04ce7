"""The exports of a class as one table and one picture, whatever somebody put into a zip file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sample_runs import HOSTILE, a_floor, a_run

from slmkit import plots, workshop
from slmkit.errors import InputError
from slmkit.runs import Run, write_run
from slmkit.workshop import gathering

MACHINES = {"ada": "Laptop A", "grace": "Laptop B"}


def runs_of(student: str, factor: float = 1.0) -> list[Run]:
    machine = {"cpu": MACHINES.get(student, "Laptop"), "cores": 4}
    lora = a_run(machine=machine, latency_p50_s=0.03 * factor, run_id="lora")
    return [a_floor(machine=machine, run_id="floor"), lora, a_run(bits=4, machine=machine, run_id="lora4")]


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What two students handed in, made by the export itself."""
    folder = tmp_path / "exports"
    folder.mkdir()
    monkeypatch.delenv("SLMKIT_PROGRESS", raising=False)
    for student, factor in (("ada", 1.0), ("grace", 30.0)):
        work = tmp_path / student
        for run in runs_of(student, factor):
            write_run(run, work / "runs" / "00")
        entries = {"00.1": {"tries": 1, "passed": student == "ada"}}
        (work / "slmkit_progress.json").write_text(json.dumps({"exercises": entries}))
        workshop.export(work, folder / f"{student}.zip")
    return folder


def put(path: Path, **members: Any) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        for name, value in members.items():
            opened.writestr(name, value if isinstance(value, str) else json.dumps(value))


def test_every_run_of_every_student_is_a_row_with_units(exports: Path) -> None:
    found = workshop.gather(exports)
    assert found.problems == [] and len(found.runs) == 6
    row = found.runs[(found.runs["student"] == "grace") & (found.runs["bits"] == 16)].iloc[0]
    assert (row["latency_ms"], row["stored_MB"], row["peak_memory_MB"]) == pytest.approx((900.0, 269.0, 812.0))
    assert row["machine"] == "Laptop B, 4 cores" and row["origin"] == "measured"
    assert set(found.runs["configuration"]) == {
        "TF-IDF floor", "SmolLM2-135M, LoRA, 16 bits", "SmolLM2-135M, LoRA, 4 bits",
    }  # fmt: skip
    assert found.progress.loc["ada", "00.1"] == "done" and found.progress.loc["grace", "00.1"] == "1 tries"
    assert found.progress.loc["ada", "40.1"] == ""


def test_a_picture_of_the_class_has_a_marker_a_student_in_percent_and_ms(exports: Path) -> None:
    figure = plots.class_results(workshop.gather(exports).runs)
    assert {trace.name for trace in figure.data} == {
        "TF-IDF floor", "SmolLM2-135M, LoRA, 16 bits", "SmolLM2-135M, LoRA, 4 bits",
    }  # fmt: skip
    (lora,) = [trace for trace in figure.data if "16 bits" in trace.name]
    assert sorted(lora.x) == pytest.approx([30, 900]) and lora.y[0] == pytest.approx(100 * 107 / 120)
    assert "ada: " in lora.hovertext[0] and "Measured on Laptop A" in lora.hovertext[0]
    assert figure.layout.xaxis.title.text == "Median time for one row (ms), logarithmic"
    assert figure.layout.yaxis.title.text == "Accuracy (%)" and "2 students" in figure.layout.title.subtitle.text
    low, high = figure.layout.xaxis.range
    assert 10**low < 0.7 and 10**high > 900
    assert plots.class_results(workshop.gather(exports).runs, "stored_MB").layout.xaxis.title.text.endswith(
        "(MB), logarithmic"
    )


def test_what_was_recorded_elsewhere_says_so(exports: Path) -> None:
    run = replace(a_run(run_id="r"), origins={"accuracy": "recorded"})
    put(exports / "book.zip", **{"runs/x.json": asdict(run)})
    found = workshop.gather(exports).runs
    figure = plots.class_results(found)
    (lora,) = [trace for trace in figure.data if "16 bits" in trace.name]
    assert sorted(lora.marker.opacity) == [0.45, 0.95, 0.95]
    assert sum("Recorded on Example CPU" in line for line in lora.hovertext) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"accuracy": "high"}, "accuracy is no share"),
        ({"accuracy": 7}, "accuracy is no share"),
        ({"accuracy": float("nan")}, "accuracy is no share"),
        ({"accuracy": True}, "accuracy is no share"),
        ({"stored_bytes": "1 GB"}, "stored_bytes is no size"),
        ({"latency_p50_s": -1}, "latency_p50_s is no size"),
        ({"bits": 3}, "bits or model"),
        ({"model": ["x"]}, "bits or model"),
        ({"task": None}, "task is no text"),
        ({"n_test": 2.5}, "n_test is no whole number"),
        ({"machine": "mine"}, "machine, origins or params"),
        ({"params": None}, "machine, origins or params"),
    ],
)
def test_a_record_that_cannot_be_right_is_named_and_left_out(exports: Path, change: dict, why: str) -> None:
    put(exports / "mallory.zip", **{"runs/x.json": asdict(a_run()) | change, "runs/y.json": asdict(a_run(run_id="y"))})
    found = workshop.gather(exports)
    assert len(found.runs[found.runs["student"] == "mallory"]) == 1
    (problem,) = found.problems
    assert problem.startswith("mallory: runs/x.json left out (") and why in problem


def test_files_that_are_no_exports_do_not_stop_the_class(exports: Path) -> None:
    (exports / "a.zip").write_bytes(b"no zip")
    (exports / "b.zip").write_bytes((exports / "ada.zip").read_bytes()[:-80])
    put(exports / "c.zip", **{"runs/x.json": "[" * 100_000, "progress.json": {"exercises": 3}, "../up.json": "{}"})
    put(exports / "d.zip")
    put(exports / "e.zip", **{"progress.json": {"exercises": {"00.1": {"tries": "many"}, "00.2": [1]}}})
    (exports / "notes.txt").write_text("not an export")
    found = workshop.gather(exports)
    assert len(found.runs) == 6 and list(found.progress.index) == ["ada", "c", "d", "e", "grace"]
    assert [problem[0] for problem in found.problems] == ["a", "b", "c", "c"]
    assert set(found.progress.loc["e"]) == {""}


def test_a_bomb_is_not_unpacked(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(exports / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("runs/x.json", " " * 3_000_000)
    (problem,) = workshop.gather(exports).problems
    assert problem == "bomb: runs/x.json left out (ValueError: too large)"
    monkeypatch.setattr(gathering, "MAX_BYTES", 2_000_000)
    assert "bomb: no export that can be read (ValueError: more than" in workshop.gather(exports).problems[0]


def test_the_same_run_twice_counts_once(exports: Path) -> None:
    put(exports / "twice.zip", **{"runs/x.json": asdict(a_run()), "runs/y.json": asdict(a_run())})
    found = workshop.gather(exports)
    assert len(found.runs[found.runs["student"] == "twice"]) == 1


def test_hostile_names_become_text(exports: Path) -> None:
    hostile = HOSTILE.replace("/", "")
    run = a_run(method=hostile, model=HOSTILE, task="fraud_messages", machine={"cpu": HOSTILE})
    put(exports / f"{hostile[:60]}.zip", **{"runs/x.json": asdict(run)})
    found = workshop.gather(exports)
    assert not any("\x1b" in str(cell) or "\u202e" in str(cell) for cell in found.runs.to_numpy().ravel())
    document = plots.class_results(found.runs).to_json()
    assert "<img" not in document and "<script" not in document


def test_no_folder_no_exports_and_what_a_picture_cannot_show(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of exports at .*nowhere"):
        workshop.gather(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="students make one with `slmkit export -o NAME.zip`"):
        workshop.gather(tmp_path / "empty")
    runs = workshop.gather(exports).runs
    with pytest.raises(InputError, match="unknown cost 'latency'. Did you mean 'latency_ms'"):
        plots.class_results(runs, "latency")
    with pytest.raises(InputError, match="shows one task; got 'a', 'fraud_messages'"):
        plots.class_results(pd.concat([runs, runs.assign(task="a")]))
    with pytest.raises(InputError, match="got no run"):
        plots.class_results(runs.head(0))
    with pytest.raises(InputError, match="lacks the columns origin"):
        plots.class_results(runs.drop(columns="origin"))
    with pytest.raises(InputError, match="no run of the class has the cost"):
        plots.class_results(runs.assign(J_per_1000_rows=None), "J_per_1000_rows")
