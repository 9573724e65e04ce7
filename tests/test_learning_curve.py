"""slmkit learning-curve: nested rows, every point a run, resuming, what it says and draws, and what is refused."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sample_curves import SIZES, Rate, a_curve, falling
from sample_runs import HOSTILE
from typer.testing import CliRunner

import slmkit
from slmkit import __main__ as cli
from slmkit import data, jobs, plots, splits
from slmkit.curves import learning as curve
from slmkit.curves.learning import LearningCurve
from slmkit.errors import InputError, SlmkitError
from slmkit.runs import read_runs
from slmkit.splits.splitfile import GivenSplit
from slmkit.study import StudyResult, portions

QUICK: dict[str, Any] = {"models": "dummy", "progress": lambda event: None}
WHOLE: dict[str, Any] = {
    **QUICK,
    "sizes": (16, 32),
    "methods": "embedding,prompt",
    "seeds": 0,
    "shots": 2,
    "test": 40,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred texts in three labels, told apart by most of their words."""
    rng = random.Random(0)
    kinds = {
        "fraud": ["parcel", "fee", "link", "pay", "urgent", "prize"],
        "ham": ["lunch", "cake", "train", "mum", "walk", "sunday"],
        "work": ["invoice", "meeting", "budget", "report", "client", "draft"],
    }
    both = [word for words in kinds.values() for word in words]
    labels = ["fraud"] * 90 + ["ham"] * 80 + ["work"] * 30
    rows = [(" ".join([*rng.sample(kinds[y], 3), *rng.sample(both, 5), f"n{i}"]), y) for i, y in enumerate(labels)]
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def measured(table: Path, tmp_path_factory: pytest.TempPathFactory) -> LearningCurve:
    """A curve of floor, embedding and prompt, each run in its child process."""
    return slmkit.learning_curve(table, **WHOLE, out=tmp_path_factory.mktemp("curve"))


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> LearningCurve:
    """A flat floor that LoRA passes at 100 labels, and a prompt below it."""
    rates = {"floor": lambda n: 0.2, "lora": falling(2.0), "prompt": lambda n: 0.3}
    return a_curve(tmp_path_factory.mktemp("crossing"), rates)


def test_every_point_is_a_run_and_the_prompt_is_asked_once(measured: LearningCurve) -> None:
    points = [(run.method, run.n_train) for run in measured.runs]
    assert sorted(points) == sorted(
        [(method, size) for method in ("floor", "embedding") for size in (16, 32)] + [("prompt", 16)]
    )
    assert {(run.n_test, run.seed, run.bits) for run in measured.runs} == {(40, 0, None), (40, 0, 16)}
    assert all(run.p_vs_floor is not None for run in measured.runs if run.method != "floor")
    kinds = measured.frame.groupby("kind").size()
    assert (kinds["point"], kinds["run"], kinds["level"]) == (4, 4, 1)
    for row in measured.frame[measured.frame["kind"] == "point"].itertuples():
        assert row.low <= row.accuracy <= row.high and row.n_test == 40
    assert not measured.failed and {run.run_id for run in read_runs(measured.out / "runs")} == {
        r.run_id for r in measured.runs
    }


def test_small_training_sets_stand_inside_large_ones_and_test_rows_are_the_same(measured: LearningCurve) -> None:
    rows: dict[int, set[str]] = {}
    tests = set()
    for path in (measured.out / "runs" / "splits").glob("*.json"):
        found = json.loads(path.read_text())
        rows[len(found["train"])] = set(found["train"])
        tests.add(tuple(sorted(found["test"])))
    assert set(rows) == {16, 32} and rows[16] < rows[32] and len(tests) == 1
    assert not rows[32] & set(next(iter(tests)))


