"""Studies: the plan, resuming after any end, failures that stay their own, paired tests, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import slmkit.study
from slmkit import assets, console, footprint, jobs
from slmkit.errors import InputError, SlmkitError
from slmkit.jobs.nursery import Nursery, possible
from slmkit.runs import read_run, read_runs, write_run
from slmkit.study import folder
from slmkit.study import plan as planning

QUICK = {"models": "dummy", "measure_s": 0.2, "progress": lambda event: None}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty texts of two kinds; each holds a number, so that none is another's duplicate."""
    subjects = ["parcel", "account", "prize", "refund", "invoice"]
    wrong = [f"your {s} number {i} waits, pay the fee at the link now" for i in range(8) for s in subjects]
    right = [f"see you at {i} about the {s}, bring cake and tea" for i in range(8) for s in subjects]
    names = [f"{a}{b}" for a in "bcdfghjk" for b in "aeiou"]
    rows = [
        f'"{t} {n}",{label}'
        for label, texts in (("fraud", wrong), ("ham", right))
        for t, n in zip(texts, names, strict=True)
    ]
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[slmkit.study.StudyResult, list[str]]:
    """A finished study of the floor and embeddings, and the stages of its children."""
    stages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        run_child = jobs.run_child
        patch.setattr(jobs, "run_child", lambda job, **more: stages.append(job["stage"]) or run_child(job, **more))
        result = slmkit.study(table, **QUICK, methods="embedding", out=tmp_path_factory.mktemp("whole"))
    return result, stages


