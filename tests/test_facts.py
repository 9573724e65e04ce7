"""Facts right: values in every usual way of writing, what is made up, intervals, and how a model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import slmkit
from slmkit import dialogues, plots
from slmkit.assets import ModelSource
from slmkit.backends.base import Generation
from slmkit.dialogues import Dialogue
from slmkit.errors import InputError
from slmkit.tasks import domain_dialogues
from slmkit.tuning import facts, values

FACTS = {"The card costs 9.60 euros.": "9.60 euros", "It comes within six days.": "six days"}
SHEET = pd.DataFrame({"fact": list(FACTS), "value": list(FACTS.values())})


def talk(*turns: str, group: str = "") -> Dialogue:
    return Dialogue(tuple({"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)), group)


def asking(n: int, groups: int) -> list[facts.Question]:
    rows = [talk(f"Question {i}?", "It costs 9.60 euros.", group=f"g{i % groups}") for i in range(n)]
    return facts.questions(rows, SHEET)


# values


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("It costs £4.50.", "4.50 pounds"),
        ("GBP 4.5 it is", "£4.50"),
        ("€1350 a month", "1,350 euros"),
        ("EUR 1,350.00", "1,350 euros"),
        ("from 1 600 euros to 38 000 euros", "1,600 to 38,000 euros"),
        ("3 euros and 20 cents", "3.20 euros"),
        ("ninety-six thousand euros", "96,000 euros"),
        ("13.65% a year", "13.65 percent"),
        ("0.65 per cent", "0.65 percent"),
        ("from 9:15 am until 4:45 p.m.", "09:15 to 16:45"),
        ("open 9.15am–4.45pm", "09:15 to 16:45"),
        ("between 09:15 and 16:45", "09:15 to 16:45"),
        ("before 2:20 PM", "14:20"),
        ("at 12.05 am", "00:05"),
        ("within 5 business days", "five working days"),
        ("two hundred and ten seconds", "210 seconds"),
        ("one hundred and five days", "105 days"),
        ("a twenty-six-month term", "26 months"),
        ("between nine months and seventy-eight months", "9 to 78 months"),
        ("ring 555 0142", "555-0142"),
        ("by March 31st", "31 March"),
        ("the 31st of March", "31 March"),
        ("at least v6.3", "version 6.3"),
        ("press PADLOCK.", "Padlock"),
        ("on Market\nSquare", "Market Square"),
        ("write to Complaints@larkmoor.example.", "complaints@larkmoor.example"),
        ("after 4 wrong entries", "four wrong"),
    ],
)
def test_a_value_is_found_in_every_usual_way_of_writing(said: str, value: str) -> None:
    assert values.states(said, value), (values.spell(said), values.spell(value))


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("15 euros", "5 euros"),
        ("3.20 euros", "20 euros"),
        ("0.22 euros", "22 euros"),
        ("51,350 euros", "1,350 euros"),
        ("2.750 euros", "2,750 euros"),
        ("4.50 euros", "4.50 pounds"),
        ("112 percent", "12 percent"),
        ("65 percent", "0.65 percent"),
        ("120 days", "20 days"),
        ("five days", "five working days"),
        ("one hundred days", "105 days"),
        ("twenty-four wrong entries", "four wrong"),
        ("2:20 am", "14:20"),
        ("14:20", "4:20"),
        ("we close at 16:45 and open at 09:15", "09:15 to 16:45"),
        ("1555-0142", "555-0142"),
        ("555-01421", "555-0142"),
        ("version 16.3", "version 6.3"),
        ("version 6.31", "version 6.3"),
        ("a padlocked door", "Padlock"),
        ("the market on the square", "Market Square"),
        ("complaints@larkmoor.example.com", "complaints@larkmoor.example"),
        ("31 May", "31 March"),
        ("anything", "  "),
        ("", "5 euros"),
    ],
)
def test_a_value_is_not_found_in_another_one(said: str, value: str) -> None:
    assert not values.states(said, value), (values.spell(said), values.spell(value))


def test_measures_are_made_up_where_neither_the_sheet_nor_the_question_has_them() -> None:
    said = "It costs €9.60 and takes eight working days, or 7 to 9 weeks. Call 555-0199 before 9 am, two of you."
    assert values.measures(said) == ["9.6 eur", "8 day", "7 week", "9 week", "phone5550199", "09:00"]
    before = "I waited 8 days, no, 9 weeks, and called at 09:00"
    assert values.invented(said, [*SHEET["fact"], before]) == ["7 week", "phone5550199"]


# the shipped dialogues, where the truth is known


def test_references_state_the_facts_they_list_and_make_up_nothing() -> None:
    rows, sheet = domain_dialogues.dialogues(), domain_dialogues.facts()
    found = dialogues.split(dialogues.SHIPPED, seed=0)
    held_out = facts.questions(found.test["dialogue"], sheet)
    ids = dict(zip(sheet["value"], sheet["fact_id"], strict=True))
    for place, row in zip(found.test.index, found.test["dialogue"], strict=True):
        if listed := set(rows[place]["facts"]):
            assert {ids[value] for q in facts.questions([row], sheet) for value in q.values} == listed
    told = facts.score([q.reference for q in held_out], held_out, sheet)
    assert (told.recall, told.all_right) == (1, 1) and told.low < 0.97 and told.high == 1
    assert told.n_facts == 81 and told.n_answers == len(held_out) > told.n_questions
    every = facts.questions(list(found.test["dialogue"]) + list(found.train["dialogue"]), sheet)
    wrong = [q.reference for q in every if values.invented(q.reference, [*sheet["fact"], q.said])]
    assert [text[:14] for text in wrong] == ["Not in one day"]  # the one false alarm in 367 answers


def test_the_split_is_that_of_tuning_and_every_fact_asked_for_was_taught() -> None:
    found = dialogues.split(dialogues.SHIPPED, seed=1)
    assert not set(found.train["group"]) & set(found.test["group"])
    sheet = domain_dialogues.facts()
    taught, asked = (
        {v for q in facts.questions(part["dialogue"], sheet) for v in q.values} for part in (found.train, found.test)
    )
    assert asked <= taught
    with pytest.raises(InputError, match="train must be at least 1; got 0"):
        dialogues.split(dialogues.SHIPPED, seed=0, train=0)


# scores


def test_what_was_given_away_before_is_not_asked_for() -> None:
    rows = [talk("What is it?", "Six days.", "And is it 9.60 euros?", "Yes, 9.60 euros."), talk("Sun?", "Ask others.")]
    first, second, none = facts.questions(rows, SHEET)
    assert (first.values, second.values, none.values) == (("six days",), (), ())
    told = facts.score(["In 6 days.", "Yes.", "It costs 3 euros."], [first, second, none], SHEET)
    assert (told.recall, told.n_facts, told.n_questions, told.n_answers) == (1, 1, 1, 3)
    assert told.invented == pytest.approx(1 / 3)


def test_recall_counts_facts_and_its_interval_is_over_groups() -> None:
    asked = asking(40, 40)
    texts = ["9.60 euros" if i % 4 else "no" for i in range(40)]
    told = facts.score(texts, asked, SHEET)
    assert told.recall == 0.75 and told.high - told.low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), abs=0.03)
    together = facts.score(sorted(texts), in_groups(asked, 4), SHEET)
    assert together.recall == 0.75 and together.high - together.low > 1.8 * (told.high - told.low)
    nothing = facts.score(["no"] * 40, asked, SHEET)
    assert (nothing.recall, nothing.low) == (0, 0) and 0.05 < nothing.high < 0.12


def in_groups(asked: list[facts.Question], n: int) -> list[facts.Question]:
    """The questions in `n` groups of neighbours."""
    return [facts.Question(q.turns, q.reference, q.values, f"g{i * n // len(asked)}") for i, q in enumerate(asked)]


def test_two_assistants_are_compared_on_the_same_questions() -> None:
    asked = asking(30, 30)
    good, bad = ["9.60 euros"] * 24 + ["no"] * 6, ["no"] * 12 + ["9.60 euros"] * 18
    told = facts.compare(good, bad, asked)
    assert told["difference"] == pytest.approx(0.2) and told["low"] < 0.2 < told["high"]
    assert told["p"] == pytest.approx(0.238, abs=0.03)  # McNemar's exact test on 12 against 6
    same = facts.compare(good, good, asked)
    assert same == {"difference": 0, "low": 0, "high": 0, "p": 1}
    two = facts.compare(good, ["no"] * 30, in_groups(asked, 2))
    assert two["p"] > 0.45  # two groups can tell nothing


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: facts.questions([talk("a", "b")], SHEET.rename(columns={"value": "v"})), "needs the columns fact and"),
        (
            lambda: facts.questions([talk("a", "b")], SHEET.assign(value="7 euros")),
            "row 1: the value '7 euros' does not",
        ),
        (lambda: facts.questions([talk("a", "b")], SHEET), "no answer states a value of the fact sheet"),
        (lambda: facts.score(["x"], asking(2, 2), SHEET), "one answer a question is needed; got 1 and 2"),
        (lambda: facts.nearest(None, ["a", "b"], 3), "k must be between 1 and the 2 facts; got 3"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# asking a model


def test_a_model_is_asked_in_the_form_it_was_tuned_in_with_notes_in_front(tiny_chat_decoder: ModelSource) -> None:
    rows = [talk("Hello", "Yes", "What does it cost?", "It costs 9.60 euros.")]
    with slmkit.load(str(tiny_chat_decoder.folder), backend="bnb") as model:
        asked = facts.questions(rows, SHEET)
        plain = facts.ask(model, asked, max_new_tokens=3)
        noted = facts.ask(model, asked, notes=lambda q: ["The card costs 9.60 euros."], max_new_tokens=3)
        prompt = model.dialogue_prompt(facts.with_notes(asked[1].turns, ["The card costs 9.60 euros."]))
        told, texts = slmkit.evaluate_answers(model, rows, SHEET, max_new_tokens=3)
        assert [t.text for t in texts] == [t.text for t in plain]
        assert plain[1].text == model.generate([model.dialogue_prompt(asked[1].turns)], 3)[0].text
        assert (
            noted[1].text == model.generate([prompt], 3)[0].text and noted[1].n_prompt_tokens > plain[1].n_prompt_tokens
        )
    assert "- The card costs 9.60 euros." in prompt and prompt.index("Yes") < prompt.index("- The card")
    assert prompt.rstrip().endswith("<|assistant|>") and (told.n_facts, told.n_answers) == (1, 2)


def test_answers_are_read_back_for_the_same_questions_only(tmp_path: Path) -> None:
    asked, calls = asking(2, 2), []

    def answer() -> list[Generation]:
        calls.append(len(calls))
        return [Generation(f"answer {len(calls)}", 5, 3, "stop", 0.5) for _ in range(2)]

    first = facts.kept(tmp_path / "new" / "untuned.json", asked, answer)
    again = facts.kept(tmp_path / "new" / "untuned.json", asked, answer)
    assert first == again == [Generation("answer 1", 5, 3, "stop", 0.5)] * 2 and len(calls) == 1
    others = asking(3, 2)[1:]
    assert facts.kept(tmp_path / "new" / "untuned.json", others, answer)[0].text == "answer 2"
    assert facts.kept(tmp_path / "new" / "untuned.json", others, answer, by="another")[0].text == "answer 3"


def test_the_nearest_facts_are_those_an_encoder_finds_nearest(tiny_encoder: ModelSource) -> None:
    known = ["The card costs money.", "We are open on Sunday.", "lunch tomorrow"]
    with slmkit.load(str(tiny_encoder.folder), backend="bnb") as encoder:
        found = [
            facts.nearest(encoder, known, 2)(facts.Question(({"role": "user", "content": k},), "", ())) for k in known
        ]
    assert [pair[0] for pair in found] == known and all(len(set(pair)) == 2 for pair in found)


# the picture


def test_the_picture_shows_every_way_over_time_and_memory() -> None:
    frame = pd.DataFrame(
        {
            **{"way": ["untuned", "<b>tuned</b>"], "recall": [0.02, 0.4], "low": [0.0, 0.3], "high": [0.1, 0.55]},
            **{"n_facts": [81, 81], "latency_p50_s": [1.5, 2.0], "peak_ram_bytes": [8e8, 1.2e9]},
        }
    )
    figure = plots.facts_vs_cost(frame)
    assert [t.x[0] for t in figure.data] == [1.5, 0.8, 2.0, 1.2] and [t.y[0] for t in figure.data] == [2, 2, 40, 40]
    bar = figure.data[2].error_y
    assert (bar.array[0], bar.arrayminus[0]) == (pytest.approx(15), pytest.approx(10))
    assert figure.data[2].name == "&lt;b&gt;tuned&lt;/b&gt;" and "n = 81 facts" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="lacks"):
        plots.facts_vs_cost(frame.drop(columns="low"))
