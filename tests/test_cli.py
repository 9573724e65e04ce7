"""The command line: exit codes, what goes to stdout and what to stderr, and a quick start without torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit import catalog, footprint
from slmkit.commands import models as model_commands
from slmkit.runs import read_runs
from slmkit.study import StudyResult

SLMKIT = [sys.executable, "-m", "slmkit"]
HEAVY = ("torch", "mlx", "transformers", "pandas", "sklearn", "numpy", "plotly")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty texts; the words decide the label."""
    names = [f"{a}{b}" for a in "bcdfgh" for b in "aeiou"]
    rows = [f"pay the fee for {n} now,fraud" for n in names] + [f"lunch with {n} at noon,ham" for n in names]
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    path.write_text("body,kind\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A study with one combination that fails, called as people call it."""
    out = tmp_path_factory.mktemp("cli") / "runs"
    columns = ["--text-column", "body", "--label-column", "kind", "--models", "dummy", "--bits", "4"]
    arguments = [
        "study",
        str(table),
        *columns,
        "--methods",
        "prompt,floor",
        "--out",
        str(out),
        "--json",
        "--test",
        "20",
    ]
    return subprocess.run([*SLMKIT, *arguments], capture_output=True, text=True, check=False), out


def test_help_imports_nothing_heavy():
    code = "import sys, runpy; sys.argv = ['slmkit', '--help']\ntry: runpy.run_module('slmkit', run_name='__main__')\n"
    code += f"except SystemExit: pass\nprint([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([*SLMKIT, "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("study", "report", "classify", "models", "data", "doctor", "demo"))
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_json_is_one_document_on_stdout_and_progress_goes_to_stderr(finished):
    done, out = finished
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"runs", "failed"} and document["failed"] == []
    assert [(r["method"], r["bits"], r["n_test"]) for r in document["runs"]] == [("floor", None, 20), ("prompt", 4, 20)]
    assert {r["run_id"] for r in document["runs"]} == {r.run_id for r in read_runs(out)}
    for part in (
        "2 runs on 40 train and 20 test rows",
        "Estimates:",
        "[1/2] floor",
        "[2/2] prompt",
        "2 runs, 0 failed",
    ):
        assert part in done.stderr


def test_the_table_says_n_the_machine_and_what_it_means(finished, table):
    columns = ("--text-column", "body", "--label-column", "kind", "--test", 20)
    shown = run("study", table, *columns, "--models", "dummy", "--bits", 4, "--methods", "prompt", "--out", finished[1])
    assert shown.exit_code == 0
    for part in (
        "n = 20 test rows, 40 train rows",
        "TF-IDF",
        "Measured on: ",
        "p vs floor",
        "J/1000 rows",
        "the floor",
    ):
        assert part in shown.stdout
    assert "of them are finished and are skipped" in shown.stderr


def test_failures_are_in_the_document(table, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "100MB")
    (tmp_path / "m").mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "num_attention_heads": 2}
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    columns = ("--text-column", "body", "--label-column", "kind", "--backend", "dummy", "--quiet", "--json")
    done = run(
        "study", table, *columns, "--models", tmp_path / "m", "--methods", "embedding", "--out", tmp_path / "out"
    )
    document = json.loads(done.stdout)
    assert [r["method"] for r in document["runs"]] == ["floor"] and len(document["failed"]) == 2
    assert set(document["failed"][0]) == {"model", "method", "bits", "seed", "error"}
    assert done.exit_code == 2 and "needs about" in document["failed"][0]["error"], "nothing but the floor came out"


def test_part_of_a_study_is_a_success_and_a_failed_floor_has_no_bits(monkeypatch, finished, capsys):
    (floor, prompt), out = read_runs(finished[1]), finished[1]
    lost = {"model": None, "method": "floor", "bits": None, "seed": 0, "error": "what went wrong"}

    def exit_code(runs: list[Any], failed: list[Any]) -> Any:
        found = StudyResult(runs, failed, 1.0, 1, out)
        monkeypatch.setattr(cli, "_study", lambda *a, **k: found)
        return run("study", "fraud_messages")

    best = max((floor, prompt), key=lambda r: r.accuracy)
    part = exit_code([prompt], [lost])
    assert part.exit_code == 0 and "failed: floor · seed 0: what went wrong" in part.stderr
    assert exit_code([floor], []).exit_code == 0 and exit_code([], [lost]).exit_code == 2
    whole = exit_code([floor, prompt], [])
    assert f"slmkit classify {out}/models/{best.run_id} FILE -o OUT" in whole.stdout
    assert (out / "models" / best.run_id).is_dir()


def test_a_wrong_memory_limit_exits_with_2_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "lots")
    done = run("study", "fraud_messages", "--methods", "floor", "--out", tmp_path / "runs")
    assert done.exit_code == 2 and "'lots'" in done.stderr and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "fraud_mesages"], "'fraud_messages'"),
        (["study", "fraud_messages", "--models", "miniln"], "Did you mean 'minilm'"),
        (["study", "fraud_messages", "--bits", "5"], "bits must be one of 4, 8, 16; got 5"),
        (["study", "fraud_messages", "--test", "99999", "--methods", "floor"], "99,999"),
        (["study", "nowhere/file.csv"], "nowhere/file.csv"),
        (["study", "fraud_messages", "--epoch", "3"], "--epochs"),
        (["stduy"], "study"),
        (["report", "nowhere"], "nowhere"),
        (["classify", "nowhere", "in.csv", "-o", "out.csv"], "in.csv"),
        (["models", "--install", "minilmm"], "Did you mean 'minilm'"),
        (["models", "gemma-2bit"], "Did you mean 'gemma-2b-it'"),
    ],
)
def test_bad_input_exits_with_2_and_a_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == "" and not list(tmp_path.iterdir())


