"""The guard after a training names every mistake that is planted in what it left, and is silent on a whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guard_plans import labelled, look, talking, variant
from safetensors.torch import load_file, save_file

from slmkit.assets import ModelSource
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.guard import reloaded, watch
from slmkit.guard.findings import FAIL, OK, WARN
from slmkit.guard.plan import Outcome, Plan


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
    plan, _, healthy = trained
    for rate, before, status in ((1e-9, [], WARN), (1.0, healthy, FAIL)):  # diverged at once, it ends where it began
        other, folder = replace(plan, config=replace(plan.config, learning_rate=rate)), tmp_path / str(rate)
        folder.mkdir()
        out = Outcome(plan.source, folder, other, history=[*before, *watch.train(other, folder)], n_classes=2)
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


def test_an_adapter_that_does_not_load_is_a_finding_and_no_crash(trained: Any, tmp_path: Path) -> None:
    plan, folder, history = trained
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / "adapter_config.json").unlink()
    (entry,) = watch.after(plan, tmp_path / "x", history)["after"]
    assert (entry["name"], entry["status"]) == ("loads", FAIL) and "adapter_config.json" in entry["found"]
