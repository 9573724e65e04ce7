"""The torch backend: transformers for models, bitsandbytes for 4 and 8 bits, peft for adapters; CUDA, Metal or CPU."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slmkit.assets import ModelSource, stored
from slmkit.backends import _checks, _memory
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.backends.base import Backend, Generation, LanguageModel, LoRAConfig, Progress, Stored, Watch, check_bits
from slmkit.errors import InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
PIP_LINE = 'pip install -c constraints.txt -e ".[bnb]"'


class TorchModel(LanguageModel):
    """A frozen transformers model behind slmkit's seam."""

    backend = "bnb"

    def __init__(self, source: ModelSource, bits: int, adapter: Path | None, dtype: str | None) -> None:
        from slmkit.backends._torch import device, loading, quantise, training

        self._model: Any = None
        self._device: torch.device = device.pick_device()
        compute = device.choose_dtype(dtype, self._device)
        self.source, self.bits, self.device = source, bits, self._device.type
        self.scheme = quantise.SCHEMES.get(
            bits, {"torch.bfloat16": "bf16", "torch.float32": "fp32"}.get(str(compute), "fp16")
        )
        if source.stored:
            self.scheme = source.stored.scheme
        loading.check_architecture(source)
        self._tokenizer: Any = loading.load_tokenizer(source)
        self._model = loading.load_module(source, bits, compute, self._device)
        self._weight_bytes, self._n_parameters = _count(self._model, source)
        if adapter is not None:
            self.adapter = adapter
            self._model = training.attach(self._model, adapter, source, bits, self._tokenizer)

    def loglikelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        from slmkit.backends._torch import packing, scoring

        self._check("score continuations", decoder=True)
        packing.for_batches(self._model)
        if not len(prompts):
            return np.zeros((0, len(continuations)))
        pairs = shared.pair_rows(self._tokenizer, prompts, continuations, self._max_length())
        scorer = scoring.LabelScorer(self._model, self._tokenizer.pad_token_id, self._device)
        if scorer.is_simple(pairs):
            return scorer.score(*scoring.contexts_and_tails(pairs))
        return scorer.score_rows(pairs, self._max_length())

    def answer_loglikelihood(
        self, prompts: Sequence[str], answers: Sequence[str], max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self._check("score answers", decoder=True)
        most = min(max_length or self._max_length(), self._max_length())
        pairs, kept = completions.pairs(
            self._tokenizer, prompts, answers, chat=self.source.chat, ends=self._ends(), max_length=most
        )
        nats, n_tokens = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=np.int64)
        nats[kept] = self._score_pairs(pairs, most)
        n_tokens[kept] = [len(pair.target) for pair in pairs]
        return nats, n_tokens

    def text_loglikelihood(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self._check("score texts", decoder=True)
        pairs = completions.from_first_words(self._tokenizer, texts, self._max_length())
        return self._score_pairs(pairs, self._max_length()), np.array([len(p.target) for p in pairs], dtype=np.int64)

    def _score_pairs(self, pairs: Sequence[shared.Pair], max_length: int) -> np.ndarray:
        """Nats of each pair's target, float64 (n_pairs,)."""
        from slmkit.backends._torch import packing, scoring

        if not pairs:
            return np.zeros(0)
        packing.for_batches(self._model)
        scorer = scoring.LabelScorer(self._model, self._tokenizer.pad_token_id, self._device)
        return scorer.score_rows([[pair] for pair in pairs], max_length)[:, 0]

    def embed(self, texts: Sequence[str], *, pooling: str | None = None, max_length: int | None = None) -> np.ndarray:
        from slmkit.backends._torch import packing, scoring

        self._check("embed")
        packing.for_batches(self._model)
        pooling = shared.check_pooling(pooling)
        if not len(texts):
            return np.zeros((0, self._model.config.hidden_size), dtype=np.float32)
        return scoring.embed(
            self._model,
            self._tokenizer,
            texts,
            pooling=pooling,
            normalise=self.source.kind == "encoder" and pooling == "mean",
            max_length=max_length,
            context=self._max_length(),
            device=self._device,
        )

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        yield from self._write(prompt, max_new_tokens, temperature, stop, seed, shared.Writing())

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[Generation]:
        out = []
        for prompt, n_prompt in zip(prompts, self.count_tokens(prompts), strict=True):
            started, state = time.perf_counter(), shared.Writing()
            text = "".join(self._write(prompt, max_new_tokens, temperature, stop, seed, state))
            seconds = time.perf_counter() - started
            out.append(Generation(text, int(n_prompt), state.n_tokens, state.reason, seconds))
        return out

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        self._check("count tokens")
        return shared.count_tokens(self._tokenizer, texts)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        self._check("render a chat")
        return shared.chat_prompt(self._tokenizer, messages, self.source.name)

    def dialogue_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        self._check("render a dialogue")
        return completions.prompt(self.source, self._tokenizer, messages)

    def weight_bytes(self) -> int:
        return self._weight_bytes

    def n_parameters(self) -> int:
        return self._n_parameters

    def peak_device_bytes(self) -> int | None:
        from slmkit.backends._torch import device

        return device.peak_bytes(self._device)

    def _let_go(self) -> object | None:
        model, self._model, self._tokenizer = self._model, None, None
        return model

    def _empty_cache(self) -> None:
        from slmkit.backends._torch import device

        device.empty_cache(self._device)

    def synchronize(self) -> None:
        from slmkit.backends._torch import device

        device.synchronize(self._device)

    def _write(
        self,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
        state: shared.Writing,
    ) -> Iterator[str]:
        from slmkit.backends._torch import generation, packing

        self._check("write text", decoder=True)
        shared.check_generation(max_new_tokens, temperature)
        (ids,) = shared.encode(self._tokenizer, [prompt])
        room = self._max_length() - len(ids)
        if room < 1:
            raise _checks.no_room(len(ids), self._max_length())
        most = min(max_new_tokens, room)
        packing.for_writing(self._model)
        tokens = generation.decode(
            self._model,
            ids,
            max_new_tokens=most,
            temperature=temperature,
            seed=seed,
            stop_ids=self._ends(),
            device=self._device,
        )
        yield from shared.write(tokens, self._decode, stop, most, state)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _ends(self) -> set[int]:
        return shared.end_tokens(self._tokenizer, self._model.generation_config.eos_token_id)

    def _max_length(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", None) or 2048)

    def _check(self, what: str, *, decoder: bool = False) -> None:
        if self._model is None:
            raise InputError(f"model {self.source.name!r} was released; load it again to {what}")
        if decoder and self.source.kind != "decoder":
            raise InputError(f"model {self.source.name!r} is an encoder: it can embed texts, but not {what}")


def _count(model: Any, source: ModelSource) -> tuple[int, int]:
    """Bytes as stored and parameters before quantisation of a loaded model, tied weights once."""
    from slmkit.backends._torch.quantise import QuantEmbedding, QuantLinear

    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    n_parameters = sum(p.numel() for p in model.parameters())
    for module in model.modules():
        if isinstance(module, QuantLinear | QuantEmbedding):
            n_parameters += module.state.shape.numel() - module.weight.numel()
            n_bytes += module.stored_state_bytes
    return n_bytes, n_parameters


class BnbBackend(Backend):
    """transformers + bitsandbytes + peft."""

    name = "bnb"
    imports = ("slmkit.backends._torch.training", "transformers.models.llama.modeling_llama")

    def is_available(self) -> tuple[bool, str]:
        return _probe()

    def device_bytes(self) -> int | None:
        if "torch" not in sys.modules:
            return None
        from slmkit.backends._torch import device

        return device.held_bytes(device.pick_device())

    def load(
        self, source: ModelSource, *, bits: int = 16, adapter: Path | None = None, dtype: str | None = None
    ) -> LanguageModel:
        stored.check(source.stored, source.name, check_bits(bits), self.name)
        return TorchModel(source, bits, adapter, dtype)

    def count_tokens(self, source: ModelSource, texts: Sequence[str]) -> np.ndarray:
        from slmkit.backends._torch.loading import load_tokenizer

        return shared.count_tokens(load_tokenizer(source), texts)

    def tokenizer(self, source: ModelSource) -> Any:
        from slmkit.backends import prepare
        from slmkit.backends._torch.loading import load_tokenizer

        return load_tokenizer(prepare(source))

    def train_lora(
        self,
        source: ModelSource,
        texts: Sequence[str],
        y: np.ndarray,
        *,
        n_classes: int,
        bits: int,
        config: LoRAConfig,
        out: Path,
        callback: Progress | None = None,
        watch: Watch | None = None,
    ) -> list[dict[str, float]]:
        from slmkit.backends._torch import device, training

        stored.check(source.stored, source.name, check_bits(bits), self.name)
        how: dict[str, Any] = {"bits": bits, "config": config, "out": out, "callback": callback}
        with _memory.given_back(lambda: device.empty_cache(device.pick_device())):
            return training.train(source, texts, y, n_classes=n_classes, watch=watch or Watch(), **how)

    def quantise(self, source: ModelSource, *, bits: int, out: Path) -> Stored:
        from slmkit.backends._torch import loading

        return loading.write_stored(source, bits, out)

    def dialogue_prompts(self, source: ModelSource, dialogues: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        from slmkit.backends._torch.loading import load_tokenizer

        tokenizer = load_tokenizer(source)
        return [completions.prompt(source, tokenizer, messages) for messages in dialogues]

    def train_completion(
        self,
        source: ModelSource,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        bits: int,
        config: LoRAConfig,
        out: Path,
        callback: Progress | None = None,
        watch: Watch | None = None,
    ) -> list[dict[str, float]]:
        from slmkit.backends._torch import device, training

        stored.check(source.stored, source.name, check_bits(bits), self.name)
        if source.kind != "decoder":
            raise InputError(f"model {source.name!r} is an encoder; a decoder is needed to write answers")
        how: dict[str, Any] = {"bits": bits, "config": config, "out": out, "callback": callback}
        with _memory.given_back(lambda: device.empty_cache(device.pick_device())):
            return training.train_completion(source, prompts, answers, watch=watch or Watch(), **how)


@lru_cache(maxsize=1)
def _probe() -> tuple[bool, str]:
    importlib.import_module("slmkit.backends._torch")
    for package in ("torch", "transformers", "peft", "accelerate", "bitsandbytes"):
        try:
            importlib.import_module(package)
        except Exception as error:  # a broken install raises more than ImportError
            return False, f"{package} cannot be imported ({error}); {PIP_LINE}"
    import torch

    from slmkit.backends._torch import device, quantise

    where = device.pick_device()
    try:
        weight = torch.randn(64, 64, device=where)
        packed, state = quantise.quantise_tensor(weight, 4, nested=True)
        off = (quantise.bnbf.dequantize_4bit(packed, state) - weight).abs().mean().item()
    except Exception as problem:  # whatever the kernel raises is the reason
        return False, f"bitsandbytes cannot quantise on {where.type}: {problem}"
    return (
        True,
        f"transformers and bitsandbytes on {where.type}; a 64x64 tensor came back from 4 bits within {off:.2f}",
    )


BACKEND = BnbBackend()
