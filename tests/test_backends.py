"""What a backend is: every one that can run here must pass this file; one that cannot is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available
from safetensors.numpy import load_file

from slmkit import assets, backends
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend, LanguageModel, LoRAConfig
from slmkit.errors import AssetError, InputError

BITS_MESSAGE = "bits must be one of 4, 8, 16; got 5"
SHOTS = "Text: the bank wrote to you about your card. Label: spam\nText: see you at lunch tomorrow. Label: ham\n"
PROMPTS = [
    f"{SHOTS}Text: you have won a free prize. Label:",
    f"{SHOTS}Text: the train is late again, thanks for the flowers, they are lovely. Label:",
    f"{SHOTS}Text: call now. Label:",
]
LABELS = [" spam", " ham", " neutral"]
TEXTS = [
    "You have won a free prize, call now!",
    "See you at lunch tomorrow.",
    "Claim it now",
    "The train is late again",
] * 4
Y = np.array([1, 0, 1, 0] * 4)
LORA = LoRAConfig(rank=4, alpha=8, epochs=6, batch_size=8, learning_rate=5e-3, max_length=32, max_batch_tokens=64)


@pytest.fixture(scope="module", params=backends.names())
def backend(request: pytest.FixtureRequest) -> Backend:
    return available(request.param)


@pytest.fixture(scope="module")
def source(backend: Backend, tiny_decoder: ModelSource) -> ModelSource:
    return assets.resolve("dummy") if backend.name == "dummy" else tiny_decoder


@pytest.fixture(scope="module")
def model(backend: Backend, source: ModelSource) -> Iterator[LanguageModel]:
    with backend.load(source, bits=16, dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module", params=[16, 4])
def trained(
    request: pytest.FixtureRequest, backend: Backend, source: ModelSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, list[dict[str, float]], list[dict[str, Any]]]:
    """An adapter trained after a model of the same source has scored."""
    out, told = tmp_path_factory.mktemp("adapter"), []
    scored = backend.load(source, bits=request.param)
    scored.loglikelihood(PROMPTS, LABELS)
    history = backend.train_lora(
        source, TEXTS, Y, n_classes=2, bits=request.param, config=LORA, out=out, callback=lambda d: told.append(dict(d))
    )
    scored.release()
    return out, request.param, history, told


def test_three_backends_are_found_by_file_name() -> None:
    assert backends.names() == ["bnb", "dummy", "mlx"]


def test_reason_is_one_sentence_and_dummy_is_never_chosen_unasked(backend: Backend) -> None:
    _, reason = backend.is_available()
    assert len(reason) > 10 and "\n" not in reason
    assert backends.choose().name != "dummy"


# log-likelihood


def test_loglikelihood_is_float64_negative_and_shaped_prompts_by_continuations(model: LanguageModel) -> None:
    values = model.loglikelihood(PROMPTS, LABELS[:2])
    assert values.shape == (3, 2) and values.dtype == np.float64
    assert np.isfinite(values).all() and (values < 0).all()
    assert model.loglikelihood([], LABELS).shape == (0, 3)


def test_loglikelihood_batched_equals_single_and_keeps_the_order(model: LanguageModel) -> None:
    together = model.loglikelihood(PROMPTS, LABELS)
    single = np.array([[model.loglikelihood([p], [c])[0, 0] for c in LABELS] for p in PROMPTS])
    np.testing.assert_allclose(together, single, atol=1e-3)
    np.testing.assert_allclose(model.loglikelihood(PROMPTS[::-1], LABELS[::-1]), together[::-1, ::-1], atol=1e-3)


def test_loglikelihood_does_not_depend_on_sharing_a_prefix(model: LanguageModel) -> None:
    together = model.loglikelihood(PROMPTS, LABELS)
    mixed = model.loglikelihood([*PROMPTS, "Nothing in common:"], LABELS)
    np.testing.assert_allclose(mixed[:3], together, atol=1e-3)


def test_loglikelihood_of_two_words_is_the_sum_of_both(model: LanguageModel) -> None:
    both = model.loglikelihood(PROMPTS, [" spam ham"])[:, 0]
    first = model.loglikelihood(PROMPTS, [" spam"])[:, 0]
    second = model.loglikelihood([p + " spam" for p in PROMPTS], [" ham"])[:, 0]
    np.testing.assert_allclose(both, first + second, atol=1e-3)
    assert (both < first).all()


def test_one_token_continuations_have_at_most_probability_one(model: LanguageModel) -> None:
    prompt = "Label:"
    candidates = [chr(c) for c in range(33, 127)] + [" " + w for w in f"{SHOTS} positive negative".split()]
    n = model.count_tokens([prompt])[0]
    one_token = [c for c in dict.fromkeys(candidates) if model.count_tokens([prompt + c])[0] == n + 1]
    assert len(one_token) > 50
    assert 0 < np.exp(model.loglikelihood([prompt], one_token)).sum() <= 1 + 1e-6


def test_white_space_at_the_end_of_a_prompt_moves_to_the_continuation(model: LanguageModel) -> None:
    np.testing.assert_allclose(
        model.loglikelihood(["Label: "], ["spam"])[0, 0], model.loglikelihood(["Label:"], [" spam"])[0, 0], atol=1e-3
    )


def test_empty_and_huge_texts_are_scored_and_an_empty_continuation_is_refused(model: LanguageModel) -> None:
    assert np.isfinite(model.loglikelihood(["", "fraud " * 17_000], LABELS)).all()
    with pytest.raises(InputError, match="continuations must not be empty"):
        model.loglikelihood(["Label:"], [""])


# embeddings


@pytest.mark.parametrize("pooling", ["mean", "last", None])
def test_embed_batched_equals_single_in_the_order_given(model: LanguageModel, pooling: str | None) -> None:
    texts = ["a", "the bank wrote to you about your account " * 3, "", "lunch tomorrow"]
    together = model.embed(texts, pooling=pooling)
    assert together.dtype == np.float32 and together.shape[0] == 4 and np.isfinite(together).all()
    np.testing.assert_allclose(together, np.concatenate([model.embed([t], pooling=pooling) for t in texts]), atol=1e-4)
    np.testing.assert_allclose(model.embed(texts[::-1], pooling=pooling), together[::-1], atol=1e-4)


def test_embed_pools_by_mean_unless_told(model: LanguageModel) -> None:
    np.testing.assert_array_equal(model.embed(TEXTS[:2]), model.embed(TEXTS[:2], pooling="mean"))
    assert np.abs(model.embed(TEXTS[:2]) - model.embed(TEXTS[:2], pooling="last")).max() > 0.01
    with pytest.raises(InputError, match="pooling must be one of mean, last or None; got 'cls'"):
        model.embed(TEXTS, pooling="cls")


def test_embed_keeps_the_beginning_of_a_text(model: LanguageModel) -> None:
    n = int(model.count_tokens(["the bank wrote"])[0])
    cut = model.embed(["the bank wrote to you"], pooling="last", max_length=n)
    np.testing.assert_allclose(cut, model.embed(["the bank wrote"], pooling="last"), atol=1e-4)
    assert np.isfinite(model.embed(["fraud " * 17_000])).all()


# bits


@pytest.mark.parametrize(("bits", "least", "share"), [(8, 0.98, 0.65), (4, 0.7, 0.45)])
def test_fewer_bits_are_near_sixteen_and_take_fewer_bytes(
    backend: Backend, source: ModelSource, bits: int, least: float, share: float, width: int
) -> None:
    with backend.load(source, bits=16) as full, backend.load(source, bits=bits) as small:
        pairs = zip(full.embed(TEXTS[:4]), small.embed(TEXTS[:4]), strict=True)
        assert min(np.corrcoef(a, b)[0, 1] for a, b in pairs) > least
        assert small.weight_bytes() < share * full.weight_bytes()
        assert small.n_parameters() == full.n_parameters()
        assert full.weight_bytes() == (width if backend.name == "bnb" else 2) * full.n_parameters()
        assert (small.bits, full.bits, full.scheme != small.scheme) == (bits, 16, True)


def test_five_bits_are_refused_everywhere(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(InputError) as loading:
        backend.load(source, bits=5)
    with pytest.raises(InputError) as training:
        backend.train_lora(source, TEXTS, Y, n_classes=2, bits=5, config=LORA, out=tmp_path)
    assert str(loading.value) == str(training.value) == BITS_MESSAGE


# training


def test_lora_loss_falls_after_the_model_has_scored(trained: tuple[Any, ...]) -> None:
    _, _, history, _ = trained
    losses = [entry["loss"] for entry in history]
    assert len(losses) == 12  # 6 epochs of 16 rows, 8 a step
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:2])
    assert {"step", "epoch", "loss", "learning_rate", "tokens", "seconds"} <= set(history[0])
    assert [entry["step"] for entry in history] == list(range(1, 13))
    assert history[-1]["learning_rate"] < 0.1 * LORA.learning_rate


def test_training_tells_how_far_it_is(trained: tuple[Any, ...]) -> None:
    _, _, _, told = trained
    assert {"step", "steps", "epoch", "loss", "tokens_per_s", "seconds_left"} <= set(told[0])
    assert told[0]["steps"] == 12 and told[0]["tokens_per_s"] > 0 and told[0]["seconds_left"] >= 0


def test_adapter_comes_back_with_its_head(backend: Backend, source: ModelSource, trained: tuple[Any, ...]) -> None:
    folder, bits, _, _ = trained
    head = load_file(folder / "head.safetensors")
    with backend.load(source, bits=bits, adapter=folder) as model, backend.load(source, bits=bits) as plain:
        vectors = model.embed(TEXTS, pooling="last", max_length=LORA.max_length)
        before = plain.embed(TEXTS, pooling="last", max_length=LORA.max_length)
        assert model.weight_bytes() == plain.weight_bytes()
    with backend.load(source, bits=bits, adapter=folder) as again:
        np.testing.assert_array_equal(again.embed(TEXTS, pooling="last", max_length=LORA.max_length), vectors)
    assert head["weight"].shape == (2, vectors.shape[1]) and head["bias"].shape == (2,)
    assert head["weight"].dtype == head["bias"].dtype == np.float32
    assert ((vectors @ head["weight"].T + head["bias"]).argmax(axis=1) == Y).all()
    if backend.name != "dummy":  # whose adapter is a head alone
        assert np.abs(vectors - before).max() > 0.05


def test_training_stops_when_the_callback_raises(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.train_lora(source, TEXTS, Y, n_classes=2, bits=16, config=LORA, out=tmp_path, callback=interrupt)


def test_training_names_everything_that_is_wrong(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    wrong = replace(LORA, rank=0, last_blocks=0)
    with pytest.raises(InputError) as error:
        backend.train_lora(source, TEXTS, Y + 1, n_classes=2, bits=16, config=wrong, out=tmp_path)
    for part in ("y must lie in 0 .. 1; got 1 .. 2", "rank must be above 0; got 0", "last_blocks must be at least 1"):
        assert part in str(error.value)


def test_certain_probabilities_train_as_labels_do(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("labels", "probabilities")]
    for folder, y in zip(folders, (Y, np.eye(2)[Y]), strict=True):
        folder.mkdir()
        backend.train_lora(source, TEXTS, y, n_classes=2, bits=16, config=replace(LORA, epochs=1), out=folder)
    heads = [load_file(folder / "head.safetensors")["weight"] for folder in folders]
    np.testing.assert_allclose(*heads, atol=1e-4)
    assert np.abs(heads[0]).max() > 1e-3


def test_probabilities_are_learned_as_they_are(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    """The model says after training what it was told, not only which is likelier."""
    target = np.array([[0.7, 0.3], [0.1, 0.9], [0.55, 0.45], [0.2, 0.8]] * 4)
    config = replace(LORA, epochs=300 if backend.name == "dummy" else 8)  # which trains a linear head alone
    backend.train_lora(source, TEXTS, target, n_classes=2, bits=16, config=config, out=tmp_path)
    head = load_file(tmp_path / "head.safetensors")
    with backend.load(source, adapter=tmp_path) as model:
        logits = model.embed(TEXTS[:4], pooling="last", max_length=LORA.max_length) @ head["weight"].T + head["bias"]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, target[:4], atol=0.1)


def test_probabilities_that_are_none_are_refused(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    for y in (np.full((16, 2), 0.4), np.full((16, 3), 1 / 3), np.array([[1.5, -0.5]] * 16)):
        with pytest.raises(InputError, match="probabilities of 2 classes, shape .* that sum to 1 in each row; got"):
            backend.train_lora(source, TEXTS, y, n_classes=2, bits=16, config=LORA, out=tmp_path)


def test_a_folder_that_is_no_adapter_is_refused(backend: Backend, source: ModelSource, tmp_path: Path) -> None:
    with pytest.raises((InputError, AssetError), match="adapter"):
        backend.load(source, adapter=tmp_path)


# generation


def test_generate_is_greedy_repeatable_and_equals_the_joined_stream(model: LanguageModel) -> None:
    first, second = model.generate(["The bank", "See you"], 12), model.generate(["The bank", "See you"], 12)
    assert [g.text for g in first] == [g.text for g in second]
    assert "".join(model.stream("See you", 12)) == first[1].text != ""
    assert [g.n_prompt_tokens for g in first] == model.count_tokens(["The bank", "See you"]).tolist()
    assert all(0 < g.n_new_tokens <= 12 and g.seconds > 0 for g in first)
    assert all((g.finish_reason == "length") == (g.n_new_tokens == 12) for g in first)
    assert model.generate(["The bank"], 1)[0].n_new_tokens <= 1


def test_generation_is_cut_before_a_stop_string(model: LanguageModel) -> None:
    full = model.generate(["The bank"], 16)[0].text
    stop = full[5:8]
    cut = model.generate(["The bank"], 16, stop=["\x07", stop])[0]
    assert cut.text == full[: full.index(stop)] and cut.finish_reason == "stop"
    assert "".join(model.stream("The bank", 16, stop=[stop])) == cut.text


def test_sampling_follows_its_seed(model: LanguageModel) -> None:
    def sample(seed: int) -> str:
        return model.generate(["The bank"], 12, temperature=2.0, seed=seed)[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
    with pytest.raises(InputError, match="temperature must be 0"):
        model.generate(["The bank"], 4, temperature=-1)
    with pytest.raises(InputError, match="max_new_tokens must be at least 1; got 0"):
        model.generate(["The bank"], 0)


# tokens, chat, life


def test_tokens_are_counted_with_the_special_ones(model: LanguageModel) -> None:
    counts = model.count_tokens(["", "a", "a a a"])
    assert counts.dtype == np.int64 and counts.shape == (3,)
    assert counts[0] == 1 and counts[1] == 2 and counts[2] > 3


def test_a_model_without_template_renders_no_chat(model: LanguageModel) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        model.chat_prompt([{"role": "user", "content": "hello"}])


def test_chat_is_rendered_once_and_read_with_one_bos(backend: Backend, tiny_chat_decoder: ModelSource) -> None:
    if backend.name == "dummy":
        pytest.skip("the dummy backend has no chat model")
    with backend.load(tiny_chat_decoder, dtype="float32") as model:
        prompt = model.chat_prompt([{"role": "user", "content": "Is this fraud?"}])
        assert prompt == "<s><|user|>Is this fraud?</s><|assistant|>"
        bare = prompt.removeprefix("<s>")
        assert model.count_tokens([prompt])[0] == model.count_tokens([bare])[0]
        np.testing.assert_allclose(*(model.loglikelihood([p], [" no"]) for p in (prompt, bare)), atol=1e-4)
        np.testing.assert_allclose(model.embed([prompt]), model.embed([bare]), atol=1e-5)
        assert model.generate([prompt], 6)[0].text == model.generate([bare], 6)[0].text


def test_a_released_model_says_so(backend: Backend, source: ModelSource) -> None:
    with backend.load(source) as model:
        model.synchronize()
    model.release()
    uses = (
        lambda: model.loglikelihood(["a"], [" b"]),
        lambda: model.embed(["a"]),
        lambda: model.generate(["a"], 2),
        lambda: list(model.stream("a", 2)),
        lambda: model.count_tokens(["a"]),
    )
    for use in uses:
        with pytest.raises(InputError, match="was released; load it again"):
            use()


# between backends


def test_encoders_embed_on_bnb_and_are_refused_elsewhere(backend: Backend, tiny_encoder: ModelSource) -> None:
    if backend.name != "bnb":
        with pytest.raises(InputError, match="use backend bnb for encoders|must be 'dummy'"):
            backend.load(tiny_encoder)
        return
    with backend.load(tiny_encoder, dtype="float32") as model:
        vectors = model.embed(["see you", "the bank wrote to you about your account"])
        assert vectors.shape == (2, 64)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(model.embed(["see you"]), vectors[:1], atol=1e-5)
        with pytest.raises(InputError, match="encoder"):
            model.loglikelihood(["a"], [" b"])


def test_bnb_and_mlx_agree(tiny_decoder: ModelSource) -> None:
    engines = [available(name) for name in ("bnb", "mlx")]
    with (
        engines[0].load(tiny_decoder, dtype="float32") as torch_model,
        engines[1].load(tiny_decoder, dtype="float32") as mlx_model,
    ):
        prompts = [*PROMPTS, "", "Label: ", "The bank wrote " * 60]
        labels = [*LABELS, " spam and ham", "s"]
        np.testing.assert_allclose(
            torch_model.loglikelihood(prompts, labels), mlx_model.loglikelihood(prompts, labels), atol=1e-3
        )
        for pooling in ("mean", "last"):
            a, b = (m.embed(TEXTS[:4], pooling=pooling) for m in (torch_model, mlx_model))
            np.testing.assert_allclose(a, b, atol=1e-3)
        assert torch_model.generate(["The bank"], 8)[0].text == mlx_model.generate(["The bank"], 8)[0].text
        assert torch_model.count_tokens(TEXTS).tolist() == mlx_model.count_tokens(TEXTS).tolist()
        assert torch_model.n_parameters() == mlx_model.n_parameters()
