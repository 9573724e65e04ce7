"""`check`, `solution` and `progress`: what a student calls. Each returns what a cell shows, and raises nothing."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slmkit import text
from slmkit.errors import unknown
from slmkit.workshop import record
from slmkit.workshop.exercise import Exercise, Hint, exercises

SOLUTIONS = "solutions.json"


@dataclass(frozen=True)
class Said:
    """What a cell shows as its value; `passed` says whether the answer was right, None where nothing was asked."""

    text: str
    passed: bool | None = None

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return bool(self.passed)


def check(name: str, answer: object = ..., **facts: object) -> Said:
    """Say whether an answer is right; if not, what is wrong with it, and a second hint from the second try on.

    Parameters
    ----------
    name : str
        The exercise: "30.2".
    answer : object
        The student's; `...` is the empty place that a notebook comes with.
    **facts : object
        What this machine measured and the answer is judged by, as the notebook passes it.

    Returns
    -------
    Said
        Shown by the cell that ends in it; `passed` for a program.
    """
    return _shielded(name, lambda exercise: _check(exercise, answer, facts))


def solution(name: str) -> Said:
    """The code that does it, one way of several; that it was looked at is noted in the progress."""
    return _shielded(name, _solution)


def progress() -> Said:
    """Every exercise, with what was done of it in this folder."""
    done = record.read()
    lines = [f"{name:<6} {_state(done.get(name, {})):<28} {one.question}" for name, one in exercises().items()]
    n_passed = sum(bool(done.get(name, {}).get("passed")) for name in exercises())
    return Said("\n".join([*lines, f"{n_passed} of {len(lines)} done"]))


def _shielded(name: object, say: Callable[[Exercise], Said]) -> Said:
    named = text.clean(name) if isinstance(name, str) else repr(name) if isinstance(name, float) else ""
    if named not in exercises():
        return Said(str(unknown("exercise", named, exercises())), False)
    try:
        return say(exercises()[named])
    except Exception as error:  # whatever an answer makes a judge do, a class sees a sentence
        return Said(f"{named}: could not be checked ({_why(error)}). Are the cells above run?", False)


def _why(error: Exception) -> str:
    try:
        return text.clean(f"{type(error).__name__}: {error}", 300)
    except Exception:  # an error that cannot even be written out
        return type(error).__name__


def _check(exercise: Exercise, answer: object, facts: dict[str, object]) -> Said:
    missing = [fact for fact in exercise.facts if facts.get(fact, ...) is ...]
    if answer is ...:
        return Said(f"{exercise.name}: not yet. Write your answer in place of the dots: {exercise.question}", False)
    if missing:
        return Said(f"{exercise.name}: not yet. The check needs {', '.join(missing)}: run the cells above first", False)
    try:
        said = exercise.judge(answer, **{fact: facts[fact] for fact in exercise.facts})
    except Hint as hint:
        return _wrong(exercise, text.clean(str(hint), 600))
    _, problem = record.note(exercise.name, tries=1, passed=True)
    return Said("\n".join(filter(None, [f"{exercise.name}: right. {said}", _unkept(problem)])), True)


def _wrong(exercise: Exercise, hint: str) -> Said:
    entry, problem = record.note(exercise.name, tries=1)
    lines = [f"{exercise.name}: not right. Hint: {hint}"]
    if entry["tries"] >= 2:
        lines += [f"Second hint: {exercise.more}", f'One way to do it: workshop.solution("{exercise.name}")']
    return Said("\n".join(filter(None, [*lines, _unkept(problem)])), False)


def _unkept(problem: str | None) -> str:
    return f"(Your progress is not kept: {problem})" if problem else ""


def _solution(exercise: Exercise) -> Said:
    code = solutions().get(exercise.name)
    if code is None:
        return Said(f"{exercise.name}: no solution is written down", False)
    record.note(exercise.name, solution_shown=True)
    return Said(code)


def solutions() -> dict[str, str]:
    """The code of every solution, as tools/build_notebooks took it from the notebooks' sources."""
    file = importlib.resources.files("slmkit.workshop") / SOLUTIONS
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _state(entry: dict[str, Any]) -> str:
    tries = entry.get("tries", 0)
    seen = ", solution seen" if entry.get("solution_shown") else ""
    said = f"{tries} {'try' if tries == 1 else 'tries'}"
    return (f"done, {said}" if entry.get("passed") else said if tries else "open") + seen
