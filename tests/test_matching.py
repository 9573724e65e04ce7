"""A student whose hidden states are matched comes nearer to its teacher, and only to one that reads its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CASES, make

import slmkit
from slmkit import assets, backends, modelcards
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError
from slmkit.tuning import matching
from slmkit.tuning.matching import distance, match_states
from slmkit.tuning.pruning import prune

RNG = np.random.default_rng(0)
WORDS = ["bank", "card", "password", "prize", "lunch", "train", "flower", "profit", "sales", "market", "answer", "late"]
TEXTS = [" ".join(RNG.choice(WORDS, 8)) for _ in range(48)]
HOW = {"epochs": 4, "learning_rate": 3e-3, "batch_size": 8, "rank": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> ModelSource:
    """A Llama of three blocks."""
    return make(replace(CASES[0], sizes={"layers": 3}), tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(teacher: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without its block 1."""
    return prune(str(teacher.folder), out=tmp_path_factory.mktemp("student") / "pruned", blocks=[0, 2]).folder


@pytest.mark.parametrize(("way", "layers", "loss"), [("full", None, "mse"), ("lora", "pruned", "cosine")])
def test_the_student_comes_nearer_on_texts_it_has_not_seen(
    teacher: ModelSource, student: Path, tmp_path: Path, way: str, layers: str | None, loss: str
) -> None:
    how = {"way": way, "layers": layers, "loss": loss, **HOW}
    made = match_states(str(teacher.folder), str(student), TEXTS, out=tmp_path / "m", **how)
    assert made.distance_after < 0.88 * made.distance_before
    assert made.history[-1]["loss"] < 0.85 * made.history[0]["loss"]
    assert (made.n_train + made.n_test, made.layers) == (48, {0: 1} if layers else {})
    read = []
    for name in (str(teacher.folder), str(made.folder)):
        with slmkit.load(name, bits=16) as model:
            read.append(model.embed(TEXTS[:8], pooling="last"))
    assert distance(*read) < 0.95 * made.distance_before
    card = json.loads((made.folder / matching.FILE).read_text())
    assert (card["teacher_revision"], card["base_revision"]) == (teacher.revision, teacher.revision)
    assert modelcards.base_of(assets.resolve(str(made.folder))).revision == teacher.revision
    assert (made.folder / "config.json").read_bytes() == (student / "config.json").read_bytes()


def test_the_loss_is_the_relative_distance_at_every_place(
    teacher: ModelSource, student: Path, tmp_path: Path, match: Callable
) -> None:
    """The first loss, of the student as it is, against the states that transformers gives."""
    import torch
    import transformers

    texts = TEXTS[:4]
    entries = match(texts, {0: 1})
    found = []
    for folder, block in ((teacher.folder, 1), (student, 0)):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with torch.inference_mode():
            given = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
            states = [model(input_ids=ids, output_hidden_states=True).hidden_states for ids in given]
        found.append([torch.stack([s[block + 1][0], s[-1][0]]).numpy() for s in states])  # (2, T, H)
    shares = [((s - t) ** 2).sum(-1) / (t**2).sum(-1) for t, s in zip(*found, strict=True)]
    expected = np.concatenate([share.mean(axis=0) for share in shares]).mean()
    assert entries[0]["loss"] == pytest.approx(expected, rel=0.03)


@pytest.fixture
def match(teacher: ModelSource, student: Path, tmp_path: Path) -> Callable:
    def matched(texts: list[str], layers: dict[int, int]) -> list[dict[str, float]]:
        config = LoRAConfig(epochs=1, batch_size=len(texts), trains="weights", learning_rate=1e-3)
        out = tmp_path / "out"
        out.mkdir()
        own = assets.resolve(str(student))
        return backends.match(teacher, own, texts, layers=layers, cosine=False, config=config, out=out)

    return matched


def test_another_tokenizer_or_width_is_refused(tiny_decoder: ModelSource, teacher: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must read the same tokens to have their hidden states matched; of '"):
        match_states(str(teacher.folder), str(tiny_decoder.folder), TEXTS, out=tmp_path / "m")
    (tmp_path / "narrow").mkdir()
    narrow = make(replace(CASES[0], sizes={"hidden": 64, "heads": 2, "kv_heads": 2}), tmp_path / "narrow")
    with pytest.raises(InputError, match=r"hidden states of one width; got 128 .* and 64 "):
        match_states(str(teacher.folder), str(narrow.folder), TEXTS, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"layers": {2: 0}}, r"layers must map blocks 0 .. 1 of the student to 0 .. 2 of the teacher; got \{2: 0\}"),
        ({"layers": "all"}, "layers must be a mapping, 'pruned' or None; got 'all'"),
        ({"loss": "mae"}, "unknown loss 'mae'"),
        ({"way": "qlora"}, "unknown way 'qlora'"),
    ],
)
def test_settings_that_cannot_be_are_named(
    teacher: ModelSource, student: Path, tmp_path: Path, how: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        match_states(str(teacher.folder), str(student), TEXTS, out=tmp_path / "m", **how)


def test_pruned_layers_need_the_card_of_this_teacher(teacher: ModelSource, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers='pruned' needs a student that slmkit prune made from the teacher"):
        match_states(str(teacher.folder), str(teacher.folder), TEXTS, out=tmp_path / "m", layers="pruned")
