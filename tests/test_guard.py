"""The guard names every mistake that is planted, on small real models and real rows, and is silent on clean ones."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import slmkit
from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.backends.base import LoRAConfig
from slmkit.classify import LoRAClassifier
from slmkit.errors import InputError
from slmkit.guard import aftermath, checks, findings, reloaded, watch
from slmkit.guard.findings import FAIL, OK, WARN, Finding
from slmkit.guard.plan import Outcome, Plan

GOOD = ("see you at lunch", "the train is late", "thanks for the flowers", "lovely to see you", "lunch is at ten")
BAD = ("you have won a prize", "confirm your password", "claim it now", "your card is blocked", "call to claim money")
TEXTS = [f"{text} {n}" for n in range(12) for pair in zip(GOOD, BAD, strict=True) for text in pair]
CODES = np.arange(len(TEXTS)) % 2
LABELS = np.array(["ham", "spam"])[CODES].tolist()
ASKED = [[{"role": "user", "content": text}] for text in ("Is this fraud?", "Is the train late?", "Call now?")]
TOLD = ["Yes, call the bank.", "No.", "No, wait."]
CONFIG = LoRAConfig(rank=4, alpha=8, epochs=3, batch_size=16, learning_rate=5e-3, max_length=64)
TALK = LoRAConfig(rank=8, alpha=32, epochs=24, batch_size=3, learning_rate=2e-2, max_length=64)
NAMED = {**checks.BEFORE, **aftermath.FILES, **reloaded.LOADED}


def labelled(source: ModelSource, texts: Sequence[str] = TEXTS, codes: np.ndarray = CODES, **how: Any) -> Plan:
    config = replace(CONFIG, **{name: how.pop(name) for name in list(how) if hasattr(CONFIG, name)})
    return Plan(backends.get("bnb"), source, 16, config, texts, codes, ["ham", "spam"], **how)


def talking(source: ModelSource, **how: Any) -> Plan:
    engine = backends.get("bnb")
    prompts = engine.dialogue_prompts(source, ASKED)
    return Plan(engine, source, 16, TALK, **{"texts": prompts, "answers": TOLD, "questions": ASKED, **how})


def look(check: str, view: Any) -> Finding:
    found = NAMED[check](view)
    assert found is not None, f"{check} had nothing to look at"
    return found


def variant(source: ModelSource, folder: Path, **changes: Any) -> ModelSource:
    """The same model with other values in its tokenizer_config.json."""
    import json

    shutil.copytree(source.folder, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return replace(source, name=str(folder), folder=folder)


@pytest.fixture(scope="module")
def trained(tiny_decoder: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, Any]:
    """A plan, and what its training left."""
    plan, folder = labelled(tiny_decoder), tmp_path_factory.mktemp("trained")
    return plan, folder, watch.train(plan, folder)


@pytest.fixture
def outcome(trained: Any, tmp_path: Path) -> Callable[..., Outcome]:
    """A copy of the trained folder, with tensors changed: `outcome({"weight": ...}, "head.safetensors")`."""
    plan, folder, history = trained

    def make(change: Callable[[dict[str, Any]], dict[str, Any]] = dict, file: str = "head.safetensors") -> Outcome:
        own = tmp_path / "adapter"
        shutil.copytree(folder, own)
        tensors = change(load_file(own / file))
        (own / file).unlink()
        if tensors:
            save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, own / file)
        how: dict[str, Any] = {"n_classes": 2, "max_length": 64, "classes": plan.classes}
        return Outcome(plan.source, own, plan, history=history, **how)

    return make


@pytest.fixture
def loaded(outcome: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """The same with the model loaded anew."""

    def make(change: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Outcome:
        out = outcome(change)
        assert out.plan is not None
        return replace(out, model=out.plan.engine.load(out.source, adapter=out.folder))

    return make


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


def test_an_end_inside_an_answer(tiny_chat_decoder: ModelSource) -> None:
    found = look("end of answers", talking(tiny_chat_decoder, answers=["Yes.</s> Call the bank.", "No.", "No."]))
    assert found.status == WARN and "1 answers hold an end token" in found.found


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

    monkeypatch.setattr(loop.Loop, "_collect", lambda self: [setattr(p, "grad", None) for p in self.lora])
    with pytest.raises(InputError, match="3 steps of tuning .* tried before it: 1 check failed"):
        watch.before(plan)


# after


def test_a_clean_training_is_silent(trained: Any) -> None:
    record = watch.after(*trained)
    assert record["after"] == [] and {"weights moved", "target modules", "loss falls"} <= set(record["checked"])
    assert {"head", "head not quantised", "batched = single", "loaded = trained", "one class"} <= set(record["checked"])
    assert np.shape(record["probes"]) == (5, 2) and record["seconds"] > 0


def test_an_adapter_that_did_not_move(outcome: Callable[..., Outcome]) -> None:
    frozen = lambda tensors: {n: t * (0 if "lora_B" in n else 1) for n, t in tensors.items()}  # noqa: E731
    found = look("weights moved", outcome(frozen, "adapter_model.safetensors"))
    assert found.status == FAIL and found.evidence == {"still": 14, "matrices": 14}


def test_one_block_that_did_not_move(outcome: Callable[..., Outcome]) -> None:
    half = lambda tensors: {n: t * (0 if "layers.0" in n else 1) for n, t in tensors.items()}  # noqa: E731
    found = look("weights moved", outcome(half, "adapter_model.safetensors"))
    assert found.status == WARN and found.evidence["still"] == 7 and "layers.0" in found.found


def test_layers_that_the_adapter_leaves_alone(outcome: Callable[..., Outcome]) -> None:
    some = lambda tensors: {n: t for n, t in tensors.items() if "q_proj" in n or "v_proj" in n}  # noqa: E731
    found = look("target modules", outcome(some, "adapter_model.safetensors"))
    assert found.status == WARN and "down_proj, gate_proj, k_proj, o_proj, up_proj of llama alone" in found.found


def test_targets_that_match_nothing(outcome: Callable[..., Outcome]) -> None:
    none = lambda tensors: {n: t for n, t in tensors.items() if "lora_A" in n}  # noqa: E731
    assert look("target modules", outcome(none, "adapter_model.safetensors")).status == FAIL


def test_a_loss_that_does_not_fall_and_one_that_rises(trained: Any, tmp_path: Path) -> None:
    plan, _, _ = trained
    for rate, status in ((1e-9, WARN), (10.0, FAIL)):
        slow, folder = replace(plan, config=replace(plan.config, learning_rate=rate)), tmp_path / str(rate)
        folder.mkdir()
        out = Outcome(plan.source, folder, slow, history=watch.train(slow, folder), n_classes=2)
        assert look("loss falls", out).status == status, look("loss falls", out)


def test_a_head_that_is_lost_or_was_never_trained(outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    for number, (change, said) in enumerate(
        (
            (lambda t: {}, "is not there"),
            (lambda t: {"weight": t["weight"][:1], "bias": t["bias"][:1]}, "for 2 classes"),
            (lambda t: {"weight": t["weight"][:, :64], "bias": t["bias"]}, "the base model has 128"),
            (lambda t: {"weight": 0.02 * t["weight"].normal_(), "bias": t["bias"] * 0}, "never trained"),
            (lambda t: {"weight": t["weight"] * float("nan"), "bias": t["bias"]}, "no numbers"),
        )
    ):
        found = look("head", outcome(change))
        assert found.status == FAIL and said in found.found, (number, found)
        shutil.rmtree(tmp_path / "adapter")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_head_that_was_quantised(outcome: Callable[..., Outcome], bits: int) -> None:
    def rounded(tensors: dict[str, Any]) -> dict[str, Any]:
        blocks = tensors["weight"].reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return {**tensors, "weight": ((blocks / scale).round() * scale).reshape(tensors["weight"].shape)}

    found = look("head not quantised", outcome(rounded))
    assert found.status == FAIL and f"grid of {bits} bits" in found.found


def test_a_place_read_that_is_padding(loaded: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    out = loaded()
    assert look("batched = single", out).status == OK
    from slmkit.backends._torch import scoring

    padded = scoring.pad

    def unmasked(*given: Any) -> Any:
        ids, mask = padded(*given)
        return ids, mask * 0 + 1

    monkeypatch.setattr(scoring, "pad", unmasked)
    found = look("batched = single", out)
    assert found.status == FAIL and "not the last token" in found.found


def test_batched_is_single_whatever_side_the_tokenizer_pads(trained: Any, tmp_path: Path) -> None:
    plan, folder, history = trained
    left = variant(plan.source, tmp_path / "left", padding_side="left")
    with plan.engine.load(left, adapter=folder) as model:
        out = Outcome(left, folder, replace(plan, source=left), model, history, 2, 64, plan.classes)
        assert look("batched = single", out).status == look("order of classes", out).status == OK


def test_a_head_made_up_on_loading(loaded: Callable[..., Outcome]) -> None:
    made_up = lambda tensors: {n: 0.02 * t.clone().normal_() for n, t in tensors.items()}  # noqa: E731
    found = look("loaded = trained", loaded(made_up))
    assert found.status == FAIL and found.evidence["loaded"] > 3 * found.evidence["training_ended"]


def test_classes_in_another_order(loaded: Callable[..., Outcome]) -> None:
    found = look("order of classes", loaded(lambda tensors: {n: t.flip(0) for n, t in tensors.items()}))
    assert found.status == FAIL and "'ham' comes out as 'spam', 'spam' comes out as 'ham'" in found.found
    assert found.evidence["accuracy"] < 0.1 < 0.9 < found.evidence["accuracy_permuted"]


def test_three_classes_of_which_two_are_swapped() -> None:
    codes = np.arange(30) % 3
    found = reloaded.permuted(codes, np.array([0, 2, 1])[codes], ["a", "b", "c"])
    assert found.status == FAIL and "'b' comes out as 'c', 'c' comes out as 'b'" in found.found
    assert reloaded.permuted(codes, np.zeros(30, dtype=int), ["a", "b", "c"]).status == OK


def test_all_rows_in_one_class(loaded: Callable[..., Outcome]) -> None:
    stuck = lambda tensors: {**tensors, "bias": tensors["bias"] + tensors["bias"].new_tensor([99.0, 0.0])}  # noqa: E731
    found = look("one class", loaded(stuck))
    assert found.status == WARN and "come out as 'ham'" in found.found


def test_a_model_that_cannot_stop_and_one_that_can(
    tiny_chat_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, whole = talking(tiny_chat_decoder), completions.pairs
    for ends, status in ((True, OK), (False, WARN)):
        if not ends:

            def endless(*given: Any, **how: Any) -> Any:
                rows, kept = whole(*given, **how)
                return [shared.Pair(row.read[:-1], row.target[:-1]) for row in rows], kept

            monkeypatch.setattr(completions, "pairs", endless)
        folder = tmp_path / str(ends)
        folder.mkdir()
        history = watch.train(plan, folder)
        with plan.engine.load(plan.source, adapter=folder) as model:
            out = Outcome(plan.source, folder, plan, model, history)
            assert look("answers end", out).status == status
            assert look("same template", out).status == OK
            if ends:
                assert look("loaded = trained", out).status == OK
                with plan.engine.load(plan.source) as untuned:
                    assert look("loaded = trained", replace(out, model=untuned)).status == FAIL


def test_another_template_than_that_of_the_training(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    plan = talking(tiny_chat_decoder)
    other = variant(tiny_chat_decoder, tmp_path / "m")
    (other.folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with plan.engine.load(other) as model:
        found = look("same template", Outcome(plan.source, tmp_path, plan, model))
    assert found.status == FAIL and "row 0 was learned as '<s><|user|>Is this fraud?" in found.found


def test_held_out_answers_that_did_not_gain(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    assert look("held-out loss", Outcome(tiny_decoder, tmp_path, losses=(2.0, 2.1))).status == WARN
    assert look("held-out loss", Outcome(tiny_decoder, tmp_path, losses=(2.0, 1.9))).status == OK


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
