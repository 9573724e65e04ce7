"""The first cell on Colab and Kaggle: it installs the right extras there, and does nothing anywhere else."""

from __future__ import annotations

import importlib.util
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
CELLS = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4).cells
(CELL,) = [cell.source for cell in CELLS if "COLAB_RELEASE_TAG" in cell.source]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the cell would run; nothing is installed. No variable says that this is Colab or Kaggle."""
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    return ran


def without_slmkit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == "slmkit" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def run() -> None:
    exec(compile(CELL, "cell", "exec"), {})


def test_anywhere_else_it_does_nothing(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    without_slmkit(monkeypatch)
    run()
    assert commands == []


@pytest.mark.parametrize("variable", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
@pytest.mark.parametrize("place", ["notebooks", "."])
def test_there_it_installs_the_engine_the_widgets_and_the_models(
    variable: str, place: str, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    monkeypatch.chdir(ROOT / place)
    run()
    assert commands == [], "slmkit is there"
    without_slmkit(monkeypatch)
    run()
    packages, models = [command[5:] for command in commands]
    root, _, extras = packages[0].partition("[")
    assert Path(root).resolve() == ROOT and extras == "bnb]" and packages[1:] == ["anywidget", "ipywidgets"]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert "bnb" in known
    assert models[:2] == ["--no-deps", "-r"] and Path(models[2]).resolve() == ROOT / "models.txt"


def test_a_clone_below_the_working_folder_is_found_and_none_is_said(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    monkeypatch.chdir(tmp_path)
    without_slmkit(monkeypatch)
    with pytest.raises(AssertionError, match="slmkit's repository is not here: clone it"):
        run()
    (tmp_path / "clone" / "slmkit").mkdir(parents=True)
    (tmp_path / "clone" / "models.txt").touch()
    run()
    assert commands[0][5] == "clone[bnb]"