@pytest.fixture
def copied(whole: tuple[slmkit.study.StudyResult, list[str]], tmp_path: Path) -> Path:
    """A copy of the finished study's folder."""
    return Path(shutil.copytree(whole[0].out, tmp_path / "runs"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that looks like an encoder; nothing here loads it."""
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"], **sizes}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros((100, 64), dtype=np.float32)}, folder / "model.safetensors")
    return str(folder)


def test_every_combination_runs_in_order(whole):
    result, stages = whole
    assert [(run.method, run.bits) for run in result.runs] == [("floor", None), ("embedding", 16), ("embedding", 4)]
    assert stages == ["score"] * 3 and result.failed == [] and not result.stopped
    assert {(run.seed, run.n_train, run.n_test, run.task) for run in result.runs} == {(0, 64, 16, "messages")}
    floor, wide, narrow = result.runs
    assert floor.p_vs_floor is None and wide.p_vs_16bit is None
    assert 0 <= wide.p_vs_floor <= 1 and 0 <= narrow.p_vs_16bit <= 1
    assert narrow.stored_bytes < wide.stored_bytes and narrow.backend == "dummy"
    own = footprint.peak_ram_bytes() or 0  # of this process, which has run other tests
    assert 30_000_000 < result.peak_rss_bytes < max(own + 1, 2_000_000_000)
    assert list(result.frame["run_id"]) == [run.run_id for run in result.runs]
    assert {run.run_id for run in read_runs(result.out)} == {run.run_id for run in result.runs}


def test_engines_are_imported_once_and_are_none_of_the_floors_memory(table, tmp_path, monkeypatch):
    started: list[tuple[str, Any]] = []
    began: list[int] = []
    run_child = jobs.run_child

    def spy(job, nursery=None, **more):
        started.append((job["job"]["method"], nursery))
        return run_child(job, nursery=nursery, **more)

    monkeypatch.setattr(jobs, "run_child", spy)
    monkeypatch.setattr(Nursery, "_begin", lambda self, env, begin=Nursery._begin: began.append(1) or begin(self, env))
    result = slmkit.study(table, **QUICK, methods="embedding", out=tmp_path)
    assert result.failed == [] and [method for method, _ in started] == ["floor", "embedding", "embedding"]
    nurseries = [nursery for _, nursery in started]
    assert nurseries[0] is None and nurseries[1] is nurseries[2] is not None
    if possible():
        assert len(began) == 1 and nurseries[1]._process.poll() is not None, "it is gone with the study"


def test_finished_runs_are_skipped_and_other_parameters_are_other_runs(table, whole, copied, children):
    events: list[dict[str, Any]] = []
    again = slmkit.study(table, **{**QUICK, "progress": events.append}, methods="embedding", out=copied)
    assert not children and again.runs == whole[0].runs
    assert events[0]["lines"][1] == "3 of them are finished and are skipped"
    seeded = slmkit.study(table, **QUICK, methods="floor", seeds=(0, 7), out=copied)
    assert [job["job"]["seed"] for job in children] == [7] and seeded.runs[0] == whole[0].runs[0]
    assert seeded.runs[1].run_id != seeded.runs[0].run_id


def test_training_and_scoring_have_a_process_each(table, copied, children):
    events: list[dict[str, Any]] = []
    arguments = {**QUICK, "methods": "lora", "bits": 4, "epochs": 2, "out": copied, "progress": events.append}
    run = slmkit.study(table, **arguments).runs[1]
    assert [job["stage"] for job in children] == ["fit", "score"]
    assert run.params["epochs"] == 2 and run.fit_s > 0 and run.adapter_bytes > 0 and run.fit_peak_ram_bytes > 0
    steps = [event for event in events if event.get("steps")]
    assert steps and steps[-1]["loss"] > 0 and steps[-1]["tokens_per_s"] > 0 and steps[-1]["seconds_left"] >= 0
    told = [event["event"] for event in events if event["event"] != "progress"]
    assert told == ["plan", "skipped", "start", "finished", "end"]
    assert events[-1]["done"] == events[-1]["total"] == 2

    next(copied.glob(f"*{run.run_id}.json")).unlink()
    slmkit.study(table, **arguments)
    assert [job["stage"] for job in children[2:]] == ["score"], "the finished training is kept"


def test_killed_at_any_moment_it_goes_on_where_it_stopped(table, tmp_path, children):
    out = tmp_path / "runs"
    script = textwrap.dedent(f"""
        import json, slmkit
        show = lambda event: print(json.dumps([event["event"], event.get("label")], default=str), flush=True)
        facts = dict(models="dummy", methods="embedding", measure_s=0.2)
        slmkit.study({str(table)!r}, **facts, out={str(out)!r}, progress=show)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if json.loads(line) == ["start", "embedding · dummy · 4 bits · seed 0"]:
                process.send_signal(signal.SIGKILL)
                break
    (out / ".half.json.1.part").write_text("{")
    before = read_runs(out)
    assert [run.bits for run in sorted(before, key=lambda run: str(run.bits))] == [16, None]
    result = slmkit.study(table, **QUICK, methods="embedding", out=out)
    assert [job["job"]["bits"] for job in children] == [4], "only the unfinished one is run"
    assert len(result.runs) == 3 and all(run in result.runs for run in before)
    assert not list(out.glob("*.part")) and not list(out.glob(".*.part"))


def test_an_engine_is_looked_for_once_and_plain_files_are_not_prepared(
    table: Path, tiny_encoder: Any, tmp_path: Path, children: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slmkit.study, "_ENGINES", {})
    how = {**QUICK, "models": str(tiny_encoder.folder), "methods": "embedding", "backend": "bnb", "out": tmp_path}
    for seed in (0, 1):
        assert not slmkit.study(table, **how, bits=[16], seeds=[seed]).failed
    assert [job["stage"] for job in children] == ["probe", "score", "score", "score", "score"]  # floor and embedding
    assert not slmkit.study(table, **how, bits=[8], seeds=[1]).failed
    assert [job["stage"] for job in children[5:]] == ["prepare", "score"]


def test_a_broken_record_is_run_again(table, whole, copied, children):
    path = next(copied.glob("*floor*.json"))
    path.write_text(path.read_text()[:200])
    result = slmkit.study(table, **QUICK, methods="floor", out=copied)
    assert len(children) == 1 and read_run(path).accuracy == result.runs[0].accuracy == whole[0].runs[0].accuracy


def test_one_failing_combination_is_reported_and_the_rest_goes_on(table, copied):
    wrong = {"embedding": {"C": -1.0}}
    result = slmkit.study(table, **QUICK, methods="embedding,prompt", bits=16, params=wrong, out=copied)
    assert [run.method for run in result.runs] == ["floor", "prompt"]
    (failed,) = result.failed
    error = failed.pop("error")
    assert failed == {"model": "dummy", "method": "embedding", "bits": 16, "seed": 0}
    assert "InvalidParameterError" in error and "-1.0" in error


def test_a_twin_finished_later_still_gives_its_p(table, whole, copied, children):
    _, wide, narrow = whole[0].runs
    next(copied.glob(f"*{wide.run_id}.json")).unlink()
    write_run(replace(narrow, p_vs_16bit=None, origins={"accuracy": "measured"}), copied)
    result = slmkit.study(table, **QUICK, methods="embedding", out=copied)
    assert [job["job"]["bits"] for job in children] == [16]
    assert result.runs[2].p_vs_16bit == narrow.p_vs_16bit and result.runs[2].origins["p_vs_16bit"] == "measured"
    assert result.runs[2] in read_runs(copied)


def test_a_model_without_room_fails_before_it_is_loaded(table, copied, children, encoder, monkeypatch):
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "100MB")
    arguments = {**QUICK, "models": encoder, "methods": "embedding", "bits": 4, "backend": "dummy", "out": copied}
    result = slmkit.study(table, **arguments)
    assert [run.method for run in result.runs] == ["floor"] and not children
    assert "0.10 GB" in result.failed[0]["error"] and "needs about" in result.failed[0]["error"]


def test_a_model_that_cannot_be_fetched_fails_alone(table, copied, children, monkeypatch, capsys):
    arguments = {**QUICK, "models": "dummy,nobody/nothing", "methods": "embedding", "out": copied, "progress": None}
    result = slmkit.study(table, **arguments)
    assert len(result.runs) == 3 and not children, "the finished ones"
    assert [(f["model"], f["bits"]) for f in result.failed] == [("nobody/nothing", 16), ("nobody/nothing", 4)]
    assert "cannot fetch 'nobody/nothing'" in result.failed[0]["error"]
    said = capsys.readouterr().out
    assert "- embedding · nobody/nothing · 4 bits · seed 0: cannot be fetched, see below" in said
    assert said.count("cannot fetch 'nobody/nothing'") == 2 and "Estimates" not in said
    with pytest.raises(InputError, match="unknown model 'nothing'"):
        slmkit.study(table, **{**arguments, "models": "nobody/nothing,nothing"})


def test_only_the_dummy_itself_runs_on_the_dummy_backend(tiny_decoder):
    sources = [replace(tiny_decoder, name=name) for name in ("dummy", "dummy-like")]
    steps = list(planning._steps(["prompt"], sources, [16], [0], None, {"floor": {}, "prompt": {}}))
    assert [(step.model, step.backend) for step in steps[1:]] == [("dummy", "dummy"), ("dummy-like", None)]


def test_plan_and_progress_word_the_same_estimate_alike(table, copied):
    events: list[dict[str, Any]] = []
    arguments = {**QUICK, "progress": events.append, "methods": "prompt", "bits": 16, "out": copied}
    slmkit.study(table, **arguments)
    start = next(event for event in events if event["event"] == "start")
    cost = "about 5 s"
    assert events[0]["lines"][-1].startswith("Estimates: 5 s in all") and f": {cost}, 0.3 GB" in events[0]["lines"][2]
    assert console.about(start).endswith(f"{cost} left")


def test_a_file_s_warnings_are_told_once(table, tmp_path, caplog):
    odd = tmp_path / "odd.csv"
    odd.write_text(table.read_text() + '"a text without a label",\n')
    events: list[dict[str, Any]] = []
    slmkit.study(odd, **{**QUICK, "progress": events.append, "methods": "floor", "out": tmp_path / "runs"})
    said = [*events[0]["lines"], *caplog.messages]
    assert len([line for line in said if "label" in line]) == 1, said


def test_memory_is_checked_before_a_model_is_fetched(table, copied, children, monkeypatch):
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "600MB")
    monkeypatch.setattr(assets, "on_disk", lambda name: False)
    monkeypatch.setattr(assets, "resolve", lambda name: pytest.fail(f"{name} would be fetched"))
    events: list[dict[str, Any]] = []
    arguments = {**QUICK, "models": "gemma-2b-it", "methods": "prompt", "backend": "dummy", "progress": events.append}
    result = slmkit.study(table, **arguments, out=copied)
    assert [run.method for run in result.runs] == ["floor"] and not children
    assert "needs about" in result.failed[0]["error"]
    starts = [event["seconds_left"] for event in events if event["event"] == "start"]
    assert starts == [0.0, 0.0], "what is refused takes no time"


