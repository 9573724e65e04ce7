"""Every exercise of the notebooks has a judge that knows right answers, names mistakes and survives the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exercise_cases import Case, all_cases

from slmkit import workshop
from slmkit.workshop.exercise import exercises

build_notebooks = pytest.importorskip("tools.build_notebooks")
SOURCES = build_notebooks.sources()
IN_SOURCES = {name: source for source in SOURCES for name in build_notebooks.solutions(source)}
CASES = all_cases()


class Hostile:
    """Refuses whatever is done with it."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Raises:
    """A number, until it is looked at."""

    size = 1

    def item(self) -> float:
        raise Unsayable


NONSENSE = {
    "None": None,
    "text": "<img src=x onerror=alert(1)>\x1b[31m",
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a table": pd.DataFrame({"a": [1, 2]}),
    "an empty table": pd.DataFrame(),
    "an array": np.zeros((2, 3)),
    "a list": [0.1, 0.2],
    "a truth": True,
    "a complex number": 1j,
    "a huge number": 10**400,
    "a function": len,
    "hostile": Hostile(),
    "raises": Raises(),
}


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMKIT_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


def test_every_exercise_of_a_source_has_a_judge_and_cases_and_the_other_way_round() -> None:
    assert list(exercises()) == sorted(IN_SOURCES, key=lambda name: [int(part) for part in name.split(".")])
    assert set(CASES) == set(IN_SOURCES)


@pytest.mark.parametrize("name", IN_SOURCES)
def test_the_file_of_an_exercise_is_named_as_its_notebook_and_the_notebook_asks_it(name: str) -> None:
    source = IN_SOURCES[name]
    module = exercises()[name].judge.__module__.rpartition(".")[2]
    assert source.stem == f"{name[:2]}_{module}"
    assert f"**Exercise {name}.**" in source.read_text(encoding="utf-8")
    assert f'workshop.check("{name}", answer_{name.replace(".", "_")}' in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_right_answers_pass_and_an_untouched_one_is_not_yet(name: str) -> None:
    case: Case = CASES[name]
    facts = case.facts()
    assert set(facts) == set(exercises()[name].facts)
    said = workshop.check(name, ..., **facts)
    assert not said and repr(said).startswith(f"{name}: not yet. ") and exercises()[name].question in repr(said)
    for answer in case.right:
        said = workshop.check(name, answer, **facts)
        assert said and repr(said).startswith(f"{name}: right. "), (answer, said)


@pytest.mark.parametrize("name", CASES)
def test_typical_mistakes_get_a_hint_of_their_own(name: str) -> None:
    facts, hints = CASES[name].facts(), set()
    for answer, words in CASES[name].wrong:
        said = workshop.check(name, answer, **facts)
        first, *more = repr(said).splitlines()
        assert not said and first.startswith(f"{name}: not right. Hint: ") and words in first, (answer, said)
        hints.add(first)
    assert len(hints) >= 3
    assert more == [
        f"Second hint: {exercises()[name].more}",
        f'One way to do it: workshop.solution("{name}")',
    ]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_gets_a_sentence_and_no_traceback(name: str, kind: str) -> None:
    said = workshop.check(name, NONSENSE[kind], **CASES[name].facts())
    assert not said and repr(said).startswith(f"{name}: ")
    assert "Traceback" not in repr(said) and "\x1b" not in repr(said)


@pytest.mark.parametrize("name", CASES)
def test_facts_of_another_kind_are_said_not_raised(name: str) -> None:
    facts = dict.fromkeys(exercises()[name].facts, Hostile())
    assert "Are the cells above run?" in repr(workshop.check(name, 0.5, **facts))
    assert "run the cells above" in repr(workshop.check(name, 0.5))


@pytest.mark.parametrize("name", CASES)
def test_the_solution_shown_is_the_one_of_the_source(name: str) -> None:
    shown = repr(workshop.solution(name))
    assert shown == build_notebooks.solutions(IN_SOURCES[name])[name]
    assert f"answer_{name.replace('.', '_')} = " in shown and "SOLUTION" not in shown
