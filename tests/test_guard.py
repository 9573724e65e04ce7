"""The guard before and around a training names every mistake that is planted, and is silent on clean rows."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from engines import available
from guard_plans import ASKED, BAD, CODES, GOOD, LABELS, TEXTS, labelled, look, talking, variant

import slmkit
from slmkit.assets import ModelSource
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.classify import LoRAClassifier
from slmkit.errors import InputError
from slmkit.guard import aftermath, findings, watch
from slmkit.guard.findings import FAIL, OK, WARN, Finding

# before


def test_a_clean_plan_is_silent(tiny_decoder: ModelSource, tiny_chat_decoder: ModelSource) -> None:
    for plan in (labelled(tiny_decoder, held_out=["something else entirely"]), talking(tiny_chat_decoder)):
        found = watch.before(plan)
        assert {one.status for one in found} == {OK} and len(found) >= 5, [one.sentence for one in found]


def test_no_pad_token(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    bare = variant(tiny_decoder, tmp_path / "m", pad_token=None, eos_token=None)
    found = look("pad token", labelled(bare))
    assert found.status == FAIL and "has no pad token" in found.found and "tokenizer_config.json" in found.remedy


def test_an_end_masked_with_the_padding(
    tiny_chat_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = variant(tiny_chat_decoder, tmp_path / "m", pad_token="</s>")
    assert look("end of answers", talking(same)).status == OK
    whole = completions.pairs

    def masked(tokenizer: Any, *given: Any, **how: Any) -> Any:
        rows, kept = whole(tokenizer, *given, **how)
        ids = [tuple(t for t in row.target if t != tokenizer.pad_token_id) for row in rows]
        return [shared.Pair(row.read, target) for row, target in zip(rows, ids, strict=True)], kept

    monkeypatch.setattr(completions, "pairs", masked)
    found = look("end of answers", talking(same))
    assert found.status == FAIL and found.evidence == {"without_end": 3, "answers": 3}
    assert "the pad token too" in found.found and "never stop" in found.cost


def test_an_end_inside_an_answer(tiny_chat_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, whole = talking(tiny_chat_decoder, answers=["Yes.</s> Call the bank.", "No.", "No."]), completions.pairs
    assert look("end of answers", plan).status == OK  # what somebody wrote is only characters

    def early(*given: Any, **how: Any) -> Any:
        rows, kept = whole(*given, **how)
        return [shared.Pair(row.read, (row.target[-1], *row.target)) for row in rows], kept

    monkeypatch.setattr(completions, "pairs", early)
    found = look("end of answers", replace(plan))
    assert found.status == WARN and "3 answers hold an end token" in found.found


def test_bos_of_template_and_tokenizer(tiny_chat_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = lambda tokenizer, texts: tokenizer(list(texts))["input_ids"]  # noqa: E731
    monkeypatch.setattr(shared, "_bare_rows", plain)
    found = look("one BOS", talking(tiny_chat_decoder))
    assert found.status == FAIL and "3 of 3 rows begin with '<s>' twice" in found.found


def test_no_bos_where_the_tokenizer_adds_one(tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = lambda tokenizer, texts: [row[1:] for row in tokenizer(list(texts))["input_ids"]]  # noqa: E731
    monkeypatch.setattr(shared, "_bare_rows", cut)
    found = look("one BOS", labelled(tiny_decoder))
    assert found.status == FAIL and "begin without '<s>'" in found.found


def test_turns_of_a_template_given_to_a_base_model(tiny_decoder: ModelSource, tiny_chat_decoder: ModelSource) -> None:
    turns = [f"<|im_start|>user\n{text}<|im_end|>" for text in TEXTS]
    found = look("chat template", labelled(tiny_decoder, turns))
    assert found.status == WARN and "base model without a template" in found.found
    assert "its own template has other ones" in look("chat template", labelled(tiny_chat_decoder, turns)).found
    own = [f"<|user|>{text}" for text in TEXTS]
    assert look("chat template", labelled(tiny_chat_decoder, own)).status == OK


def test_a_base_model_of_the_catalog_asked_through_a_template(tiny_chat_decoder: ModelSource) -> None:
    found = look("chat template", talking(replace(tiny_chat_decoder, name="gemma-3-270m")))
    assert found.status == WARN and "gemma-3-270m is a base model" in found.found


def test_prompts_of_another_form_than_in_use(tiny_chat_decoder: ModelSource) -> None:
    plain = [f"User: {turns[0]['content']}\nAssistant:" for turns in ASKED]
    found = look("same prompts", talking(tiny_chat_decoder, texts=plain))
    assert found.status == FAIL and found.evidence["other"] == 3


def test_labels_that_slipped_by_a_row(tiny_decoder: ModelSource) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    texts, codes = [TEXTS[i] for i in order], CODES[order]
    assert look("labels", labelled(tiny_decoder, texts, codes)).status == OK
    for slip, where in ((1, "below"), (-1, "above")):
        found = look("labels", labelled(tiny_decoder, texts, np.roll(codes, slip)))
        assert found.status == FAIL and f"taken from the row {where}" in found.found, found
        assert found.evidence["score_of_slipped_labels"] > 0.9


def test_labels_that_are_random(tiny_decoder: ModelSource) -> None:
    texts = [f"{text} {n}" for n in range(3) for text in TEXTS]
    random = np.random.default_rng(0).permutation(np.tile(CODES, 3))
    found = look("labels", labelled(tiny_decoder, texts, random))
    assert found.status == WARN and "look random" in found.found and found.evidence["score"] < 0.6


def test_one_text_under_two_labels(tiny_decoder: ModelSource) -> None:
    plan = labelled(tiny_decoder, [*TEXTS, "Call NOW!", "call now"], np.array([*CODES, 0, 1]))
    found = look("contradictory labels", plan)
    assert found.status == WARN and found.evidence == {"rows": 2, "texts": 1}
    assert "rows 120 and 121, 'ham' and 'spam'" in found.found
    assert look("contradictory labels", labelled(tiny_decoder, ["a", "A", "b"], np.array([0, 1, 1]))).status == FAIL


def test_learned_rows_held_out(tiny_decoder: ModelSource) -> None:
    found = look("train rows in test", labelled(tiny_decoder, held_out=["Quite another text", TEXTS[3].upper()]))
    assert found.status == FAIL and found.evidence == {"leaking": 1, "held_out": 2}
    assert TEXTS[3].upper() in found.found


def test_rows_that_lose_most_of_their_tokens(tiny_decoder: ModelSource) -> None:
    found = look("cut rows", labelled(tiny_decoder, max_length=4))
    assert found.status == WARN and found.evidence["share"] == 1 and "max_length" in found.remedy
    assert look("cut rows", labelled(tiny_decoder)).status == OK


@pytest.mark.parametrize(
    ("proba", "status", "said"),
    [
        (np.full((30, 2), 0.5), FAIL, "uniform probabilities"),
        (np.tile([0.9, 0.1], (30, 1)), FAIL, "the same probabilities"),
        (np.ones((30, 2)), FAIL, "no probabilities"),
        (np.full((30, 2), np.nan), FAIL, "no probabilities"),
        (np.stack([np.linspace(0.6, 0.9, 30), np.linspace(0.4, 0.1, 30)], 1), WARN, "class 0 is the likeliest of all"),
        (np.stack([np.linspace(0, 1, 30), np.linspace(1, 0, 30)], 1), OK, "differ from row to row"),
    ],
)
def test_targets_of_a_teacher(tiny_decoder: ModelSource, proba: np.ndarray, status: str, said: str) -> None:
    found = look("teacher's targets", labelled(tiny_decoder, proba=proba))
    assert found.status == status and said in found.found


def test_a_trial_finds_that_no_gradient_arrives(tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = labelled(tiny_decoder, epochs=60)
    assert {one.status for one in watch.trial(plan)} == {OK}
    from slmkit.backends._torch import loop

    monkeypatch.setattr(loop.Loop, "_collect", lambda self, slopes: None)
    with pytest.raises(InputError, match="3 steps of tuning .* tried before it: 1 check failed"):
        watch.before(plan)


# around a training


def test_fit_refuses_slipped_labels_and_goes_on_when_told(tiny_decoder: ModelSource) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    texts, labels = [TEXTS[i] for i in order], np.roll([LABELS[i] for i in order], 1).tolist()
    how: dict[str, Any] = {"epochs": 0.2, "rank": 2}
    told: list[Any] = []
    classifier = LoRAClassifier(str(tiny_decoder.folder), **how)
    classifier.progress = told.append
    with pytest.raises(InputError, match=r"labels have slipped by one row(?s:.*)checks=False goes on"):
        classifier.fit(texts, labels)
    assert not told  # not a step was trained
    unguarded = LoRAClassifier(str(tiny_decoder.folder), checks=False, **how).fit(texts, labels)
    assert unguarded.guard_ == {} and unguarded.facts()["warnings"] == []


def test_constant_targets_of_a_teacher_are_not_learned(tiny_decoder: ModelSource) -> None:
    classifier = LoRAClassifier(str(tiny_decoder.folder), epochs=1, rank=2)
    with pytest.raises(InputError, match="teacher's targets: all 120 rows have uniform probabilities"):
        classifier.fit_targets(TEXTS, np.full((len(TEXTS), 2), 0.5), ["ham", "spam"])
    soft = np.where(np.eye(2)[CODES] > 0, 0.9, 0.1)
    record = classifier.set_params(learning_rate=5e-3, epochs=3).fit_targets(TEXTS, soft, ["ham", "spam"]).guard_
    assert record["after"] == record["before"] == [] and "loaded = trained" in record["checked"]


def test_fit_keeps_its_warnings(tiny_decoder: ModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = LoRAClassifier(str(tiny_decoder.folder), epochs=1, max_length=4, rank=2)
    with caplog.at_level(logging.WARNING):
        classifier.fit(TEXTS, LABELS)
    assert "before tuning" in caplog.text and "cut rows: 100% of the rows are longer than 4 tokens" in caplog.text
    again = slmkit.load_classifier(classifier.save(tmp_path / "m"))
    assert any("cut rows" in line for line in again.facts()["warnings"])


def test_a_failure_after_the_training_raises_and_leaves_a_fitted_classifier(
    tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Finding("head", FAIL, "it is lost", "guesses", "train again")
    monkeypatch.setitem(aftermath.FILES, "head", lambda out: bad)
    classifier = LoRAClassifier(str(tiny_decoder.folder), epochs=1, rank=2)
    with pytest.raises(
        InputError, match=r"after tuning .*: 1 check failed\n- head: it is lost; guesses -> train again"
    ):
        classifier.fit(TEXTS, LABELS)
    assert classifier.predict(TEXTS[:2]).shape == (2,)


def test_the_guard_works_on_mlx(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    plan = replace(labelled(tiny_decoder, TEXTS[:40], CODES[:40], epochs=5), engine=available("mlx"))
    assert {one.status for one in watch.before(plan)} == {OK}
    record = watch.after(plan, tmp_path, watch.train(plan, tmp_path))
    assert record["after"] == [] and {"weights moved", "target modules", "batched = single"} <= set(record["checked"])


def test_finetune_writes_what_was_found(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    import json

    rows = pd.DataFrame({"prompt": [f"What about {t}?" for t in (*GOOD, *BAD)], "answer": "No."})
    tuned = slmkit.finetune(
        str(tiny_chat_decoder.folder), rows, out=tmp_path / "x", backend="bnb", epochs=1, max_length=12
    )
    guard = json.loads((tuned.folder / "finetune.json").read_text(encoding="utf-8"))["guard"]
    assert {"end of answers", "train rows in test", "answers end", "held-out loss"} <= set(guard["checked"])
    assert "cut rows" in [entry["name"] for entry in guard["before"]] and len(guard["probes"]) == 5


def test_a_check_that_breaks_is_a_warning_and_the_rest_goes_on() -> None:
    def breaks(view: None) -> Finding:
        raise RuntimeError("no")

    one, two = findings.run({"a": breaks, "b": lambda view: findings.fine("b", "good")}, None)
    assert (one.status, two.status) == (WARN, OK) and "RuntimeError: no" in one.found
