"""A student learns what its teacher says, not more and from no test row; the figures about it are right."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

import slmkit
from slmkit import backends, metrics, prune
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.classify import EmbeddingClassifier, FloorClassifier, LoRAClassifier, PromptClassifier, load_classifier
from slmkit.errors import InputError
from slmkit.estimator import TextClassifier
from slmkit.tuning import distil, retention
from slmkit.tuning.distil import check_telling, distill, mixed

WORDS = {
    "good": ["profit", "growth", "record", "gain", "strong", "rose", "higher", "wins", "order", "award"],
    "bad": ["loss", "cut", "weak", "fell", "lower", "lawsuit", "strike", "debt", "closure", "fine"],
    "flat": ["unchanged", "stable", "meeting", "annual", "report", "office", "address", "chairman", "date", "agenda"],
}
FILLER = ["the", "company", "said", "today", "that", "its", "unit", "in", "north", "would", "third", "part", "of", "so"]


def sentences(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of filler and three telling words, two of which are of the label's own and one of any."""
    rng, names = np.random.default_rng(seed), list(WORDS)
    labels = [names[i] for i in rng.integers(0, 3, n)]
    any_word = [word for words in WORDS.values() for word in words]
    rows = [[*rng.choice(FILLER, 6), *rng.choice(WORDS[name], 2), rng.choice(any_word)] for name in labels]
    return [" ".join(rng.permutation(row)) + f" {i}{seed}" for i, row in enumerate(rows)], labels


@pytest.fixture(scope="module")
def teacher() -> FloorClassifier:
    return FloorClassifier().fit(*sentences(600, 1))


class Says:
    """A teacher that says what it is told to."""

    classes_ = np.array(["bad", "flat", "good"])

    def __init__(self, proba: Any) -> None:
        self.proba = np.asarray(proba)

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        return np.resize(self.proba, (len(texts), self.proba.shape[1]))


def divergence(told: np.ndarray, said: np.ndarray) -> float:
    """Mean KL divergence in nats of what was said from what was told."""
    return float((told * np.log(np.maximum(told, 1e-12) / np.maximum(said, 1e-12))).sum(axis=1).mean())


# learning from probabilities


@pytest.mark.parametrize("kind", [FloorClassifier, EmbeddingClassifier, LoRAClassifier])
def test_certain_targets_give_what_labels_give(kind: Callable[..., TextClassifier]) -> None:
    student = kind() if kind is FloorClassifier else kind("dummy")  # a parameter would keep its model to the last test
    texts, labels = sentences(60, 2)
    classes = sorted(WORDS)
    hard = student.fit(texts, labels).predict_proba(texts)
    targets = np.eye(3)[[classes.index(label) for label in labels]]
    np.testing.assert_allclose(student.fit_targets(texts, targets, classes).predict_proba(texts), hard, atol=1e-5)


def test_a_head_on_targets_is_the_logistic_regression_on_them() -> None:
    """Against a direct minimisation of the cross-entropy with the same penalty."""
    texts, _ = sentences(80, 3)
    targets = np.random.default_rng(0).dirichlet([0.7, 1, 2], len(texts))
    student = EmbeddingClassifier("dummy", C=0.5).fit_targets(texts, targets, ["a", "b", "c"])
    with slmkit.load("dummy") as model:
        vectors = model.embed(texts).astype(np.float64)
    x = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-6)

    def loss(flat: np.ndarray) -> float:
        weight, bias = flat[:-3].reshape(3, -1), flat[-3:]
        return float(-0.5 * (targets * log_softmax(x @ weight.T + bias, axis=1)).sum() + 0.5 * (weight**2).sum())

    def slope(flat: np.ndarray) -> np.ndarray:
        weight, bias = flat[:-3].reshape(3, -1), flat[-3:]
        error = np.exp(log_softmax(x @ weight.T + bias, axis=1)) - targets
        return np.concatenate([(0.5 * error.T @ x + weight).ravel(), 0.5 * error.sum(axis=0)])

    best = minimize(loss, np.zeros(3 * x.shape[1] + 3), jac=slope, method="L-BFGS-B", options={"maxiter": 2000}).x
    expected = np.exp(log_softmax(x @ best[:-3].reshape(3, -1).T + best[-3:], axis=1))
    np.testing.assert_allclose(student.predict_proba(texts), expected, atol=5e-3)


