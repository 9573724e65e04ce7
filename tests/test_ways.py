"""Every way to tune, for labels and for answers, on both backends: it learns, comes back from disk, refuses plainly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available
from tuning_rows import ASKED, GOOD, LABELS, TEXTS, TOLD

import slmkit
from slmkit import adapters, assets, backends, classify, estimate
from slmkit.assets import ModelSource, tensors
from slmkit.backends.base import TRAINED, Backend, LoRAConfig
from slmkit.classify import LoRAClassifier
from slmkit.errors import AssetError, InputError, NotEnoughMemory
from slmkit.estimate import terms as parts
from slmkit.estimate.terms import Use
from slmkit.training import recipe, ways
from slmkit.tuning import merging

WHOLE = LoRAConfig(
    epochs=4, batch_size=4, learning_rate=1e-3, max_length=64, max_batch_tokens=512, trains="weights"
)  # fmt: skip


@pytest.fixture
def answers(tiny_chat_decoder: ModelSource, tmp_path: Path) -> Callable[..., tuple[list[float], Path]]:
    """Losses of a training on the four dialogues, and its folder."""

    def run(engine: Backend, named: str | None = None, **changes: Any) -> tuple[list[float], Path]:
        source = assets.resolve(named) if named else tiny_chat_decoder
        prompts = engine.dialogue_prompts(source, [[{"role": "user", "content": text}] for text in ASKED])
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        out.mkdir()
        config = replace(WHOLE, **changes)
        history = engine.train_completion(source, prompts, TOLD, bits=16, config=config, out=out)
        return [entry["loss"] for entry in history], out

    return run


def stored_names(path: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return set(file.keys())


# weights themselves


@pytest.mark.parametrize("last_blocks", [None, 1])
def test_trained_weights_come_back_as_the_tuned_model(
    backend: Backend, tiny_chat_decoder: ModelSource, answers: Callable[..., Any], last_blocks: int | None
) -> None:
    losses, out = answers(backend, last_blocks=last_blocks)
    assert losses[-1] < (0.4 if last_blocks is None else 0.9) * losses[0]
    prompts = backend.dialogue_prompts(tiny_chat_decoder, [[{"role": "user", "content": text}] for text in ASKED])
    with backend.load(tiny_chat_decoder, adapter=out) as model:
        nats, n_tokens = model.answer_loglikelihood(prompts, TOLD)
    assert -nats.sum() / n_tokens.sum() < losses[-1] + 0.05
    names = stored_names(out / TRAINED)
    of_blocks = {name for name in names if ".layers." in name}
    assert names == of_blocks if last_blocks else len(names - of_blocks) == 2  # the tied table, and the last norm
    assert not any(".layers.0." in name for name in names) if last_blocks else True


def test_both_backends_take_the_same_steps(answers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    available("mlx")
    monkeypatch.setattr("slmkit.backends._torch.device.best_dtype", lambda _: (torch.float32, "as mlx trains"))
    torch_losses, mlx_losses = (answers(backends.get(n), learning_rate=2e-4, epochs=3)[0] for n in ("bnb", "mlx"))
    assert torch_losses[2] < 0.9 * torch_losses[0]
    np.testing.assert_allclose(torch_losses, mlx_losses, rtol=0.005)


def test_chunks_of_logits_give_the_head_the_whole_gradient(
    backend: Backend, answers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = answers(backend)
    module = "slmkit.backends._torch.objectives" if backend.name == "bnb" else "slmkit.backends._mlx.lora"
    monkeypatch.setattr(f"{module}.LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(answers(backend)[0], whole, rtol=0.03)


def test_weights_of_another_model_and_altered_ones_are_refused(
    backend: Backend, tiny_decoder: ModelSource, tiny_chat_decoder: ModelSource, answers: Callable[..., Any]
) -> None:
    _, out = answers(backend, epochs=1)
    other = replace(tiny_decoder, name="another-model", revision="sha256:other")
    with pytest.raises(AssetError, match=r"was trained on .*tiny-chat-decoder.*, not on another-model"):
        backend.load(other, adapter=out)
    with pytest.raises(InputError, match="take the place of .* own: bits must be 16; got 4"):
        backend.load(tiny_chat_decoder, bits=4, adapter=out)
    content = bytearray((out / TRAINED).read_bytes())
    content[-3] ^= 1
    (out / TRAINED).write_bytes(content)
    with pytest.raises(AssetError, match=r"trained\.safetensors was altered"):
        backend.load(tiny_chat_decoder, adapter=out)


def test_weights_in_few_bits_are_not_trained(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path) -> None:
    said = "full training changes the weights themselves, which needs 16 bits; got 4"
    with pytest.raises(InputError, match=said):
        backend.train_lora(
            tiny_decoder, TEXTS, np.arange(len(TEXTS)) % 2, n_classes=2, bits=4, config=WHOLE, out=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_what_training_weights_takes_is_counted_as_it_is_trained(tiny_decoder: ModelSource) -> None:
    torch = pytest.importorskip("torch")
    from slmkit.backends._torch import full, loading

    net = estimate.network_of(tiny_decoder.folder)
    for blocks in (None, 1):
        model = loading.load_module(tiny_decoder, 16, torch.bfloat16, torch.device("cpu"))
        opened = full.open_up(model, LoRAConfig(last_blocks=blocks, trains="weights"), head=True)
        counted = sum(p.numel() for p in full.trained(opened).values())
        predicted = parts.whole_parameters(net, Use(16, "full", last_blocks=blocks))
        assert predicted == pytest.approx(counted, rel=0.002)


def test_memory_is_asked_for_weights_and_not_for_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "2.5GB")  # a CPU without bfloat16 asks 2.04 for the adapter
    with pytest.raises(NotEnoughMemory, match="to train"):
        estimate.check_fits("smollm2-135m-instruct", 16, training=True, full=True)
    assert estimate.check_fits("smollm2-135m-instruct", 16, training=True)
    assert estimate.check_fits("smollm2-135m-instruct", 16, training=True, full=True, last_blocks=2)


# labels


@pytest.mark.parametrize("way", ways.WAYS)
def test_every_way_learns_labels_and_comes_back(tiny_decoder: ModelSource, tmp_path: Path, way: str) -> None:
    how = {"learning_rate": 1e-3} if way == "full" else {"learning_rate": 3e-3}
    tuned = LoRAClassifier(str(tiny_decoder.folder), way=way, epochs=4, batch_size=8, **how).fit(TEXTS, LABELS)
    proba = tuned.predict_proba(TEXTS)
    assert (proba.argmax(axis=1) == np.array([0, 1] * (len(TEXTS) // 2))).mean() > 0.9
    again = classify.load(tuned.save(tmp_path / "saved"))
    np.testing.assert_allclose(again.predict_proba(TEXTS), proba, atol=1e-5)
    facts = again.facts()
    assert facts["bits"] == (4 if way == "qlora" else 16)
    assert facts["stored_bytes"] < (1.05 if way == "full" else 3) * tuned._language_model().weight_bytes()
    if way == "last-k":
        config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
        assert config["layers_to_transform"] == [1]


@pytest.mark.parametrize("way", ["lora", "full"])
def test_an_encoder_learns_labels_from_the_mean_of_its_tokens(
    tiny_encoder: ModelSource, tmp_path: Path, way: str
) -> None:
    how = {"way": way, "epochs": 8, "learning_rate": 3e-3, "batch_size": 8, "backend": "bnb"}
    tuned = LoRAClassifier(str(tiny_encoder.folder), **how).fit(TEXTS, LABELS)
    losses = [entry["loss"] for entry in tuned.history_]
    assert losses[-1] < 0.3 * losses[0] and tuned.score(TEXTS, LABELS) > 0.95
    proba = tuned.predict_proba(TEXTS)
    near = np.mean([-np.log(row[LABELS[i] == "spam"]) for i, row in enumerate(proba.tolist())])
    assert near < losses[-1] + 0.1  # what was trained is what is asked
    again = classify.load(tuned.save(tmp_path / "saved"))
    np.testing.assert_allclose(again.predict_proba(TEXTS), proba, atol=1e-5)
    saved = tmp_path / "saved" / "adapter" / ("adapter_model.safetensors" if way == "lora" else TRAINED)
    assert not any("pooler" in name for name in stored_names(saved))


def test_an_encoder_on_mlx_and_answers_of_an_encoder_are_refused(
    tiny_encoder: ModelSource, tmp_path: Path, backend: Backend
) -> None:
    with pytest.raises(InputError, match="encoder"):
        backend.train_completion(tiny_encoder, ["a"], ["b"], bits=16, config=WHOLE, out=tmp_path)
    if backend.name == "mlx":
        with pytest.raises(InputError, match="mlx-lm runs decoders only"):
            LoRAClassifier(str(tiny_encoder.folder), backend="mlx").fit(TEXTS, LABELS)


def test_records_of_today_and_of_before_the_ways_are_one_configuration() -> None:
    of_old = {"alpha", "batch_size", "epochs", "last_blocks", "learning_rate", "max_batch_tokens", "max_length", "rank"}
    params = LoRAClassifier.settled(LoRAClassifier().get_params())
    assert set(params) - {"model", "bits", "backend", "seed"} == of_old and params["learning_rate"] == 5e-4
    assert LoRAClassifier.settled(LoRAClassifier(way="full").get_params())["learning_rate"] == 1e-4


def test_a_folder_of_few_bits_says_how_many(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    slmkit.quantize(str(tiny_decoder.folder), bits=4, out=tmp_path / "small", backend="bnb")
    name = str(tmp_path / "small")
    tuned = LoRAClassifier(name, epochs=1).fit(TEXTS, LABELS)
    assert tuned.facts()["bits"] == 4
    assert ways.choose("qlora", None, None, assets.resolve(name), writes=True) == (4, None)
    for way in ("full", "lora"):
        with pytest.raises(InputError, match=f"method '{way}' .*small is stored in 4 bits"):
            LoRAClassifier(name, way=way).fit(TEXTS, LABELS)


# what a training takes from its own rows


@pytest.fixture
def uneven() -> tuple[list[str], list[str]]:
    """Thirty rows that are ham and six that are spam, told apart by nothing but noise."""
    rng = np.random.default_rng(0)
    words = ["bank", "train", "parcel", "phone", "lunch", "price", "news", "card", "letter", "flower", "link", "fee"]
    texts = [" ".join(rng.choice(words, 5)) + f" {i}" for i in range(36)]
    return texts, ["ham"] * 30 + ["spam"] * 6


@pytest.mark.parametrize("name", ["bnb", "mlx", "dummy"])
def test_balanced_classes_make_a_rare_class_as_likely(
    tiny_decoder: ModelSource, uneven: tuple[list[str], list[str]], name: str
) -> None:
    available(name)
    model = "dummy" if name == "dummy" else str(tiny_decoder.folder)
    how: dict[str, Any] = {"backend": name, "epochs": 3, "batch_size": 36, "learning_rate": 3e-3, "checks": False}
    plain, balanced = (
        LoRAClassifier(model, **how, class_weight=w).fit(*uneven).predict_proba(uneven[0])[:, 1].mean()
        for w in (None, "balanced")
    )
    assert plain < balanced and balanced - plain > 0.02


def test_class_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    codes = np.array([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    np.testing.assert_allclose(recipe.class_weights("balanced", codes, 3), expected)
    assert recipe.class_weights(None, codes, 3) is None
    with pytest.raises(InputError, match="class_weight must be 'balanced' or None; got 'even'"):
        recipe.class_weights("even", codes, 2)


def test_the_length_that_99_of_100_texts_need_is_read_and_the_cut_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"{text} {n}" for n, text in enumerate(["short one", "a long row"] * 100)]
    texts[17] = "x" * 90
    with caplog.at_level("WARNING"):
        tuned = LoRAClassifier("dummy", max_length=None, epochs=1, checks=False).fit(texts, ["a", "b"] * 100)
    assert tuned.max_length_ == 16 and "row 17 longer, cut at the end" in caplog.text
    again = classify.load(tuned.save(tmp_path / "saved"))
    np.testing.assert_allclose(again.predict_proba(texts[16:19]), tuned.predict_proba(texts[16:19]))
    assert again.max_length_ == 16


def test_early_stopping_keeps_the_best_epoch_and_learns_no_row_it_measures(
    uneven: tuple[list[str], list[str]],
) -> None:
    texts, labels = uneven
    codes = np.array([label == "spam" for label in labels], dtype=np.int64)
    learned, checked = recipe.validation(texts, codes, ["ham", "spam"], 0.1, 0)
    assert not set(learned) & set(checked)
    assert set(codes[checked]) == {0, 1} == set(codes[learned])
    tuned = LoRAClassifier("dummy", epochs=60, learning_rate=0.05, early_stopping=True, checks=False).fit(*uneven)
    losses = [entry["held_out_loss"] for entry in tuned.history_ if "held_out_loss" in entry]
    assert len(losses) < 60 and tuned.history_[-1]["stopped_early"] == 1
    assert losses.index(min(losses)) == len(losses) - 3  # two epochs without a lower one
    own = tuned.predict_proba([texts[i] for i in checked])[np.arange(len(checked)), codes[checked]]
    assert -np.log(own).mean() == pytest.approx(min(losses), abs=1e-4)


def test_a_class_that_cannot_be_validated_on_is_named() -> None:
    texts, labels = [f"text number {n}" for n in range(11)], ["a"] * 10 + ["b"]
    with pytest.raises(InputError, match="holds rows back for validation, and these allow none: class 'b' has one row"):
        LoRAClassifier("dummy", early_stopping=True, checks=False).fit(texts, labels)
    with pytest.raises(InputError, match="validation_share must be between 0 and 1; got 1"):
        LoRAClassifier("dummy", early_stopping=True, validation_share=1, checks=False).fit(texts, labels)


@pytest.mark.parametrize("rate", [0.0, -1e-3, 1e30, float("nan")])
def test_a_learning_rate_out_of_any_range_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="learning_rate must be above 0 and at most 1"):
        LoRAClassifier("dummy", learning_rate=rate).fit(TEXTS, LABELS)


# weights that travel


def test_weights_trained_on_one_backend_are_read_by_the_other(
    backend: Backend, tiny_chat_decoder: ModelSource, answers: Callable[..., Any], tmp_path: Path
) -> None:
    other = {"bnb": "mlx", "mlx": "bnb"}[backend.name]
    if not backends.get(other).is_available()[0]:
        pytest.skip(backends.get(other).is_available()[1])
    named = str(tiny_chat_decoder.folder)
    _, out = answers(backend, named, epochs=2)
    read = []
    for name in (backend.name, other):
        with backends.load(named, adapter=out, backend=name, dtype="float32") as model:
            read.append(model.embed(GOOD))
    with backends.load(named, backend=other, dtype="float32") as model:
        untrained = model.embed(GOOD)
    np.testing.assert_allclose(*read, atol=2e-3)
    assert np.abs(read[0] - untrained).max() > 0.05
    layout = adapters.LAYOUTS[other]
    again = adapters.convert(
        adapters.convert(out, tmp_path / "there", layout), tmp_path / "back", {"mlx": "peft", "peft": "mlx"}[layout]
    )
    for name in stored_names(out / TRAINED):
        np.testing.assert_array_equal(tensors.read_file(again / TRAINED, name), tensors.read_file(out / TRAINED, name))
    with pytest.raises(InputError, match="is in the layout"):
        adapters.convert(out, tmp_path / "same", adapters.LAYOUTS[backend.name])


def test_trained_weights_become_a_model_of_their_own(
    backend: Backend, tiny_chat_decoder: ModelSource, answers: Callable[..., Any], tmp_path: Path
) -> None:
    named = str(tiny_chat_decoder.folder)
    _, out = answers(backend, named, epochs=2)
    done = merging.merge(named, out, out=tmp_path / "merged")
    assert done.effect > 0.05 and done.shift_merged < 0.02 and done.backend == backend.name
    with backends.load(str(tmp_path / "merged"), backend=backend.name, dtype="float32") as model:
        merged = model.embed(GOOD)
    with backends.load(named, adapter=out, backend=backend.name, dtype="float32") as model:
        np.testing.assert_allclose(merged, model.embed(GOOD), atol=2e-2)


def test_falcons_weights_change_names_and_unknown_ones_say_what_to_do(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    def weights(name: str, *names: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file({one: np.ones(2, dtype=np.float32) for one in names}, folder / TRAINED)
        (folder / adapters.FACTS).write_text('{"backend": "bnb", "revision": "r"}')
        return folder

    falcon = weights("falcon", "transformer.h.1.ln_attn.weight", "transformer.ln_f.bias", "lm_head.weight")
    there = adapters.convert(falcon, tmp_path / "there", "mlx")
    assert stored_names(there / TRAINED) == {"model.h.1.ln_attn.weight", "model.ln_f.bias", "lm_head.weight"}
    bert = weights("bert", "encoder.layer.0.output.dense.weight")
    with pytest.raises(
        InputError, match=r"no name for in the layout 'mlx' \(encoder.* Put them into their model .*merge"
    ):
        adapters.convert(bert, tmp_path / "not", "mlx")
    assert not (tmp_path / "not").exists()
