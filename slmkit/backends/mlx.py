"""Runs decoders with Apple's MLX through mlx-lm: on the Metal GPU of a Mac, or correct but slow on a CPU.

mlx is imported when it is first needed. Encoders (BERT and the like) are not known to mlx-lm.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.assets import ModelSource, stored
from slmkit.backends import _checks, _memory
from slmkit.backends import _completions as completions
from slmkit.backends import _course as course
from slmkit.backends import _shared as shared
from slmkit.backends.base import Backend, LanguageModel, LoRAConfig, Progress, Stored, Watch, check_bits
from slmkit.errors import AssetError, InputError, MissingExtra

log = logging.getLogger(__name__)
INSTALL = 'pip install "slmkit[mlx]"'


class MLXBackend(Backend):
    """mlx-lm with affine quantisation in groups of 64, embeddings included."""

    name = "mlx"
    imports = ("slmkit.backends._mlx.lora",)

    def device_bytes(self) -> int | None:
        """What mlx holds on a GPU; None on a CPU, or where mlx was not imported."""
        if "mlx.core" not in sys.modules:
            return None
        import mlx.core as mx

        held = int(mx.get_active_memory() + mx.get_cache_memory())
        return held if mx.default_device() == mx.gpu else None

    def is_available(self) -> tuple[bool, str]:
        """Import mlx and mlx-lm and quantise a matrix."""
        return _probe()

    def load(
        self, source: ModelSource, *, bits: int = 16, adapter: Path | None = None, dtype: str | None = None
    ) -> LanguageModel:
        """Load a decoder; see `Backend.load`. 4 and 8 bits come from a copy kept in the cache."""
        self._check(source, bits)
        from slmkit.backends._mlx import lora, model, weights

        weights.check_network(source.folder)
        tokenizer = _tokenizer(source.folder)
        loaded = weights.load(source, bits, dtype)
        if adapter is not None:
            lora.apply(loaded.net, Path(adapter), source, bits, tokenizer)
        made = model.MLXModel(source, bits, loaded, tokenizer)
        made.adapter = adapter
        return made

    def count_tokens(self, source: ModelSource, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text; see `Backend.count_tokens`."""
        from slmkit.backends import prepare

        return shared.count_tokens(_tokenizer(prepare(source).folder), texts)

    def tokenizer(self, source: ModelSource) -> Any:
        """The tokenizer; where it names no pad token, with the one that rows are padded with."""
        from slmkit.backends import prepare

        tokenizer = _tokenizer(prepare(source).folder)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # what `shared.pad_right` writes
        return tokenizer

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
        """Train an adapter in mlx-lm's layout and a head; see `Backend.train_lora`."""
        self._check(source, bits)
        watch = watch or Watch()
        shared.check_training(texts, y, n_classes, config, course.problems(watch, n_classes))
        _checks.check_whole_bits(bits, config)
        import mlx.core as mx

        from slmkit.backends._mlx import lora

        how = lora.How(config, source, bits, out, callback, watch)
        more, known = watch.held_out or ((), ())
        targets = shared.targets(y, known, n_classes)
        with _memory.given_back(mx.clear_cache):
            tokenizer, loaded = _load(source, bits)
            context = loaded.config.get("max_position_embeddings")
            rows = shared.encode(tokenizer, [*texts, *more], config.max_length, context)
            history = lora.train(loaded.net, rows, targets, len(texts), n_classes, how)
            _checks.write_adapter_facts(out, source, "mlx", bits, tokenizer, lora.computed_in(loaded.net))
        return history

    def dialogue_prompts(self, source: ModelSource, dialogues: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """Prompts of dialogues; see `Backend.dialogue_prompts`."""
        tokenizer = _tokenizer(source.folder)
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
        """Train an adapter on answers in mlx-lm's layout; see `Backend.train_completion`."""
        self._check(source, bits)
        watch = watch or Watch()
        completions.check(prompts, answers, config, course.problems(watch))
        _checks.check_whole_bits(bits, config)
        import mlx.core as mx

        from slmkit.backends._mlx import lora

        with _memory.given_back(mx.clear_cache):
            tokenizer, loaded = _load(source, bits)
            ends = shared.end_tokens(tokenizer, loaded.config.get("eos_token_id"))
            most = min(config.max_length, loaded.config.get("max_position_embeddings") or config.max_length)
            form: dict[str, Any] = {"chat": source.chat, "ends": ends, "max_length": most}
            pairs, n_train = completions.training_pairs(tokenizer, prompts, answers, watch.held_out, **form)
            how = lora.How(config, source, bits, out, callback, watch)
            history = lora.train_completion(loaded.net, pairs, n_train, how)
            _checks.write_adapter_facts(out, source, "mlx", bits, tokenizer, lora.computed_in(loaded.net))
        return history

    def quantise(self, source: ModelSource, *, bits: int, out: Path) -> Stored:
        """Write a folder that mlx-lm loads as well; see `Backend.quantise`."""
        self._check(source, bits)
        from slmkit.backends._mlx import weights

        weights.check_network(source.folder)
        _tokenizer(source.folder)  # one that does not belong to the model is refused before the work
        return weights.write_stored(source.folder, bits, out)

    def _check(self, source: ModelSource, bits: int) -> None:
        stored.check(source.stored, source.name, check_bits(bits), self.name)
        if source.kind == "encoder":
            raise InputError(
                f"mlx-lm runs decoders only and {source.name!r} is an encoder; use backend bnb for encoders"
            )
        ok, reason = self.is_available()
        if not ok:
            raise MissingExtra(reason)
        _checks.check_architecture(source.folder, None, f"mlx-lm {version('mlx-lm')}")


def _load(source: ModelSource, bits: int) -> tuple[Any, Any]:
    """Tokenizer and loaded weights for a training."""
    from slmkit.backends._mlx import weights

    weights.check_network(source.folder)
    return _tokenizer(source.folder), weights.load(source, bits, None)


@lru_cache(maxsize=1)
def _probe() -> tuple[bool, str]:
    try:
        import mlx.core as mx
        import mlx_lm.utils  # noqa: F401 - the import is the probe
    except Exception as error:  # a wheel that does not fit the machine fails in its own ways
        return False, f"mlx or mlx-lm cannot be imported ({type(error).__name__}: {error}). Get them with: {INSTALL}"
    try:
        if mx.default_device() != mx.gpu:
            mx.disable_compile()  # on a CPU mlx compiles with g++ at run time, which need not be there
        matrix = mx.arange(64 * 64, dtype=mx.float32).reshape(64, 64) / 4096
        back = mx.dequantize(*mx.quantize(matrix, group_size=64, bits=4), group_size=64, bits=4)
        worst = float(mx.abs(back - matrix).max())
    except Exception as error:
        return False, f"mlx cannot quantise a 64 x 64 matrix here ({type(error).__name__}: {error})"
    if worst > 0.01:
        return False, f"mlx quantises wrongly here: a 64 x 64 matrix came back with an error of {worst:.3g}"
    from slmkit.backends._mlx.weights import device_name

    where = {"metal": "the Metal GPU", "cuda": "a CUDA GPU", "cpu": "the CPU (slow)"}[device_name()]
    return True, f"mlx {version('mlx')} with mlx-lm {version('mlx-lm')} quantises and computes on {where}."


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"the tokenizer in {folder} cannot be read: {str(error)[:300]}") from error
    _checks.check_vocabulary(tokenizer, folder)
    return tokenizer


BACKEND = MLXBackend()