@pytest.mark.parametrize("seed", range(6))
def test_nested_sets_keep_the_shares_of_the_labels(table: Path, seed: int) -> None:
    found = portions.cut(data.read(table), GivenSplit(), [seed], [4, 9, 20, 47, 101], 40)
    parts = [split.train for split in found.values()]
    for small, large in itertools.pairwise(parts):
        assert set(small.index) < set(large.index)
        shares = small["label"].value_counts(normalize=True) - large["label"].value_counts(normalize=True)
        assert shares.abs().max() <= 1.5 / len(small) and small["label"].nunique() == 3
    assert len({tuple(split.test.index) for split in found.values()}) == 1


def test_the_files_hold_what_was_found(measured: LearningCurve) -> None:
    found = json.loads((measured.out / "learning_curve.json").read_text())
    assert found["sizes"] == [16, 32] and found["sentences"] == measured.sentences
    again = plots.learning_curve(pd.DataFrame(found["frame"]))
    assert json.loads(again.to_json())["layout"] == json.loads(measured.figure.to_json())["layout"]
    page = (measured.out / "learning_curve.html").read_text()
    assert "Is it worth labelling more?" in page and "default-src 'none'" in page
    assert page.count("<script src") == 0 and measured.sentences[0].split(":")[0].replace("'", "&#39;") in page


def test_the_same_call_finds_its_runs_and_fewer_methods_are_some_of_them(
    table: Path, measured: LearningCurve, children: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(measured.out, tmp_path / "out"))
    again = slmkit.learning_curve(table, **WHOLE, out=out)
    assert not children and again.runs == measured.runs and again.sentences == measured.sentences
    floor = slmkit.learning_curve(table, **{**WHOLE, "methods": "floor", "sizes": "16,32"}, out=out)
    assert not children and [(run.method, run.n_train) for run in floor.runs] == [("floor", 16), ("floor", 32)]
    assert "Only the floor was run" in floor.sentences[0]