def test_the_floor_learns_how_sure_its_teacher_is(teacher: FloorClassifier) -> None:
    """Told doubtful probabilities it is as doubtful on new texts; told their likeliest classes it is too sure."""
    texts, new = sentences(400, 11)[0], sentences(200, 12)[0]
    told, expected = (mixed(teacher.predict_proba(t), np.full(len(t), -1), temperature=3) for t in (texts, new))
    soft = FloorClassifier().fit_targets(texts, told, teacher.classes_).predict_proba(new)
    hard = FloorClassifier().fit(texts, teacher.classes_[told.argmax(axis=1)]).predict_proba(new)
    assert 3 * divergence(expected, soft) < 0.12 < divergence(expected, hard)
    assert abs(soft.max(axis=1).mean() - expected.max(axis=1).mean()) < 0.05


def test_a_tuned_model_comes_nearer_to_its_teacher(tiny_decoder: ModelSource, teacher: FloorClassifier) -> None:
    texts, _ = sentences(48, 4)
    told = teacher.predict_proba(texts)
    student = LoRAClassifier(str(tiny_decoder.folder), epochs=4, learning_rate=5e-3, rank=4, batch_size=8)
    made = distill(teacher, student, texts)
    after = divergence(told, made.student.predict_proba(texts))
    share = np.tile(told.mean(axis=0), (len(told), 1))  # what saying the same of every text would reach
    assert after < 0.5 * divergence(told, share)
    assert made.n_pool == 48 and made.figures == {} and not hasattr(student, "classes_")


@pytest.mark.parametrize(
    ("targets", "classes", "message"),
    [
        ([[0.5, 0.5]], ["a", "b"], r"the shape \(rows, classes\) = \(2, 2\); got \(1, 2\)"),
        ([[0.5, 0.6], [0, 1]], ["a", "b"], r"sum to 1; row 0 is \[0.5, 0.6\]"),
        ([[0.5, np.nan], [0, 1]], ["a", "b"], "sum to 1; row 0 is"),
        ([[0.5, 0.5], [0, 1]], ["b", "a"], r"in ascending order; got \['b', 'a'\]"),
        ([[1, 0], [1, 1e-5]], ["a", "b"], "class b has a probability of 0 in all 2 rows"),
    ],
)
def test_targets_that_are_none_are_named(targets: list, classes: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EmbeddingClassifier("dummy").fit_targets(["one", "two"], np.array(targets), classes)


def test_a_prompt_learns_no_targets() -> None:
    with pytest.raises(InputError, match="method 'prompt' learns from labels alone, not from probabilities"):
        PromptClassifier("dummy").fit_targets(["one"], np.array([[0.5, 0.5]]), ["a", "b"])


# what the student is told


def test_temperature_and_labels_shape_the_targets() -> None:
    told = np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25]])
    none = np.array([-1, -1])
    np.testing.assert_allclose(mixed(told, none), told)
    roots = np.sqrt(told)
    np.testing.assert_allclose(mixed(told, none, temperature=2), roots / roots.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(mixed(told, np.array([2, -1]), weight=0.25), [[0.2, 0.025, 0.775], told[1]])
    np.testing.assert_allclose(mixed(told, np.array([1, 0]), weight=0), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(("proba", "word"), [([[1 / 3] * 3], "uniform"), ([[0.9, 0.06, 0.04]], "constant")])
def test_a_teacher_that_says_the_same_of_all_is_refused(proba: list, word: str) -> None:
    with pytest.raises(InputError, match=f"the teacher's targets are {word}: it says the same of all 40 texts .bad 0"):
        distill(Says(proba), "floor", sentences(40, 5)[0])


def test_one_likeliest_class_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_telling(np.array([[0.9, 0.1], [0.6, 0.4]]), ["a", "b"])
    assert "finds 'a' the likeliest class of all 2 texts" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "minilm"}, "teacher must be a fitted classifier with predict_proba and classes_; got str"),
        ({"teacher": FloorClassifier()}, "teacher must be a fitted classifier"),
        ({"student": PromptClassifier("dummy")}, "student must learn from probabilities .*; got PromptClassifier"),
        ({"student": "minilmm"}, "unknown model 'minilmm'"),
        ({"temperature": 0}, "temperature must be above 0; got 0"),
        ({"weight": 1.5}, r"weight must lie in 0 .. 1; got 1.5"),
        ({"labels": ["good"]}, "labels must be as many as texts, 40, with None for those unknown; got 1"),
        ({"labels": ["fine"] * 40}, "label 'fine' in the pool is no class of the teacher, which knows 'bad', 'flat'"),
        ({"test": (["a"], ["fine"])}, "label 'fine' in the test is no class of the teacher"),
        ({"test": (["a", "b"], ["good"])}, "test must hold one label a text; got 2 texts and 1 labels"),
        ({"teacher": Says([[0.5, 0.5]])}, r"the teacher .Says. gives no probabilities: .* \(40, 3\); got \(40, 2\)"),
    ],
)
def test_what_cannot_be_distilled_is_named(teacher: FloorClassifier, change: dict, message: str) -> None:
    given = {"teacher": teacher, "student": "floor", "texts": sentences(40, 5)[0], **change}
    with pytest.raises(InputError, match=message):
        distill(given.pop("teacher"), given.pop("student"), given.pop("texts"), **given)