def test_a_run_measured_otherwise_is_another_run(table, whole, copied, children):
    slmkit.study(table, **{**QUICK, "measure_s": 0.3}, methods="floor", out=copied)
    assert [job["job"]["measure_s"] for job in children] == [0.3]


def test_a_full_disk_is_told_and_leaves_nothing(table, whole, tmp_path, copied, monkeypatch):
    def full(self: Any, path: Path, **more: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pandas.DataFrame.to_parquet", full)
    with pytest.raises(SlmkitError, match=r"splits/.*\.parquet: the disk is full\. Finished runs are kept"):
        slmkit.study(table, **QUICK, methods="floor", out=tmp_path / "new")
    assert list((tmp_path / "new" / "splits").iterdir()) == []
    write_run(replace(whole[0].runs[2], p_vs_16bit=None, origins={}), copied)
    monkeypatch.setattr("slmkit.study.write_run", lambda run, out: full(run, tmp_path / "x"))
    with pytest.raises(SlmkitError, match=r"4bit.*\.json: the disk is full"):
        slmkit.study(table, **QUICK, methods="embedding", out=copied)


def test_cancel_keeps_what_is_finished(table, copied):
    cancel = threading.Event()

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            cancel.set()

    result = slmkit.study(table, **{**QUICK, "progress": stop}, methods="prompt", out=copied, cancel=cancel)
    assert result.stopped and [run.method for run in result.runs] == ["floor"] and result.failed == []


def test_two_studies_do_not_write_to_one_folder(table, tmp_path):
    with folder.lock(tmp_path), pytest.raises(InputError, match=f"another study \\(process {os.getpid()}\\)"):
        slmkit.study(table, **QUICK, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"models": "miniln"}, "unknown model 'miniln'. Did you mean 'minilm'"),
    "method": ({"methods": "flor"}, "unknown method 'flor'. Did you mean 'floor'"),
    "bits": ({"bits": 5}, "bits must be one of 4, 8, 16; got 5"),
    "bits word": ({"bits": "four"}, "bits must be a whole number; got 'four'"),
    "seeds": ({"seeds": ()}, "at least one seed is needed; got ()"),
    "column": ({"text_column": "txt"}, "Did you mean 'text'"),
    "rows": ({"test": 5000}, "5,000"),
    "shots": ({"shots": -1}, "shots must be a whole number of at least 0; got -1"),
    "epochs": ({"epochs": 0}, "epochs must be above 0 and finite; got 0"),
    "endless": ({"epochs": float("inf")}, "epochs must be above 0 and finite; got inf"),
    "measuring": ({"measure_s": -1}, "measure_s must be above 0 and finite; got -1"),
    "task": ({"task": 3}, "task must be a task's name, a file or a frame; got 3"),
    "idle method": ({"params": {"lora": {"rnk": 3}}, "methods": "floor"}, "unknown argument of lora 'rnk'"),
    "backend": ({"backend": "bmb"}, "unknown backend 'bmb'. Did you mean 'bnb'"),
    "argument": (
        {"params": {"lora": {"rnk": 3}}, "methods": "lora"},
        "unknown argument of lora 'rnk'. Did you mean 'rank'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_anything_is_written(name, table, tmp_path, children):
    arguments, message = BAD[name]
    with pytest.raises(InputError) as error:
        slmkit.study(**{"task": table, **QUICK, "out": tmp_path / "runs", **arguments})
    assert message in str(error.value)
    assert not children and not (tmp_path / "runs").exists()


def test_all_problems_are_told_at_once(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError) as error:
        slmkit.study("fraud_mesages", models="miniln", bits=(16, 5), test=0, out=tmp_path / "taken" / "runs")
    for part in ("minilm", "got 5", "test must be", "is a file", "'fraud_messages'"):
        assert part in str(error.value)


def test_a_method_without_a_fitting_model_is_refused(table, tmp_path, encoder):
    with pytest.raises(InputError, match=r"method 'prompt' needs a decoder model.*\(encoder\)"):
        slmkit.study(table, models=encoder, methods="prompt", out=tmp_path)


def test_the_function_is_callable_as_the_module_too(table, tmp_path):
    run: Callable[..., Any] = slmkit.study
    assert run is sys.modules["slmkit.study"] and run.study.__name__ == "study"
    with pytest.raises(InputError, match="got 5"):
        run(table, bits=5, out=tmp_path)
