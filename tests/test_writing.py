"""Short writing jobs are judged as their card says, answers survive a stop, and the shipped texts are clean."""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import slmkit_data

from slmkit import data, overlap, plots, writing
from slmkit.assets import ModelSource
from slmkit.errors import AssetError, InputError
from slmkit.tuning import facts, values

JOBS = list(writing.JOBS)


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [  # of sacrebleu 2.5.1, sentence_chrf
        ("The train to Hamburg is 40 minutes late.", "The train to Hamburg is forty minutes late today.", 67.8906115),
        ("Der Zug nach Hamburg", "The train to Hamburg", 34.9560978),
        ("a", "a", 100), ("ab", "abc", 63.6363636), ("", "abc", 0), ("dog", "fish", 0),
        ("The cat", "the cat", 59.1666667),
    ],
)  # fmt: skip
def test_chrf_is_that_of_sacrebleu(text: str, reference: str, score: float) -> None:
    assert 100 * overlap.chrf(text, reference) == pytest.approx(score, abs=1e-6)


def test_means_have_intervals_that_hold_and_pairs_are_compared_on_the_same_texts() -> None:
    rng = np.random.default_rng(0)
    held = [low <= 0.5 <= high for _, low, high in (overlap.mean(rng.uniform(size=40), seed) for seed in range(100))]
    assert 0.88 <= np.mean(held) <= 0.99
    a = rng.uniform(size=40)
    better = overlap.compare(a + 0.1 + 0.01 * rng.normal(size=40), a)
    assert better["p"] < 0.001 and better["low"] < 0.1 < better["high"] and better["high"] - better["low"] < 0.02
    assert overlap.compare(a, a)["p"] == 1
    with pytest.raises(InputError, match="on the same texts; got 2 and 3 scores"):
        overlap.compare([0, 1], [0, 1, 1])
    with pytest.raises(InputError, match="a flat series of numbers"):
        overlap.mean([])


@pytest.mark.parametrize("job", JOBS)
def test_a_reference_is_right_and_the_floor_is_not(job: str) -> None:
    asked = writing.rows(job)
    assert len(asked) >= 12
    found = writing.table(job, {"the reference": list(asked["reference"])}, asked)
    floor, reference = found.to_dict("records")
    assert reference["score"] == 1 and reference["n"] == len(asked) and reference["p"] < 0.01
    assert floor["writer"] == f"floor: {writing.JOBS[job].floor_rule}" and floor["score"] < 0.5
    assert floor["low"] < floor["score"] < floor["high"]
    first, second = writing.sentences(found)
    assert "against the floor" not in first and "; against the floor +" in second and ", p < 0.0" in second


def test_a_whole_text_is_no_better_a_summary_than_its_beginning_and_a_number_counts_in_words_too() -> None:
    asked = writing.rows("summary", 3)
    whole = writing.scores("summary", list(asked["text"]), asked)
    assert (whole == writing.scores("summary", writing.floor("summary", list(asked["text"])), asked)).all()
    tutor = writing.rows("tutor", 2)
    assert writing.scores("tutor", ["5 x 12 = 60", "She has fifteen left."], tutor).tolist() == [1, 1]
    assert writing.scores("tutor", ["60 eggs in 5 boxes", "none"], tutor).tolist() == [0, 0]
    assert writing.last_number("That is 1,350.50 in all.") == Decimal("1350.5")
    assert writing.floor("tutor", ["A box holds twelve eggs. And 5 more?"]) == ["17"]


def test_jobs_and_answers_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="unknown job 'tutr'"):
        writing.rows("tutr")
    with pytest.raises(InputError, match="one answer a row is needed; got 1 answers and 24 rows"):
        writing.scores("tutor", ["1"], writing.rows("tutor"))