def test_a_classifier_does_not_teach_itself(teacher: FloorClassifier) -> None:
    with pytest.raises(InputError, match="teacher and student are the same object"):
        distill(teacher, teacher, sentences(40, 5)[0])


# no test row in the pool


def test_copies_of_test_rows_leave_the_pool(teacher: FloorClassifier, caplog: pytest.LogCaptureFixture) -> None:
    texts, labels = sentences(60, 6)
    test, truth = sentences(30, 7)
    copies = [test[0], test[1].upper() + "!", test[2] + " and"]
    caplog.set_level(logging.WARNING)
    made = distill(teacher, "floor", [*copies, *texts], labels=["good"] * 3 + labels, test=(test, truth), measure_s=0)
    assert made.removed == {"exact": 1, "normalised": 1, "near": 1}
    assert (made.n_pool, made.n_labelled) == (60, 60)
    assert "pool: 3 of 63 rows (4.8%) stand in test" in caplog.text
    clean = distill(teacher, "floor", texts, labels=labels, test=(test, truth), measure_s=0)
    assert made.predictions.equals(clean.predictions) and clean.removed == {}
    assert "3 more stood in the test rows and were left out" in made.lines()[0]
    with pytest.raises(InputError, match="all 30 texts of the pool stand in the test rows"):
        distill(teacher, "floor", test, test=(test, truth), measure_s=0)


def test_copies_that_are_allowed_to_stay_mark_the_student_and_flatter_it(teacher: FloorClassifier) -> None:
    texts, labels = sentences(60, 6)
    test, truth = sentences(200, 7)
    told = {"labels": labels + truth, "test": (test, truth), "weight": 0.5, "measure_s": 0}
    leaking = distill(teacher, "floor", [*texts, *test], **told, allow_leaks=True)
    clean = distill(teacher, "floor", [*texts, *test], **told)
    assert (leaking.leaked, leaking.removed, leaking.n_pool) == ({"exact": 200}, {}, 260)
    assert (clean.leaked, clean.removed, clean.n_pool) == ({}, {"exact": 200}, 60)
    scores = [made.figures["accuracy"]["student"][0] for made in (leaking, clean)]
    assert scores[0] > 0.98 > 0.9 > scores[1]
    assert leaking.lines()[0].startswith("Leak: 200 texts of the pool stand in the test rows")
    assert leaking.to_dict()["leaked"] == {"exact": 200} and "Leak" not in clean.lines()[0]


# what it bought


def test_many_texts_and_a_teacher_beat_few_labels(teacher: FloorClassifier, tmp_path: Path) -> None:
    texts, labels = sentences(400, 8)
    known = [label if i < 24 else None for i, label in enumerate(labels)]
    test, truth = sentences(300, 9)
    made = distill(teacher, "floor", texts, labels=known, test=(test, truth), weight=0.8, measure_s=0.4)
    figures = made.figures
    assert (made.n_pool, made.n_labelled, figures["n_test"]) == (400, 24, 300)
    assert figures["p_vs_labels"] < 0.01 and figures["gain"] > 0.1
    assert 0.9 < made.retention <= 1.02 and made.gap_closed > 0.6
    low, high = figures["retention_interval"]
    assert low < made.retention < high and high - low < 0.15
    assert made.saving["bytes_share"] < 1 and made.saving["latency_share"] > 0
    words = "\n".join(made.lines())
    for part in ("the same student, labels alone: ", "retention: ", "gap to the teacher closed: ", ", n = 300"):
        assert part in words
    folder = made.save(tmp_path / "student")
    np.testing.assert_allclose(load_classifier(folder).predict_proba(test), made.student.predict_proba(test), atol=1e-6)
    record = json.loads((folder / distil.FILE).read_text())
    assert (record["figures"]["n_test"], record["student"]["class"]) == (300, "FloorClassifier")
    assert record["costs"]["teacher"]["latency_p50_s"] > 0 and record["machine"]["cores"]
    assert (folder / distil.PREDICTIONS).read_text().splitlines()[0] == "row,label,teacher,student,labels alone"
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        made.save(folder)


def test_any_classifier_teaches_a_pruned_model(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    """A scikit-learn pipeline whose classes are numbers, and a student with half of its blocks."""
    texts, labels = sentences(60, 10)
    numbers = np.array([list(WORDS).index(label) for label in labels])
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, numbers)
    half = prune(str(tiny_decoder.folder), out=tmp_path / "half", keep_layers=1)
    made = distill(
        pipeline, LoRAClassifier(str(half.folder), epochs=2), texts[:40], test=(texts[40:], numbers[40:]), measure_s=0.2
    )
    assert made.classes == (0, 1, 2) and set(made.student.predict(texts[:5])) <= {0, 1, 2}
    assert made.costs["teacher"]["class"] == "Pipeline" and made.costs["teacher"]["stored_bytes"] is None
    assert made.saving["bytes_share"] is None and made.figures["n_test"] == 20