def test_the_command_shows_a_table_the_answer_and_the_page(
    table: Path, measured: LearningCurve, children: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(measured.out, tmp_path / "out"))
    arguments = ["learning-curve", str(table), "--sizes", "16,32", "--models", "dummy", "--methods", "embedding,prompt"]
    arguments += ["--seeds", "0", "--test", "40", "--shots", "2", "-o", str(out)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0 and not children, done.output
    names, cells = curve.table(measured)
    assert all(cell in done.stdout for row in cells for cell in row if cell != "-") and len(names) == 4
    told = " ".join(done.stdout.split())
    assert all(" ".join(sentence.split()) in told for sentence in measured.sentences)
    assert done.stdout.rstrip().endswith("learning_curve.html") and "16 to 32 train and 40 test rows" in done.stderr
    document = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json", "-q"]).stdout)
    assert document["sentences"] == measured.sentences and len(document["runs"]) == 5
    wrong = CliRunner().invoke(cli.app, ["learning-curve", str(table), "--sizes", "8", "-o", str(out)])
    assert wrong.exit_code == 2 and "at least two sizes are needed" in wrong.stderr


@pytest.mark.parametrize("command", [["study", "--out"], ["learning-curve", "--sizes", "16,32", "--out"]])
def test_rows_of_ones_own_are_read_alike_by_both_commands(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    plans: list[Any] = []

    def caught(plan: Any, *_: Any) -> Any:
        plans.append(plan)
        raise SlmkitError("this far")

    monkeypatch.setattr(slmkit.study, "carry_out", caught)
    rows = pd.read_csv(table)
    rows.loc[:2, "label"] = "Fraud"
    learned, tested = rows.iloc[::2], pd.concat([rows.iloc[1::2], rows.iloc[[0]]])
    for name, part in (("learned", learned), ("tested", tested)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    asked = [command[0], str(tmp_path / "learned.csv"), *command[1:], str(tmp_path / "out"), "--models", "dummy"]
    asked += ["--methods", "lora", "--test-file", str(tmp_path / "tested.csv"), "--relabel"]
    leaks = CliRunner().invoke(cli.app, asked)
    assert leaks.exit_code == 2 and "--allow-leaks" in leaks.output and not plans
    wrong = CliRunner().invoke(cli.app, [*asked, "--params", "last_blocks=1"])
    assert wrong.exit_code == 2 and "--params must be JSON such as" in wrong.output
    more = ["--allow-leaks", "--params", '{"lora": {"last_blocks": 1}}']
    assert "this far" in CliRunner().invoke(cli.app, [*asked, *more]).output
    (plan,) = plans
    assert [step.params["last_blocks"] for step in plan.steps if step.method == "lora"][:1] == [1]
    split = next(iter(plan.splits.values()))
    assert set(split.test["text"]) == set(tested["text"]) and set(split.train["text"]) <= set(learned["text"])
    assert set(split.train["label"]) == {"fraud", "ham", "work"}


def test_an_argument_that_nothing_takes_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'textcolumn'"):
        slmkit.learning_curve(table, **WHOLE, out=tmp_path / "out", textcolumn="text")


def test_a_crossing_is_found_with_its_interval_and_said(crossing: LearningCurve) -> None:
    found = crossing
    lora, floor = found.answers
    assert lora.crossing is not None and lora.crossing.labels == pytest.approx(100, rel=0.1)
    assert lora.crossing.low < lora.crossing.labels < lora.crossing.high and not lora.overlap
    assert lora.leads[256] == pytest.approx((0.075, 0.075, 0.075), abs=0.03)
    assert (
        "is ahead of the floor from about 1" in found.sentences[0]
        and "n = 1,000 test rows, 3 seeds" in found.sentences[0]
    )
    assert lora.fit is not None and lora.fit["c"][0] == pytest.approx(0.5, rel=0.1)
    assert floor.crossing is None and floor.method == "floor" and floor.doubling[0] == pytest.approx(0, abs=0.002)


def test_one_more_point_is_an_extrapolation_and_ends_at_twice_the_largest_size(crossing: LearningCurve) -> None:
    found = crossing
    lora, floor = found.answers
    assert lora.next_point is not None and lora.next_point.extrapolated
    assert lora.next_point.labels == pytest.approx((2 / 0.115) ** 2, rel=0.05)
    assert floor.next_point is not None and floor.next_point.labels is None
    told = " ".join(found.sentences)
    assert "one more point of accuracy takes about 300 labels in all by the fitted curve, an extrapolation" in told
    assert "one more point of accuracy is not within 512 labels, twice the largest size" in told


@pytest.mark.parametrize(
    ("floor", "rate", "words"),
    [
        (lambda n: 0.2, falling(0.5), r"is ahead of the floor from 16 labels on, the fewest measured"),
        (
            lambda n: 0.2,
            falling(4.0),
            r"by the fitted curves it would be from about (39|4\d)0 labels on, an extrapolation",
        ),
        (lambda n: 0.2, falling(8.0), r"by the fitted curves not up to 512 either, twice that"),
        (falling(2.0), lambda n: 0.2, r"it is ahead only up to about (9\d|1[01]0) labels, then the floor is"),
    ],
)
def test_leads_are_told_apart(tmp_path: Path, floor: Rate, rate: Rate, words: str) -> None:
    found = a_curve(tmp_path, {"floor": floor, "lora": rate})
    assert re.search(words, found.sentences[0]), found.sentences[0]


def test_an_early_lead_within_the_noise_is_not_called_one(tmp_path: Path) -> None:
    rates = {"floor": lambda n: 0.2 if n > 16 else 0.41, "lora": lambda n: 0.4}
    (said, *_) = a_curve(tmp_path, rates, n_test=100, seeds=2).sentences
    assert "then the floor is (and even at 16 these rows cannot tell them apart)" in said, said


def test_what_the_rows_cannot_tell_apart_is_said_to_be_so(tmp_path: Path) -> None:
    few = a_curve(tmp_path, {"floor": falling(1.0), "lora": falling(0.97)}, seeds=2, n_test=60)
    assert few.answers[0].overlap and few.answers[1].overlap is False
    assert "cannot be told apart at any size from 16 to 256 labels: the intervals overlap" in few.sentences[0]
    assert "crossing" not in set(few.frame["kind"])


def test_a_prompt_is_a_level_that_the_floor_passes(tmp_path: Path) -> None:
    found = a_curve(tmp_path, {"floor": falling(2.0), "prompt": lambda n: 0.3})
    (said,) = [sentence for sentence in found.sentences if "prompt" in sentence]
    assert "4 examples in it and 16 labelled rows at hand, reaches 70.0 %" in said
    assert "the floor is ahead of it from 64 labels on" in said
    names, cells = curve.table(found)
    assert cells[0][names.index("SmolLM2-135M, prompt, 16 bits")].startswith("70.0 (") and cells[1][-1] == "-"


def test_a_size_that_one_seed_lacks_is_left_out(tmp_path: Path) -> None:
    rates = {"floor": lambda n: 0.2, "lora": falling(2.0)}
    found = a_curve(tmp_path, rates, without={("lora", 256, 1), ("lora", 16, 0)})
    drawn = found.frame[(found.frame["kind"] == "point") & (found.frame["method"] == "lora")]
    assert sorted(drawn["labels"]) == [32, 64, 128] and set(found.answers[0].leads) == {32, 64, 128}
    assert found.answers[0].crossing.measured == 128


def test_a_leak_that_was_allowed_stands_first(tmp_path: Path) -> None:
    rates = {"floor": lambda n: 0.2, "lora": falling(2.0)}
    found = a_curve(tmp_path, rates, n_test=100, leaked_test_rows=7, split="given")
    assert found.sentences[0].startswith("Leak: 7 of 100 test rows (7.0 %) stand in the training rows")


def test_models_of_one_name_are_two_curves(tmp_path: Path) -> None:
    one = a_curve(tmp_path, {"floor": lambda n: 0.2, "lora": falling(2.0)}, n_test=100, model="/a/tuned")
    two = a_curve(tmp_path, {"lora": falling(1.0)}, n_test=100, model="/b/tuned")
    runs = StudyResult([*one.runs, *two.runs], [], 1.0, 1, tmp_path / "runs")
    both = curve.finished("fraud_messages", SIZES, runs, tmp_path)
    assert [answer.series for answer in both.answers[:2]] == ["tuned, LoRA, 16 bits", "tuned, LoRA, 16 bits #2"]
    assert both.answers[0].accuracy[0] > both.answers[1].accuracy[0]


def test_one_seed_says_what_its_intervals_lack(tmp_path: Path) -> None:
    found = a_curve(tmp_path, {"floor": lambda n: 0.2, "lora": falling(2.0)}, seeds=1)
    assert found.sentences[-1].startswith("One seed was run, so how much the choice of rows matters")


def traces(figure: Any, kind: str) -> list[Any]:
    return [trace for trace in figure.data if trace.mode == kind]


def test_the_picture_has_bands_points_floor_level_and_crossing(crossing: LearningCurve) -> None:
    found = crossing
    figure = found.figure
    named = {t.name: t for t in traces(figure, "markers") if t.name}
    assert set(named) == {"TF-IDF floor", "SmolLM2-135M, LoRA, 16 bits"} and named["TF-IDF floor"].marker.symbol == "x"
    lora = named["SmolLM2-135M, LoRA, 16 bits"]
    assert lora.x == pytest.approx(SIZES, rel=0.02) and lora.y[-1] == pytest.approx(87.5, abs=0.2)
    assert all(value > 0 for value in [*lora.error_y.array, *lora.error_y.arrayminus])
    dashes = [t.line.dash for t in traces(figure, "lines") if t.fill is None]
    assert sorted(dashes) == ["dash", "dash", "solid", "solid"]
    solid, dashed = (t for t in traces(figure, "lines") if t.fill is None and t.line.color == lora.marker.color)
    assert max(solid.x) == min(dashed.x) == 256 and max(dashed.x) == pytest.approx(512)
    (star,) = [t for t in traces(figure, "markers") if t.marker.symbol == "star-open"]
    assert star.x[0] == pytest.approx(100, rel=0.1) and star.error_x.array[0] > 0
    said = [note.text for note in figure.layout.annotations]
    assert any(note.startswith("SmolLM2-135M<br>prompt<br>16 bits<br>70.0 %") for note in said)
    assert any(note.startswith("ahead of the floor<br>from about 1") for note in said)
    assert list(figure.layout.xaxis.tickvals) == [*SIZES, 512] and figure.layout.xaxis.type == "log"
    assert "n = 1000 test rows, 3 seeds" in figure.layout.title.subtitle.text.replace("<br>", " ")
    with pytest.raises(InputError, match=r"must have rows and the columns task, .*; lacks \['kind'\]"):
        plots.learning_curve(found.frame.drop(columns="kind"))
    with pytest.raises(InputError, match=r"has no row of kind 'point'; got \['fit'\]"):
        plots.learning_curve(found.frame[found.frame["kind"] == "fit"])


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    found = a_curve(tmp_path, {"floor": lambda n: 0.2, "lora": falling(2.0)}, model=HOSTILE)
    document = json.loads(found.figure.to_json())
    document["layout"].pop("template")
    page = (tmp_path / "learning_curve.html").read_text()
    assert "<img" not in json.dumps(document) and "<img src=x" not in page and "\u202e" not in page


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one size": ({"sizes": "16"}, "at least two sizes are needed to see a curve, better four; got 16"),
    "falling sizes": ({"sizes": [16, 64, 32]}, "sizes must rise, each above the one before; got 16, 64, 32"),
    "no number": ({"sizes": "16,many"}, "size must be a whole number; got 'many'"),
    "too large": ({"sizes": [16, 5000]}, "5,000 train rows were asked for; there are 200 rows"),
    "beside the test rows": (
        {"sizes": [16, 170]},
        "40 test rows and 170 train rows were asked for; there are 200 rows",
    ),
    "a class without a row": ({"sizes": [2, 16]}, "train must be at least 3, one row a class; got 2"),
    "a class with one row": (
        {"sizes": [8, 16]},
        "class 'work' has 1 of the 8 rows of the smallest size; each class needs 2",
    ),
    "zero": ({"sizes": [0, 16]}, "train must be a whole number of at least 1; got 0"),
    "method": ({"methods": "flor"}, "unknown method 'flor'. Did you mean 'floor'"),
    "shots": ({"shots": 17}, "shots must be at most the smallest size, 16; got 17"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments_are_named_and_nothing_is_written(table: Path, tmp_path: Path, name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(InputError) as error:
        slmkit.learning_curve(table, **{**WHOLE, **changes}, out=tmp_path / "out")
    assert message in str(error.value) and not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_said_at_once(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        slmkit.learning_curve(table, **{**WHOLE, "sizes": "16", "bits": 5, "methods": "lorra"}, out=tmp_path / "out")
    for part in ("at least two sizes", "bits must be one of 4, 8, 16; got 5", "unknown method 'lorra'"):
        assert part in str(error.value)


def test_a_study_of_which_nothing_came_out_is_an_error(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: Any, **more: Any) -> Any:
        raise jobs.JobFailed("the disk is full: somewhere", "OSError")

    monkeypatch.setattr(jobs, "run_child", broken)
    with pytest.raises(SlmkitError, match="no run came out: the disk is full"):
        slmkit.learning_curve(table, **{**WHOLE, "methods": "floor"}, out=tmp_path / "out")


def test_nested_needs_a_row_a_class() -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "z"]})
    whole = splits.Split(frame, frame, ())
    with pytest.raises(InputError, match="train must be at least 3, one row a class; got 2"):
        splits.nested(whole, [3, 2], seed=0)
