"""A teacher that is asked once: what a saved classifier said of each text is kept, for several students and later runs.

To ask a large teacher about a large pool is what distilling costs; a student is quick. What is kept is one line a text,
under a hash of the text and in a file named after the teacher's weights, so that another teacher's opinions are never
taken for its own.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import assets, classify, files
from slmkit.errors import AssetError
from slmkit.estimator import TextClassifier, check_texts, read_saved


class Remembered:
    """A saved classifier, asked about a text the first time only.

    Parameters
    ----------
    folder : path
        A classifier that `save` wrote. Its model is loaded when a new text comes.
    kept : path or None
        The folder of what it said; None takes the one that holds the classifier.

    Attributes
    ----------
    classes_ : ndarray
    """

    classes_: np.ndarray

    def __init__(self, folder: str | Path, kept: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.classes_ = np.array(read_saved(self.folder)["classes"])
        manifest = self.folder / assets.MANIFEST
        if not manifest.is_file():
            raise AssetError(
                f"{self.folder} has no {assets.MANIFEST}, so nothing tells its weights from others': save it anew"
            )
        weights = hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
        self.file = Path(kept or self.folder.parent) / f"{self.folder.name}-said-{weights}.csv"
        self._known = self._read()
        self._classifier: TextClassifier | None = None

    @property
    def classifier(self) -> TextClassifier:
        """The classifier itself, as loaded; whoever times it must ask this one."""
        if self._classifier is None:
            self._classifier = classify.load_classifier(self.folder)
        return self._classifier

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Probabilities, float64, shape (n_texts, n_classes), rounded to six digits as they are kept."""
        texts = check_texts(X, empty=True)
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24] for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if new:
            said = self.classifier.predict_proba(list(new.values())).round(6)
            self._known |= dict(zip(new, said, strict=True))
            self._write()
        return np.array([self._known[key] for key in keys]).reshape(len(texts), len(self.classes_))

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The likeliest class of each text, shape (n_texts,)."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def facts(self) -> dict[str, Any]:
        """Those of the classifier."""
        return self.classifier.facts()

    def release(self) -> None:
        """Let go of the model; what it said stays."""
        if self._classifier is not None:
            self._classifier.release()

    def _read(self) -> dict[str, np.ndarray]:
        if not self.file.is_file():
            return {}
        try:
            frame = pd.read_csv(self.file, index_col="text", dtype={"text": str})
            values = frame.to_numpy(dtype=np.float64)
        except (ValueError, KeyError) as error:
            raise AssetError(
                f"{self.file} cannot be read ({error}): remove it, and the texts are asked anew"
            ) from error
        if values.shape[1] != len(self.classes_) or not np.isfinite(values).all():
            raise AssetError(f"{self.file} does not hold probabilities of {len(self.classes_)} classes: remove it")
        return dict(zip(frame.index, values, strict=True))

    def _write(self) -> None:
        columns = [f"p_{i}" for i in range(len(self.classes_))]
        frame = pd.DataFrame(np.array(list(self._known.values())), columns=columns)
        frame.insert(0, "text", list(self._known))
        document = io.StringIO()
        frame.to_csv(document, index=False, lineterminator="\n", float_format="%.6g")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.replace(self.file, document.getvalue())
