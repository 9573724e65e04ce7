"""A model tuned to tell labels apart: by LoRA, QLoRA, on the last blocks or in all weights, with a head on top."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import softmax

from slmkit import assets, backends, estimate, modelcards
from slmkit.assets import ModelSource
from slmkit.backends.base import TRAINED, LoRAConfig, Watch
from slmkit.estimator import FILE, SLM, ModelClassifier
from slmkit.guard import watch
from slmkit.guard.plan import Plan
from slmkit.training import recipe, ways


class LoRAClassifier(ModelClassifier):
    """A model with a classification head, tuned by LoRA (at 4 bits: QLoRA) or by training its weights themselves.

    Hu et al. 2021, arXiv 2106.09685; Dettmers et al. 2023, arXiv 2305.14314. The text is read as it is, without a chat
    template, in training and in use alike. Of a decoder the head reads the last token, which has seen all the others;
    of an encoder the mean over all tokens, as sentence encoders were trained to be read (Reimers and Gurevych 2019,
    arXiv 1908.10084).

    Parameters
    ----------
    model : str
        A decoder, or an encoder (on backend "bnb").
    bits : {16, 8, 4} or None
        How the frozen weights are stored while the adapter is trained and used. None takes what a folder that `slmkit
        quantize` wrote is stored in, the way's own bits, or 16.
    backend : str or None
    way : {"lora", "qlora", "last-k", "full"} or None
        As `slmkit.finetune` takes its method. "full" trains the weights themselves: 18 bytes of memory a weight, and as
        much is saved as was trained. None puts adapters on what `bits` and `last_blocks` say.
    learning_rate : float or None
        Peak of the schedule; None takes the way's own, 5e-4 for adapters and 1e-4 for weights. Too high and the loss
        jumps or becomes no number, too low and little is learned in the epochs there are.
    class_weight : {"balanced"} or None
        "balanced" counts a row of a rare class for more (n / (classes x rows of the class), as scikit-learn does): more
        of that class is caught and more of the others is mistaken for it, and probabilities no longer follow how
        common it is. None takes the rows as they come.
    max_length : int or None
        Tokens read of each text; the rest is cut at the end. None takes what 99 of 100 training texts need, rounded up
        to a multiple of 8, so that a few long ones cost no memory; those that are cut are named in the log.
    early_stopping : bool
        Hold `validation_share` of the training rows back, measure the loss on them after each epoch, end after two
        epochs without a lower one and keep the best epoch's weights. Guards against too many epochs, at the price of
        rows that are not learned: with a few hundred rows they are worth more learned.
    validation_share : float
        Near-copies and groups of copies stay on one side, every class is on both.
    max_batch_tokens : int or None
        Tokens, padding included, that the model is trained on at once: more is quicker and takes more memory, and
        `batch_size` and the result stay the same but for rounding. None takes 1024 where such a training is estimated
        to need at most half of the memory this process may use, and 512 elsewhere.
    epochs, rank, alpha, batch_size, last_blocks, seed
        See `slmkit.backends.base.LoRAConfig`.
    checks : bool
        Whether `fit` looks for silent mistakes before and after the training (`slmkit.guard`): seconds, since the model
        is loaded once more. Failures raise, warnings are logged and kept in `guard_`. False saves the seconds; labels
        that slipped by a row or a head that was lost then go unnoticed, and `slmkit doctor --model` has nothing to
        compare the saved model with.

    Attributes
    ----------
    history_ : list of dict
        See `Backend.train_lora`.
    max_batch_tokens_ : int
        What was taken at once.
    guard_ : dict
        What the guard found, see `slmkit.guard.watch.after`; empty without checks.
    checkpoints : str, Path or None
        Set it to a folder of this one fit: a fit of the same rows goes on from what is there, to the same bits, and
        clears it at its end. No parameter, since clones (cross-validation's) must not share a folder.
    keeps_checkpoints : bool
        Set it to True and `fit` leaves them, for you to remove (`slmkit.backends.clear_checkpoints`) when it is saved.
    groups : sequence or None
        Set it to what says which texts belong together, one a text, "" for none: early stopping then holds them back
        together.
    stop : threading.Event or None
        Set it to an event; once that is set, `fit` ends after the present step with what it has learned.
    """

    method = "lora"
    needs = "decoder"  # what a study tunes; an encoder is tuned where this class is given one
    trains_weights = True
    checkpoints: str | Path | None = None
    keeps_checkpoints = False
    groups: Sequence[str] | None = None
    stop: threading.Event | None = None
    later: ClassVar[Mapping[str, Any]] = {
        "checks": True,
        "way": None,
        "class_weight": None,
        "early_stopping": False,
        "validation_share": 0.1,
    }

    def __init__(
        self,
        model: str = SLM,
        bits: int | None = None,
        backend: str | None = None,
        epochs: float = 3,
        rank: int = 16,
        alpha: int = 32,
        learning_rate: float | None = None,
        batch_size: int = 16,
        last_blocks: int | None = None,
        max_length: int | None = 256,
        max_batch_tokens: int | None = None,
        seed: int = 0,
        checks: bool = True,
        way: str | None = None,
        class_weight: str | None = None,
        early_stopping: bool = False,
        validation_share: float = 0.1,
    ) -> None:
        self.model = model
        self.bits = bits
        self.backend = backend
        self.epochs = epochs
        self.rank = rank
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.last_blocks = last_blocks
        self.max_length = max_length
        self.max_batch_tokens = max_batch_tokens
        self.seed = seed
        self.checks = checks
        self.way = way
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_share = validation_share

    @classmethod
    def settled(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        found = super().settled(params)
        if found.get("learning_rate", 0) is None:
            found["learning_rate"] = ways.get(found.get("way")).learning_rate
        return found

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        self.release()
        source = assets.resolve(self.model)
        engine = backends.engine_for(source, self.backend)
        bits, blocks = ways.choose(self.way, self.bits, self.last_blocks, source, writes=False)
        own = self.get_params() | {"last_blocks": blocks, "trains": ways.get(self.way).trains}
        own |= {"learning_rate": ways.rate(self.way, self.learning_rate)}
        own |= {"class_weights": recipe.class_weights(self.class_weight, codes, len(self.classes_))}
        likeliest = codes if codes.ndim == 1 else codes.argmax(axis=1)
        learned, checked = np.arange(len(texts)), np.zeros(0, dtype=np.int64)
        if self.early_stopping:
            learned, checked = recipe.validation(
                texts, likeliest, self.classes_.tolist(), self.validation_share, self.seed, self.groups
            )
        source = backends.prepare(source)
        self.max_length_ = own["max_length"] = recipe.max_length(self.max_length, engine, source, texts)
        longest = max(map(len, texts), default=0)
        self.max_batch_tokens_ = own["max_batch_tokens"] = self._tokens_at_once(source, bits, blocks, longest)
        lean = self._check_fits(source, bits, blocks, longest)
        config = LoRAConfig(**{name: own[name] for name in LoRAConfig.__dataclass_fields__ if name in own})
        held_out = ([texts[i] for i in checked], likeliest[checked].tolist()) if len(checked) else None
        texts, codes = [texts[i] for i in learned], codes[learned]
        plan = Plan(engine, source, bits, config, texts, codes, self.classes_.tolist())
        early = watch.before(plan) if self.checks else []
        kept = Path(self.checkpoints) if self.checkpoints is not None else None
        patience = recipe.PATIENCE if held_out else None
        with tempfile.TemporaryDirectory(prefix="slmkit-lora-") as folder:
            self.history_ = engine.train_lora(
                plan.source,
                texts,
                codes,
                n_classes=len(self.classes_),
                bits=bits,
                config=config,
                out=Path(folder),
                callback=self.progress,
                watch=Watch(checkpoints=kept, stop=self.stop, held_out=held_out, patience=patience, recompute=lean),
            )
            self._take(Path(folder))
            self.revision_, self.bits_ = source.revision, bits
            self.n_train_: int | None = len(texts)
            self.guard_ = watch.after(plan, Path(folder), self.history_, early) if self.checks else {}
        if "stopped" in self.history_[-1]:  # half a training need not pass
            return
        clears = True  # also where a check fails
        try:
            watch.settle(plan, self.guard_, "it is fitted all the same, and can be saved")
            clears = not self.keeps_checkpoints
        finally:
            if kept is not None and clears:
                backends.clear_checkpoints(kept)

    def _check_fits(self, source: ModelSource, bits: int, last_blocks: int | None, longest: int) -> bool:
        """Whether memory asks for blocks to be computed anew; a training that it does not suffice for is refused.

        No text has more than `longest` tokens.
        """
        how = self._use(last_blocks, longest, self.max_batch_tokens_)
        return estimate.check_training(source, bits, batch_tokens=self.max_batch_tokens_, **how)

    def _tokens_at_once(self, source: ModelSource, bits: int, last_blocks: int | None, longest: int) -> int:
        if self.max_batch_tokens is not None:
            return self.max_batch_tokens
        return estimate.training_tokens(source, bits, **self._use(last_blocks, longest, estimate.ROOMY_TOKENS))

    def _use(self, last_blocks: int | None, longest: int, batch_tokens: int) -> dict[str, Any]:
        row = min(self.max_length_, longest)
        return {
            "full": ways.get(self.way).trains == "weights",
            "seq": row if row > batch_tokens else None,
            "last_blocks": last_blocks,
            "rank": self.rank,
            "backend": self.backend,
        }

    def _proba(self, texts: list[str]) -> np.ndarray:
        model = self._language_model()
        pooling = "mean" if model.source.kind == "encoder" else "last"
        vectors = model.embed(texts, pooling=pooling, max_length=self.max_length_)
        return softmax(vectors.astype(np.float64) @ self._weight.T + self._bias, axis=1)

    def _language_model(self, adapter: Path | None = None) -> Any:
        if "_loaded" in self.__dict__:
            return self._loaded
        with tempfile.TemporaryDirectory(prefix="slmkit-lora-") as folder:
            self._put(Path(folder))
            return super()._language_model(Path(folder))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"warnings": watch.sentences(self.guard_)}

    def _adapter_bytes(self) -> int | None:
        return sum(map(len, self._files.values()))

    def _own_bytes(self) -> int:
        """Bytes beside the base model; weights that stand in the place of its own do not count twice."""
        return sum(len(content) for name, content in self._files.items() if name != TRAINED)

    def _take(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        head = load_file(folder / "head.safetensors")
        self._weight, self._bias = head["weight"], head["bias"]
        wanted = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors")]
        self._files = {p.name: p.read_bytes() for p in wanted}

    def _put(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        self._put(folder / "adapter")
        self.write_card(folder)

    def write_card(self, folder: Path, **known: Any) -> None:
        """Write the card of a saved classifier anew; `known` is what `modelcards.for_classifier` takes."""
        values = assets.read_json(folder / FILE)
        modelcards.write(folder, modelcards.for_classifier(values, self._adapter_bytes(), **known))

    def _read(self, folder: Path, values: Mapping[str, Any]) -> None:
        super()._read(folder, values)
        self._take(folder / "adapter")

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        found = {"history": self.history_, "guard": getattr(self, "guard_", {}), "n_train": self.n_train_}
        found |= {"bits": self.bits_, "max_length": self.max_length_}
        return {**found, "max_batch_tokens": self.max_batch_tokens_}, {}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.history_, self.guard_, self.n_train_ = facts["history"], facts.get("guard", {}), facts.get("n_train")
        self.bits_, self.max_length_ = facts.get("bits", self.bits), facts.get("max_length", self.max_length)
        self.max_batch_tokens_ = facts.get("max_batch_tokens", self.max_batch_tokens)
