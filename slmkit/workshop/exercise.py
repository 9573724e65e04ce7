"""What an exercise is; they are found in the files of `slmkit/workshop/exercises`, which end in `EXERCISES = (...)`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

FOLDER = "slmkit.workshop.exercises"


class Hint(Exception):
    """What is wrong with an answer, in a sentence that helps to find the right one."""


@dataclass(frozen=True)
class Exercise:
    """One question of a notebook.

    Attributes
    ----------
    name : str
        "30.2": the notebook's number and the exercise's.
    question : str
        What is asked, in a few words, as `progress()` lists it.
    judge : callable
        `judge(answer, **facts)`: returns what to say of a right answer, raises `Hint` for another. Parameters after the
        first are the facts that `check` has to be given.
    more : str
        The second hint, shown from the second wrong answer on.
    """

    name: str
    question: str
    judge: Callable[..., str]
    more: str

    @property
    def facts(self) -> tuple[str, ...]:
        """Names of what the judge needs beside the answer."""
        return tuple(inspect.signature(self.judge).parameters)[1:]


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises by name, sorted."""
    folder = importlib.import_module(FOLDER)
    modules = [importlib.import_module(f"{FOLDER}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    listed = [one for module in modules for one in module.EXERCISES]
    return {one.name: one for one in sorted(listed, key=lambda one: order(one.name))}


def order(name: str) -> tuple[int, ...]:
    """What names are sorted by: 30.10 comes after 30.9."""
    return tuple(int(part) for part in name.split("."))
