"""Every architecture on every backend: the same numbers as transformers, and everything slmkit does with a model.

One row of the table in docs/architectures.md is made from these checks; `python -m tools.conformance_table`
writes it. A pair that cannot run is skipped with the backend's own reason, and the table says it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import BORDER, CASES, WINDOW, Case
from engines import available
from reference import Reference

import slmkit
from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.backends.base import LanguageModel, LoRAConfig
from slmkit.classify import EmbeddingClassifier, LoRAClassifier
from slmkit.errors import InputError
from tools import conformance_table as table

BANK = "The bank wrote to you about your account: please confirm your password at the link below"
TEXTS = [f"{BANK}, or your card will be blocked today.", "See you at lunch tomorrow.", "Call now!", f"{BANK} {BANK}."]
PROMPTS = [f"{BANK}. You have won a free prize. Label:", f"{BANK}. See you. Label:", "Is this a question? Answer:"]
LABELS = [" spam", " ham and flowers"]
CHAT = [{"role": "user", "content": "Is this fraud?"}]
Y = ["fraud", "ham", "ham", "fraud"]
NATS = 2e-3  # tolerance on a log-likelihood of tens of nats, computed in float32
ADAPTED_NATS = 0.01  # the same between merged weights and an adapter on packed ones
FOUND: table.Found = {}


@dataclass
class Cell:
    """An architecture on a backend, with what several checks use."""

    case: Case
    backend: str
    source: ModelSource
    folder: Path
    reason: str | None = None

    def load(self, source: ModelSource | None = None, **how: Any) -> LanguageModel:
        """A model that computes in float32."""
        return backends.get(self.backend).load(source or self.source, **{"dtype": "float32", **how})

    @cached_property
    def model(self) -> LanguageModel:
        return self.load()

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.source)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        return slmkit.catalog.get(self.case.entry).lora_targets

    @cached_property
    def classifier(self) -> Any:
        """A fitted classifier: LoRA on 4 bits for a decoder, a head on vectors for an encoder."""
        name = str(self.source.folder)
        if self.case.kind == "encoder":
            return EmbeddingClassifier(name, backend=self.backend).fit(TEXTS * 2, Y * 2)
        settings = {"rank": 4, "alpha": 8, "epochs": 6, "batch_size": 4, "learning_rate": 5e-3, "max_length": 48}
        return LoRAClassifier(name, bits=4, backend=self.backend, **settings).fit(TEXTS, Y)

    @cached_property
    def adapter(self) -> Path:
        return Path(self.classifier.save(self.folder / "classifier")) / "adapter"

    @cached_property
    def endless(self) -> LanguageModel:
        """The same model with an end token that it does not write."""
        last = self.case.shrunk().vocab - 1
        return self.load(self.variant(config={"eos_token_id": last}, tokenizer_config={"eos_token": None}))

    def variant(self, **changes: Mapping[str, Any]) -> ModelSource:
        """The same weights beside JSON files with other values: `config={...}`, `tokenizer_config={...}`."""
        folder = self.folder / f"variant-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        for path in self.source.folder.iterdir():
            (folder / path.name).symlink_to(path)
        for stem, values in changes.items():
            own = json.loads((self.source.folder / f"{stem}.json").read_text(encoding="utf-8"))
            (folder / f"{stem}.json").unlink()
            (folder / f"{stem}.json").write_text(json.dumps(own | dict(values)), encoding="utf-8")
        return ModelSource(str(folder), folder, f"{self.source.revision}-{folder.name}", self.case.kind, False)


def trait(column: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Note what a check found under a column of the table; a column holds when all its checks do."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @wraps(check)
        def noted(**given: Cell) -> None:
            (cell,) = given.values()
            results = FOUND[cell.case.name, cell.backend]
            earlier, results[column] = results.get(column, "yes"), "no"
            check(**given)
            results[column] = earlier

        return noted

    return decorate


PAIRS = list(product(CASES, ("bnb", "mlx")))


@pytest.fixture(scope="module", params=PAIRS, ids=[f"{case.name}-{name}".replace(" ", "") for case, name in PAIRS])
def opened(
    request: pytest.FixtureRequest, checkpoints: Callable[[Case], ModelSource], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cell]:
    case, name = request.param
    available(name)
    cell = Cell(case, name, checkpoints(case), tmp_path_factory.mktemp("cell"))
    FOUND[case.name, name] = {}
    try:
        cell.load()
    except InputError as error:
        cell.reason = str(error)
        FOUND[case.name, name] = {"refused": table.short_reason(cell.reason)}
    yield cell
    if "classifier" in cell.__dict__:
        cell.classifier.release()


@pytest.fixture
def cell(opened: Cell) -> Cell:
    if opened.reason:
        pytest.skip(opened.reason)
    return opened


@pytest.fixture
def decoder(cell: Cell) -> Cell:
    if cell.case.kind != "decoder":
        pytest.skip("an encoder writes and scores nothing")
    return cell


@trait("bits")
def test_fewer_bits_take_fewer_bytes_and_hold_every_parameter(cell: Cell) -> None:
    loaded = [cell.load(bits=bits) for bits in (16, 8, 4)]
    sixteen, eight, four = (model.weight_bytes() for model in loaded)
    assert four < eight < sixteen
    assert {model.n_parameters() for model in loaded} == {cell.reference.n_parameters}


@trait("bits")
def test_fewer_bits_stay_near_sixteen(cell: Cell) -> None:
    exact = cell.model.embed(TEXTS)
    for bits, least in ((8, 0.99), (4, 0.8)):
        vectors = cell.load(bits=bits).embed(TEXTS)
        nearness = (exact * vectors).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(vectors, axis=1)
        assert nearness.min() > least, (bits, nearness)


@trait("scores")
def test_log_likelihoods_are_those_of_transformers(decoder: Cell) -> None:
    assert len(decoder.reference.ids(PROMPTS[0])) > 2 * WINDOW
    found = decoder.model.loglikelihood(PROMPTS, LABELS)
    np.testing.assert_allclose(found, decoder.reference.loglikelihood(PROMPTS, LABELS), atol=NATS)


@trait("scores")
def test_a_config_as_transformers_writes_it_means_the_same(decoder: Cell) -> None:
    values = decoder.reference.model.config.to_dict()
    values["rope_parameters"].pop("type", None)  # the older name of rope_type, where the published file has it
    moved = decoder.variant(config={"rope_theta": None, "rope_scaling": None, **values})
    found = decoder.load(moved).loglikelihood(PROMPTS, LABELS)
    np.testing.assert_allclose(found, decoder.model.loglikelihood(PROMPTS, LABELS), atol=NATS)


@trait("scores")
def test_scores_of_a_batch_are_those_of_single_rows_whatever_side_the_tokenizer_pads(decoder: Cell) -> None:
    single = np.array([[decoder.model.loglikelihood([p], [c])[0, 0] for c in LABELS] for p in PROMPTS])
    for side in ("right", "left"):
        model = decoder.load(decoder.variant(tokenizer_config={"padding_side": side}))
        np.testing.assert_allclose(model.loglikelihood(PROMPTS, LABELS), single, atol=NATS)


@trait("scores")
def test_exactly_one_bos_with_and_without_template(decoder: Cell) -> None:
    tokenizer = decoder.reference.tokenizer
    bare = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] * (decoder.reference.ids(TEXTS[0])[0] == tokenizer.bos_token_id)
    assert decoder.model.count_tokens([TEXTS[0]])[0] == len(bos) + len(bare)
    if tokenizer.chat_template:
        prompt = decoder.model.chat_prompt(CHAT)
        read = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        read = read if read[:1] == bos else [*bos, *read]
        assert read.count(tokenizer.bos_token_id) == 1 or not bos
        assert decoder.model.count_tokens([prompt])[0] == len(read)
        assert shared.encode(tokenizer, [prompt]) == [read]


@trait("generate")
def test_text_is_the_likeliest_and_the_stream_joins_to_it(decoder: Cell) -> None:
    for prompt, n in ((PROMPTS[0], 4), (PROMPTS[2], 14)):
        assert (len(decoder.reference.ids(prompt)) <= BORDER < len(decoder.reference.ids(prompt)) + n) == (n == 14)
        (found,) = decoder.endless.generate([prompt], n)
        wanted = decoder.reference.tokenizer.decode(decoder.reference.greedy(prompt, n), skip_special_tokens=True)
        assert found.text == wanted != ""
        assert (found.finish_reason, found.n_new_tokens) == ("length", n)
    assert "".join(decoder.endless.stream(prompt, n)) == wanted


@trait("generate")
def test_text_ends_before_a_stop_string(decoder: Cell) -> None:
    model = decoder.endless
    (whole,) = model.generate([PROMPTS[0]], 8)
    stop = whole.text[2:4]
    (cut,) = model.generate([PROMPTS[0]], 8, stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"
    assert "".join(model.stream(PROMPTS[0], 8, stop=[stop])) == cut.text


@trait("generate")
def test_text_ends_at_every_end_token_of_the_config(decoder: Cell) -> None:
    tokens = decoder.reference.greedy(PROMPTS[0], 6)
    at = max(tokens.index(token) for token in tokens)
    unused = next(i for i in range(len(decoder.reference.tokenizer)) if i not in tokens)
    (found,) = decoder.load(decoder.variant(config={"eos_token_id": [unused, tokens[at]]})).generate([PROMPTS[0]], 6)
    assert (found.finish_reason, found.n_new_tokens) == ("stop", at)
    assert found.text == decoder.reference.tokenizer.decode(tokens[:at], skip_special_tokens=True)


@trait("generate")
def test_the_chat_template_is_the_tokenizers_own_and_its_turns_end_a_text(decoder: Cell) -> None:
    tokenizer, family = decoder.reference.tokenizer, slmkit.catalog.get(decoder.case.entry).family
    if family.template == "none":
        with pytest.raises(InputError, match="has no chat template"):
            decoder.model.chat_prompt(CHAT)
        return
    wanted = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert decoder.model.chat_prompt(CHAT) == wanted
    told = decoder.model.chat_prompt([{"role": "system", "content": "Answer yes or no."}, *CHAT])
    assert told.index("Answer yes or no.") < told.index("Is this fraud?") and told.count("Is this fraud?") == 1
    assert tokenizer.convert_tokens_to_ids(family.turn_end) in shared.end_tokens(tokenizer, None)


@trait("embed")
def test_vectors_are_pooled_hidden_states_of_transformers(cell: Cell) -> None:
    states = [cell.reference.hidden(cell.reference.ids(text)) for text in TEXTS]
    mean, last = np.stack([s.mean(0) for s in states]), np.stack([s[-1] for s in states])
    if cell.case.kind == "encoder":
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    for pooling, wanted in (("mean", mean), ("last", last)):
        found = cell.model.embed(TEXTS, pooling=pooling)
        assert found.shape == (len(TEXTS), cell.case.shrunk().hidden) and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=5e-4)


@trait("embed")
def test_vectors_of_a_batch_are_those_of_single_texts_whatever_side_the_tokenizer_pads(cell: Cell) -> None:
    single = np.concatenate([cell.model.embed([text], pooling="last") for text in TEXTS])
    for side in ("right", "left"):
        model = cell.load(cell.variant(tokenizer_config={"padding_side": side}))
        np.testing.assert_allclose(model.embed(TEXTS, pooling="last"), single, atol=5e-4)


@trait("embed")
def test_a_classifier_comes_back_from_its_folder_with_its_head(cell: Cell) -> None:
    before = cell.classifier.predict_proba(TEXTS)
    again = slmkit.load_classifier(cell.adapter.parent)
    np.testing.assert_allclose(again.predict_proba(TEXTS), before, atol=1e-5)
    assert np.ptp(before[:, 0]) > 0.01


@trait("LoRA")
def test_lora_moves_the_intended_layers_of_every_block_and_no_other(decoder: Cell) -> None:
    from safetensors.torch import load_file  # NumPy has no bfloat16

    (path,) = [p for p in decoder.adapter.glob("*.safetensors") if p.name != "head.safetensors"]
    arrays = {name.lower(): array for name, array in load_file(path).items()}
    moved = [name.split(".lora_b")[0].split(".") for name, array in arrays.items() if ".lora_b" in name and array.any()]
    found = {(next(int(part) for part in parts if part.isdigit()), parts[-1]) for parts in moved}
    assert found == set(product(range(decoder.case.shrunk().layers), decoder.targets))
    assert len(arrays) == 2 * len(found)


@trait("LoRA")
def test_the_loss_of_lora_on_four_bits_falls_and_is_that_of_the_saved_adapter_and_head(decoder: Cell) -> None:
    losses = [entry["loss"] for entry in decoder.classifier.history_]
    assert len(losses) == 6 and np.mean(losses[-2:]) < 0.6 * losses[0]
    columns = [decoder.classifier.classes_.tolist().index(label) for label in Y]
    right = slmkit.load_classifier(decoder.adapter.parent).predict_proba(TEXTS)[range(len(Y)), columns]
    assert -np.log(right).mean() < losses[-1] + 0.05


@trait("EOS")
def test_a_tuned_answer_ends_by_itself_and_is_asked_for_as_it_was_taught(decoder: Cell) -> None:
    texts = ("Is this message about your account fraud, yes or no?", "Is the train to the city late again, yes or no?")
    asked = [[{"role": "user", "content": text}] for text in texts]  # longer than the border of LongRoPE
    told, engine = ["Yes, call the bank.", "No."], backends.get(decoder.backend)
    out = decoder.folder / "answers"
    out.mkdir()
    prompts = engine.dialogue_prompts(decoder.source, asked)
    assert prompts == [decoder.model.dialogue_prompt(messages) for messages in asked]
    settings = {"rank": 8, "alpha": 32, "epochs": 24, "batch_size": 2, "learning_rate": 1e-2}
    history = engine.train_completion(decoder.source, prompts, told, bits=16, config=LoRAConfig(**settings), out=out)
    assert history[-1]["loss"] < 0.4 < history[0]["loss"]
    for found, answer in zip(decoder.load(adapter=out).generate(prompts, 24), told, strict=True):
        assert (found.text.strip(), found.finish_reason) == (answer, "stop")


@trait("EOS")
def test_answers_are_learned_after_the_prompt_that_generation_reads_with_one_bos(decoder: Cell) -> None:
    tokenizer = decoder.reference.tokenizer
    ends = shared.end_tokens(tokenizer, decoder.reference.model.config.eos_token_id)
    prompt = decoder.model.dialogue_prompt(CHAT)
    how = {"chat": decoder.source.chat, "ends": ends, "max_length": 512}
    ((pair,), _) = completions.pairs(tokenizer, [prompt], ["Yes, it is."], **how)
    (asked,) = shared.encode(tokenizer, [prompt])
    assert list(pair.read[: pair.start + 1]) == asked and pair.read[pair.start + 1 :] == pair.target[:-1]
    assert asked.count(tokenizer.bos_token_id) <= 1 or (tokenizer.chat_template and "<|im" in tokenizer.chat_template)
    assert pair.target[-1] in ends and not ends & set(pair.target[:-1])
    assert tokenizer.decode(pair.target, skip_special_tokens=True).strip() == "Yes, it is."


@trait("merged")
def test_a_merged_model_scores_as_the_adapter_does(decoder: Cell) -> None:
    if decoder.backend == "bnb":
        from slmkit.backends._torch.merging import merge
    else:
        from slmkit.backends._mlx.merging import merge
    out = decoder.folder / "merged"
    out.mkdir()
    merge(decoder.source, 4, decoder.adapter, out)
    merged = decoder.load(ModelSource(str(out), out, "merged", "decoder", False))
    adapted, plain = (decoder.load(bits=4, adapter=adapter) for adapter in (decoder.adapter, None))
    wanted = adapted.loglikelihood(PROMPTS, LABELS)
    np.testing.assert_allclose(merged.loglikelihood(PROMPTS, LABELS), wanted, atol=ADAPTED_NATS)
    assert np.abs(plain.loglikelihood(PROMPTS, LABELS) - wanted).max() > 10 * ADAPTED_NATS


def test_the_readme_shows_what_the_checks_found(pytestconfig: pytest.Config) -> None:
    """Last in this file: rows of pairs that were not checked in this run are taken as the page has them."""
    if pytestconfig.getoption("write_conformance"):
        table.write(table.render([(case.name, case.traits, case.kind) for case in CASES], FOUND))
    shown = table.read()
    assert list(shown) == [case.name for case in CASES]
    wrong = [
        f"{name} on {backend}: {column} is {value!r} here, {table.claim(shown[name], backend, column)!r} in the page"
        for (name, backend), results in FOUND.items()
        for column, value in results.items()
        if table.claim(shown[name], backend, column) != value
    ]
    assert not wrong, "\n".join([*wrong, "write the table anew with: python -m tools.conformance_table"])
