"""For tests of exercises: facts as a notebook passes them, answers that are right, typical wrong ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One exercise.

    Attributes
    ----------
    facts : callable
        Makes what the notebook passes beside the answer.
    right : list
        Answers that are right for these facts, rounded ones and other types among them.
    wrong : list of (answer, str)
        Typical wrong answers, each with words of the hint that it must get.
    """

    facts: Callable[[], dict[str, Any]]
    right: list[Any]
    wrong: list[tuple[Any, str]]


def all_cases() -> dict[str, Case]:
    """Cases by exercise, from the files exercises_*.py beside this one."""
    modules = [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("exercises_*.py"))]
    return {name: case for module in modules for name, case in module.CASES.items()}