def test_answers_are_kept_as_they_come_and_not_asked_for_again(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    model, seen = str(tiny_decoder.folder), []

    def told(event: dict) -> None:
        seen.append((event["step"], event["steps"]))

    def stop_after_two(event: dict) -> None:
        told(event)
        if event["step"] == 2:
            raise KeyboardInterrupt

    asked = writing.prompts("tutor", list(writing.rows("tutor", 3)["text"]))
    how = {"bits": 16, "max_new_tokens": 4}
    with pytest.raises(KeyboardInterrupt):
        writing.answers(model, asked, tmp_path / "a", **how, progress=stop_after_two)
    found = writing.answers(model, asked, tmp_path / "a", **how, progress=told)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    again = writing.answers(model, asked, tmp_path / "a", **how, progress=lambda *_: pytest.fail("asked again"))
    assert again == found and all(answer.n_new_tokens <= 4 and answer.seconds > 0 for answer in found)
    fresh = writing.answers(model, asked, tmp_path / "b", **how)
    assert [answer.text for answer in fresh] == [answer.text for answer in found]
    other = writing.answers(model, asked[:1], tmp_path / "a", bits=16, max_new_tokens=2)
    assert other[0].n_new_tokens <= 2, "another limit is another answer"
    (tmp_path / "a" / writing.FILE).write_text('{"a": 1}')
    with pytest.raises(AssetError, match=r"answers.json does not hold answers: remove it"):
        writing.answers(model, asked, tmp_path / "a", **how)


def test_some_answers_are_written_here_and_the_rest_is_marked_as_recorded(
    tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_decoder.folder)
    asked = writing.prompts("tutor", list(writing.rows("tutor", 3)["text"]))
    texts, origin = writing.partly_recorded(model, asked, tmp_path / "all", live=None, max_new_tokens=3)
    assert 10**7 < writing.peak_ram_bytes(tmp_path / "all") < 10**10 and writing.peak_ram_bytes(tmp_path) is None
    assert len(texts) == 3 and origin == "3 written here; 3 of them cut at 3 tokens"
    with pytest.raises(InputError, match=r"2 of 2 answers of .* are not among those recorded .* here \(live=None\)"):
        writing.partly_recorded(model, asked, tmp_path / "all", live=1, max_new_tokens=3)
    (tmp_path / "answers").mkdir()
    kept = json.loads((tmp_path / "all" / writing.FILE).read_text())
    kept = {key: {**one, "cpu": "Old CPU", "cores": 8} for key, one in kept.items()}
    (tmp_path / "answers" / writing.FILE).write_text(json.dumps(kept))
    monkeypatch.setattr(slmkit_data, "path", lambda name: tmp_path / name)
    again, origin = writing.partly_recorded(model, asked, tmp_path / "here", live=1, max_new_tokens=3)
    assert again == texts and origin.startswith("1 written here, 2 recorded on Old CPU, 8 cores; 3 of them cut")
    assert len(json.loads((tmp_path / "here" / writing.FILE).read_text())) == 1


def test_word_counts_find_the_fact_that_shares_words() -> None:
    sheet = ["The desk opens at nine.", "A card costs 9 euros.", "Coins are counted in Thistleford."]
    find = facts.nearest(writing.WordCounts(sheet), sheet, 2)
    asked = facts.Question(({"role": "user", "content": "What does a new card cost me?"},), "", ())
    assert find(asked)[0] == sheet[1]


def test_assistants_are_compared_with_the_first_of_them() -> None:
    sheet = pd.DataFrame({"fact": [f"Card {i} costs {i}5 euros." for i in range(1, 9)]})
    sheet["value"] = [f"{i}5 euros" for i in range(1, 9)]
    asked = [facts.Question(({"role": "user", "content": "How much?"},), "", (value,)) for value in sheet["value"]]
    given = {"floor": ["I cannot say."] * 8, "assistant": [f"It is {value}." for value in sheet["value"]]}
    found = writing.fact_table({**given, "liar": ["It is 99 euros."] * 8}, asked, sheet)
    floor, assistant, liar = found.to_dict("records")
    assert (floor["score"], assistant["score"], assistant["n"], assistant["points"]) == (0, 1, 8, 100)
    assert assistant["p"] < 0.02 and assistant["invented"] == 0 and pd.isna(floor["p"])
    assert (liar["score"], liar["invented"], liar["p"]) == (0, 1, 1)


def test_the_picture_has_a_line_a_job_and_an_interval_a_writer() -> None:
    asked = writing.rows("tutor", 6)
    given = {"SmolLM2 <img src=x>": ["60"] + ["0"] * 5}
    parts = [writing.table("tutor", given, asked).assign(job="tutor")]
    parts.append(parts[0].assign(job="another", score=[0.2, 0.4]))
    figure = plots.writing_scores(pd.concat(parts))
    floor, model = figure.data
    assert floor.name == "floor" and len(floor.x) == 2 and model.x[0] == pytest.approx(100 / 6)
    assert figure.layout.yaxis.ticktext == ("tutor, n = 6", "another, n = 6")
    assert model.error_x.array[0] > 20 and "<img" not in model.name and "(%)" in figure.layout.xaxis.title.text
    with pytest.raises(InputError, match="the table of writing jobs must have rows and the columns job"):
        plots.writing_scores(parts[0].drop(columns="job"))


def test_the_card_and_the_texts_are_as_they_should_be() -> None:
    page = slmkit_data.path("short_jobs.md").read_text(encoding="utf-8")
    content = slmkit_data.path("short_jobs.csv").read_bytes()
    frame = pd.read_csv(slmkit_data.path("short_jobs.csv"), dtype=str, keep_default_na=False)
    assert hashlib.sha256(content).hexdigest() in page and f"\n{len(frame)} short" in page and b"\r" not in content
    assert re.search(r'\n## Licence\n+CC BY 4\.0\. Credit: "slmkit short writing jobs"\.\n$', page)
    for job, count in frame["job"].value_counts().items():
        assert f"| `{job}` | {count} |" in page
    keys = frame["text"].map(data.normalise)
    assert keys.is_unique and (frame["text"] == frame["text"].str.strip()).all()
    for row in writing.rows("summary").to_dict("records"):
        stated = [values.states(row[where], value) for value in row["values"] for where in ("text", "reference")]
        assert len(row["values"]) >= 2 and all(stated), row["text"]
        assert len(row["text"].split()) > 2 * writing.SUMMARY_WORDS >= 2 * len(row["reference"].split())
    tutor = writing.rows("tutor")
    assert all(re.fullmatch(r"\d+", answer) for answer in tutor["reference"])
