"""What all text classifiers share: checked input, classes, and saving as JSON and safetensors, never pickle."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

import slmkit
from slmkit import assets, backends
from slmkit.backends.base import LanguageModel, Progress
from slmkit.errors import AssetError, InputError

FILE = "classifier.json"
ARRAYS = "arrays.safetensors"
SLM = "smollm2-135m-instruct"
LEAST = 1e-4  # a probability below it is not learned


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Base of the classifiers: texts in, probabilities out.

    Subclasses store their parameters in `__init__`, implement `_fit`, `_proba`, `_state` and `_restore`, and name
    themselves in `method`.
    """

    method: ClassVar[str]
    needs: ClassVar[str | None] = None  # "any" model, a "decoder", or None
    trains_weights: ClassVar[bool] = False
    later: ClassVar[Mapping[str, Any]] = {}  # parameters that came after the first records, with their defaults
    learns_targets: ClassVar[bool] = True  # whether `_fit` takes probabilities (n, n_classes) beside codes (n,)
    progress: Progress | None = None  # called while weights are trained

    classes_: np.ndarray

    def fit(self, X: Iterable[str], y: Iterable[Any]) -> Self:
        """Learn from texts and their labels.

        Parameters
        ----------
        X : iterable of str, n texts
        y : iterable of n labels

        Raises
        ------
        InputError
            Lengths that differ, something that is not text, or fewer than two classes.
        """
        texts = check_texts(X)
        labels = np.asarray(y if isinstance(y, np.ndarray | list) else list(y))
        labels = labels.astype(str) if labels.dtype.kind in "OT" else labels
        if labels.shape != (len(texts),):
            raise InputError(f"y must hold one label a text, shape ({len(texts)},); got shape {labels.shape}")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"a classifier needs at least 2 classes; got {self.classes_.tolist()}")
        if not any(text.strip() for text in texts):
            raise InputError(f"all {len(texts)} texts are empty or only spaces")
        self._fit(texts, codes.astype(np.int64))
        return self

    def fit_targets(self, X: Iterable[str], targets: np.ndarray, classes: Iterable[Any]) -> Self:
        """Learn from probabilities of the classes instead of labels; rows of 0 and 1 give what labels give.

        Parameters
        ----------
        X : iterable of str, n texts
        targets : array, shape (n, n_classes)
            Rows sum to 1; what is below 1e-4 is taken for 0.
        classes : iterable of n_classes labels
            In ascending order: they become `classes_`.

        Raises
        ------
        InputError
            Probabilities that are none, a class that has none in any row, or a method that learns from labels alone.
        """
        texts, known = check_texts(X), np.asarray(list(classes))
        if not self.learns_targets:
            raise InputError(f"method {self.method!r} learns from labels alone, not from probabilities")
        if len(known) < 2 or (np.unique(known) != known).any():
            raise InputError(f"classes must be at least 2 different labels in ascending order; got {known.tolist()}")
        found = check_targets(targets, len(texts), known.tolist())
        found = np.where(found < LEAST, 0, found)
        found /= found.sum(axis=1, keepdims=True)
        if not (mass := found.sum(axis=0)).all():
            raise InputError(f"class {known[int(mass.argmin())]!s} has a probability of 0 in all {len(texts)} rows")
        self.classes_ = known
        self._fit(texts, found)
        return self

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Probabilities, float64, shape (n_texts, n_classes), columns in the order of `classes_`."""
        check_is_fitted(self, "classes_")
        texts = check_texts(X, empty=True)
        return self._proba(texts) if texts else np.zeros((0, len(self.classes_)))

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The likeliest class of each text, shape (n_texts,)."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def save(self, folder: str | Path) -> Path:
        """Write the fitted classifier to a folder, new or holding an earlier one; `slmkit.load_classifier` reads it.

        The base model is not copied: its name and revision are.
        """
        check_is_fitted(self, "classes_")
        final = Path(folder)
        if final.is_file() or (final.is_dir() and any(final.iterdir()) and not (final / FILE).is_file()):
            raise InputError(f"{final} exists and is not a saved classifier; give a new folder")
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        try:
            self._write(aside)
            assets.write_manifest(aside)
            shutil.rmtree(final, ignore_errors=True)
            aside.replace(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return final

    @classmethod
    def settled(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as a record has them: what None stands for spelled out, what came later left out at its default.

        So that a run of today and one of an earlier version with the same settings are the same configuration.
        """
        return {name: v for name, v in params.items() if name not in cls.later or v != cls.later[name]}

    def facts(self) -> dict[str, Any]:
        """What this classifier is made of: model, revision, backend, bits, scheme, device, bytes, parameters, load_s.

        `stored_bytes` is the whole of it, base model included; `adapter_bytes` what training added. Unknown is None.
        """
        n_own = self._own_bytes()
        none = dict.fromkeys(("model", "revision", "backend", "bits", "scheme", "n_parameters", "load_s"))
        return none | {"device": "cpu", "stored_bytes": n_own, "adapter_bytes": None}

    def release(self) -> None:
        """Let go of the model; it is loaded again when needed."""

    def synchronize(self) -> None:
        """Wait for the device."""

    def _own_bytes(self) -> int:
        facts, arrays = self._state()
        return sum(a.nbytes for a in arrays.values()) + len(json.dumps(facts).encode())

    def _write(self, folder: Path) -> None:
        facts, arrays = self._state()
        if arrays:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / ARRAYS)
        values = {
            "slmkit": slmkit.__version__,
            "class": type(self).__name__,
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "state": facts,
        }
        (folder / FILE).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _read(self, folder: Path, values: Mapping[str, Any]) -> None:
        path = folder / ARRAYS
        arrays = load_file(path) if path.is_file() else {}
        self.classes_ = np.array(values["classes"])
        self._restore(values["state"], arrays)

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        raise NotImplementedError

    def _proba(self, texts: list[str]) -> np.ndarray:
        raise NotImplementedError

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        raise NotImplementedError

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        raise NotImplementedError