def test_ctrl_c_keeps_finished_runs_and_exits_with_130(table, tmp_path):
    out = tmp_path / "runs"
    columns = ["--text-column", "body", "--label-column", "kind", "--models", "dummy", "--methods", "embedding"]
    command = [*SLMKIT, "study", str(table), *columns, "--out", str(out)]
    # A shell's background jobs ignore Ctrl-C, and all that they start do.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        for line in process.stderr:
            if line.startswith("[2/3]") and "start" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in rest
    assert f"finished runs are kept in {out}" in rest
    assert [r.method for r in read_runs(out)] == ["floor"]


def test_an_unexpected_error_is_one_line_and_a_log(monkeypatch, tmp_path):
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(model_commands, "rows", lambda entries: 1 // 0)
    done = run("models")
    assert (
        done.exit_code == 1 and done.stderr.startswith("slmkit: ZeroDivisionError") and "Traceback" not in done.stderr
    )
    assert "Traceback" in (tmp_path / "last-error.log").read_text()
    assert "Traceback" in run("--debug", "models").stderr


def test_models_that_fit_are_sorted_and_marked(monkeypatch):
    monkeypatch.setattr(footprint, "memory_limit", lambda: (8_000_000_000, "MEM_LIMIT"))
    monkeypatch.setattr(footprint, "instruction_sets", lambda: ("avx2", "avx512_bf16"))
    rows = json.loads(run("models", "--fits", "--json").stdout)["models"]
    assert sorted(row["name"] for row in rows) == sorted(catalog.MODELS)
    marks = ["tune" if row["tunes_bits"] else "serve" if row["fits_bits"] else "no" for row in rows]
    assert marks == sorted(marks, key=["tune", "serve", "no"].index) and set(marks) == {"tune", "serve"}
    found = {row["name"]: row for row in rows}
    assert (found["mistral-7b-v0.1"]["fits"], found["mistral-7b-v0.1"]["tunes"]) == ("4 only", "no")
    assert found["smollm2-135m-instruct"]["tunes"] == "16, 8, 4" and found["minilm"]["tunes"] is None
    for row in rows:
        assert set(row["tunes_bits"] or []) <= set(row["fits_bits"]), row["name"]
    shown = run("models", "--fits").stdout
    assert "What fits in 8.0 GB (MEM_LIMIT)" in shown and "4 only" in shown
    monkeypatch.setattr(footprint, "memory_limit", lambda: (1, "nobody"))
    assert {row["fits"] for row in json.loads(run("models", "--json").stdout)["models"]} == {"no"}


def test_models_are_readable_at_100_columns():
    for arguments in (["models"], ["models", "--fits"]):
        lines = run(*arguments).stdout.splitlines()
        names = [line for line in lines if "phi-3-mini-128k-instruct" in line]
        assert len(names) == 1 and max(len(line.rstrip()) for line in lines) <= 100, max(lines, key=len)
        assert len([line for line in lines if any(f" {name} " in line for name in catalog.MODELS)]) == len(
            catalog.MODELS
        )


def test_one_model_has_a_card_with_all_its_facts():
    shown = run("models", "llama-3.2-1b-instruct").stdout
    for fact in ("1,235,814,400", "131,072 tokens", "llama-3", "<|eot_id|>", "LlamaForCausalLM", "gate_proj", "gated"):
        assert fact in shown, fact
    assert catalog.get("llama-3.2-1b-instruct").revision in shown and "mlc-ai/mlc-llm" in shown
    assert "a linear head instead" in run("models", "minilm").stdout
    (row,) = json.loads(run("models", "gemma-2b", "--json").stdout)["models"]
    assert row["special_tokens"]["bos"] == "<bos>" and row["template"] == "none" and row["kv_heads"] == 1


def test_models_and_data_are_listed():
    rows = {row["name"]: row for row in json.loads(run("models", "--json").stdout)["models"]}
    assert rows["smollm2-135m-instruct"]["mb_16bit"] == 269 and rows["smollm2-135m-instruct"]["mb_4bit"] < 80
    assert rows["minilm"]["licence"] == "Apache-2.0" and rows["gemma-2b-it"]["on_disk"] in ("yes", "no")
    assert "smollm2-135m-instruct" in run("models").stdout
    assert "fraud_messages" in run("data").stdout and run("--version").stdout.startswith("slmkit 0.")


def test_a_saved_model_classifies_a_file(finished, tmp_path):
    model = next(path for path in (finished[1] / "models").iterdir() if path.is_dir())
    source = tmp_path / "new.csv"
    source.write_text("text\npay the fee for zu now\nlunch with zu at noon\n")
    done = run("classify", model, source, "-o", tmp_path / "out.csv")
    assert done.exit_code == 0 and json.loads(done.stdout)["rows"] == 2
    assert (tmp_path / "out.csv").read_text().splitlines()[0].startswith("text,predicted,p_fraud,p_ham")


def test_a_report_is_written(finished, tmp_path):
    done = run("report", finished[1], "-o", tmp_path / "page.html")
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


@pytest.mark.real
@pytest.mark.slow
def test_the_demo_ends_in_memory_with_one_json_line(tmp_path, width):
    """The demo's nine runs on a quarter of its rows: what takes its memory is the models, and batches of eight rows."""
    fewer = "cli.DEMO |= {'train': 60, 'test': 48, 'epochs': 1, 'measure_s': 0.2}"
    code = f"import sys; from slmkit import __main__ as cli; sys.argv[1:] = ['demo']; {fewer}; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert set(facts) == {"runs", "seconds", "peak_rss_mb", "report"} and facts["runs"] == 9
    assert 900 < facts["peak_rss_mb"] < {2: 1600, 4: 2000}[width], facts
    assert (tmp_path / facts["report"]).is_file()