def test_figures_of_three_classifiers_are_right() -> None:
    teacher, student, alone = (np.arange(100) < n for n in (90, 80, 60))
    found = retention.compare({"teacher": teacher, "student": student, "labels alone": alone})
    assert found["retention"] == pytest.approx(80 / 90) and found["gap_closed"] == pytest.approx(20 / 30)
    assert found["accuracy"]["student"] == [0.8, *metrics.wilson(80, 100)]
    assert found["p_vs_labels"] == metrics.mcnemar(student, alone)["p"]
    assert found["p_vs_teacher"] == metrics.mcnemar(student, teacher)["p"]
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 100, (4000, 100))
    drawn = np.percentile(student[rows].sum(axis=1) / teacher[rows].sum(axis=1), [2.5, 97.5])
    np.testing.assert_allclose(found["retention_interval"], drawn, atol=0.01)
    even = retention.compare({"teacher": alone, "student": student, "labels alone": alone})
    assert even["gap_closed"] is None and "there is no gap to close" in "\n".join(retention.lines(even, {}))


def test_the_command_saves_a_student_that_the_next_command_takes(teacher: FloorClassifier, tmp_path: Path) -> None:
    texts, labels = sentences(200, 13)
    pd.DataFrame({"text": texts[:140], "label": ["?"] * 140}).to_csv(tmp_path / "pool.csv", index=False)
    for name, part in (("known", slice(140, 170)), ("test", slice(170, 200))):
        pd.DataFrame({"text": texts[part], "label": labels[part]}).to_csv(tmp_path / f"{name}.csv", index=False)
    folder = teacher.save(tmp_path / "teacher")
    given = [folder, "floor", tmp_path / "pool.csv", "-o", tmp_path / "student"]
    given += ["--labels", tmp_path / "known.csv", "--test", tmp_path / "test.csv"]
    done = CliRunner().invoke(app, ["distill", *map(str, given)])
    assert done.exit_code == 0, done.output
    assert "learned from 170 texts, 30 of them with a label" in done.output and "retention: " in done.output
    assert load_classifier(tmp_path / "student").classes_.tolist() == ["bad", "flat", "good"]
    again = CliRunner().invoke(app, ["distill", *map(str, given)])
    assert again.exit_code == 2 and "out must be a new or an empty folder" in again.output


def test_the_command_prunes(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    name = str(tiny_decoder.folder)
    done = CliRunner().invoke(app, ["prune", name, "--blocks", "1", "-o", str(tmp_path / "one"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["kept"], told["blocks"], told["measure"]) == ([1], 2, "given")
    card = (tmp_path / "one" / "README.md").read_text()
    assert card.startswith("---\nbase_model: ") and "\n- pruned\n" in card and "library_name: transformers" in card
    for words in ("with 1 of 2 blocks", "| blocks dropped | `0` |", "named by hand", "## Made with", "slmkit.load("):
        assert words in card
    assert str(tmp_path) not in card
    wrong = CliRunner().invoke(app, ["prune", name, "--blocks", "1-2", "-o", str(tmp_path / "two")])
    assert wrong.exit_code == 2 and "--blocks must be whole numbers with commas between" in wrong.output


def test_the_command_matches_states(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    if not backends.get("bnb").is_available()[0]:
        pytest.skip(backends.get("bnb").is_available()[1])
    name, pool = str(tiny_decoder.folder), tmp_path / "pool.csv"
    pd.DataFrame({"text": sentences(40, 3)[0], "label": ["?"] * 40}).to_csv(pool, index=False)
    assert CliRunner().invoke(app, ["prune", name, "--blocks", "0", "-o", str(tmp_path / "one")]).exit_code == 0
    command = ["distill", name, str(tmp_path / "one"), str(pool), "-o", str(tmp_path / "near"), "--match-states"]
    wrong = CliRunner().invoke(app, [*command, "--labels", str(pool), "--temperature", "2"])
    assert wrong.exit_code == 2 and "leave out --labels, --temperature" in wrong.output
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["distance_after"] < told["distance_before"] and told["n_train"] + told["n_test"] == 40
    card = (tmp_path / "near" / "README.md").read_text()
    assert "hidden states of its teacher" in card and f"{told['n_train']} texts learned" in card
    assert f"{told['distance_after']:.2f}"[:3] in card and str(tmp_path) not in card