class ModelClassifier(TextClassifier):
    """A classifier over a language model, loaded when first needed and never pickled."""

    model: str
    bits: int | None
    backend: str | None
    revision_: str

    def facts(self) -> dict[str, Any]:
        model = self._language_model()
        base = {"model": self.model, "revision": self.revision_, "backend": model.backend, "bits": model.bits}
        form = model.source.stored
        return base | {
            "base_revision": form.base_revision if form else None,
            "scheme": model.scheme,
            "device": model.device,
            "n_parameters": model.n_parameters(),
            "stored_bytes": model.weight_bytes() + self._own_bytes(),
            "adapter_bytes": self._adapter_bytes(),
            "load_s": self._load_s,
        }

    def release(self) -> None:
        model = self.__dict__.pop("_loaded", None)
        if model is not None:
            model.release()

    def synchronize(self) -> None:
        if "_loaded" in self.__dict__:
            self._language_model().synchronize()

    def peak_device_bytes(self) -> int | None:
        """Highest memory held on the device so far; None on a CPU."""
        peak = getattr(self._language_model(), "peak_device_bytes", None)
        return None if peak is None else peak()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_loaded"}

    def _language_model(self, adapter: Path | None = None) -> LanguageModel:
        if "_loaded" not in self.__dict__:
            started = time.perf_counter()
            bits = getattr(self, "bits_", self.bits)
            loaded = backends.load(self.model, bits=bits, backend=self.backend, adapter=adapter)
            known = getattr(self, "revision_", None)
            if known is not None and loaded.source.revision != known:
                found = loaded.source.revision
                loaded.release()
                raise AssetError(f"this classifier was made with {self.model!r} at {known}; found it at {found}")
            self.revision_ = loaded.source.revision
            self._loaded, self._load_s = loaded, time.perf_counter() - started
        return self._loaded

    def _adapter_bytes(self) -> int | None:
        return None

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        path = folder / FILE
        values = json.loads(path.read_text(encoding="utf-8")) | {"revision": self.revision_}
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _read(self, folder: Path, values: Mapping[str, Any]) -> None:
        super()._read(folder, values)
        self.revision_ = values["revision"]


def check_texts(X: Iterable[str], *, empty: bool = False) -> list[str]:
    """Return X as a list of str; `InputError` names the first item that is something else."""
    if isinstance(X, str):
        raise InputError(f"X must be a sequence of texts; got one text, {X[:60]!r}")
    texts = list(X)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"X must hold texts; item {index} is {type(text).__name__}: {str(text)[:60]!r}")
    if not texts and not empty:
        raise InputError("X holds no texts")
    return [str(text) for text in texts]


def check_targets(targets: Any, n: int, classes: list[Any]) -> np.ndarray:
    """Probabilities as float64 (n, n_classes); `InputError` says what is wrong with them."""
    found = np.asarray(targets, dtype=np.float64)
    if found.shape != (n, len(classes)):
        raise InputError(
            f"probabilities must have the shape (rows, classes) = ({n}, {len(classes)}); got {found.shape}"
        )
    wrong = ~((found >= 0).all(axis=1) & (np.abs(found.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"probabilities must be at least 0 and sum to 1; row {row} is {found[row].round(4).tolist()}")
    return found


def weighted(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, codes and weights with which a classifier that takes labels learns from codes or from probabilities.

    A text of which several classes are told stands there once for each, weighing what its class weighs: the weighted
    loss over these is the cross-entropy (or hinge) loss against the probabilities. Codes are left as they are.
    """
    if y.ndim == 1:
        return np.arange(len(y)), y, None
    rows, codes = np.nonzero(y)
    return rows, codes, y[rows, codes]


def read_saved(folder: str | Path) -> dict[str, Any]:
    """The JSON of a saved classifier; `InputError` or `AssetError` names what is wrong with the folder."""
    path = Path(folder) / FILE
    if not path.is_file():
        reason = f"it has no {FILE}" if Path(folder).is_dir() else "no such folder"
        reason = "it is a file, not a folder" if Path(folder).is_file() else reason
        raise InputError(f"{folder} is not a saved classifier: {reason}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["class"], values["params"], values["classes"], values["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path} is damaged: {error!r}") from error
    problem = assets.problem_with(path.parent) if (path.parent / assets.MANIFEST).is_file() else None
    if problem:
        raise AssetError(f"saved classifier {folder} is damaged: {problem}")
    for weights in path.parent.rglob("*.safetensors"):
        assets.check_safetensors(weights)
    return dict(values)
