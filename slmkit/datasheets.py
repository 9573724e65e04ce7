"""A datasheet of labelled texts: how many, how long, in which languages, which words tell the classes, what is odd.

Odd rows are the same text under two labels, and labels that a classifier trained on the other rows finds improbable,
ranked by the probability of their own label (self-confidence: Kuan, Mueller 2022, "Model-agnostic label quality
scoring"; Northcutt, Jiang, Chuang 2021, arXiv 1911.00068). They are for a person to look at; many are right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from slmkit import backends, files, text
from slmkit.classify.floor import unseen_probabilities
from slmkit.errors import AssetError, InputError, MissingExtra, listed, short
from slmkit.reading import tables
from slmkit.splits import alike, leaks
from slmkit.splits.leaks import LeakReport

MODEL = "smollm2-135m-instruct"
MAX_TOKENS = 256  # what LoRA and embeddings read of a text by default
FOLDS = 5
LEAST_ROWS = 4  # of a class whose labels are checked
MOST_DOUBTFUL = 0.15  # share of the rows that is listed at most; a longer list nobody reads
MAX_ROWS = 20_000  # of a larger set a stratified sample is cross-validated
SHORTEST_TEXT = 20  # letters; the language of a shorter text is not guessed
SURE = 0.9  # probability from which a language counts
SPREAD = 0.5  # added to each count of a word, so that rare words do not seem telling
QUARTILES = (5, 50, 95, 100)


@dataclass(frozen=True)
class Datasheet:
    """What `datasheet` found.

    Attributes
    ----------
    n_rows : int
    labels : dict of str to int
        Rows by class, the largest first.
    characters, tokens : dict of str to int
        Percentiles 5, 50, 95 and 100 of the lengths; `tokens` is empty without a model.
    model, max_tokens : str or None, int
        Whose tokens they are, and the length texts are cut to.
    n_cut : int
        Texts that are longer than that and lose their end.
    languages : dict of str to int
        Texts by ISO 639-1 code; "?" where it could not be told.
    telling : dict of str to list of str
        By class the words that occur far more often there than elsewhere.
    suspicious : DataFrame
        `row` (from 0, in the frame), `source_row` (from 1, in the file), `text`, `label`, `reason`, `suggestion` and
        `confidence` (of the suggestion; NaN for contradictions), the most doubtful first.
    floor_accuracy : float or None
        Cross-validated, of the classifier that judged the labels; None where there are too few rows.
    repeats : LeakReport
        Rows that repeat an earlier row.
    notes : tuple of str
        What reading the rows had to say, and what could not be looked at.
    licence : str or None
        Of the rows, where it is known.
    """

    n_rows: int
    labels: dict[str, int]
    characters: dict[str, int]
    tokens: dict[str, int]
    model: str | None
    max_tokens: int
    n_cut: int
    languages: dict[str, int]
    telling: dict[str, list[str]]
    suspicious: pd.DataFrame
    floor_accuracy: float | None
    repeats: LeakReport
    notes: tuple[str, ...]
    licence: str | None = None

    def lines(self, examples: int = 5) -> list[str]:
        """The datasheet as lines of plain text."""
        shares = ", ".join(f"{text.clean(name, 60)} {n:,} ({n / self.n_rows:.0%})" for name, n in self.labels.items())
        said = [f"{self.n_rows:,} rows in {len(self.labels)} classes: {shares}"]
        said += [f"Licence: {text.clean(self.licence, 200)}"] if self.licence else []
        said += [f"Note: {text.clean(note, 400)}" for note in self.notes]
        said.append(f"Characters: {spread(self.characters)}")
        if self.tokens:
            cut = f"{self.n_cut:,} texts ({self.n_cut / self.n_rows:.1%}) are longer than {self.max_tokens}"
            said.append(f"Tokens of {self.model}: {spread(self.tokens)}; {cut} and lose their end")
        said.append("Languages: " + ", ".join(f"{code} {n:,}" for code, n in self.languages.items()))
        for name, words in self.telling.items():
            said.append(f"Telling of {text.clean(name, 60)}: {', '.join(words) or 'no word'}")
        said += self.repeats.lines(examples)
        if self.floor_accuracy is not None:
            said.append(f"A word-count classifier reaches {self.floor_accuracy:.1%}, cross-validated")
        said.append(f"{len(self.suspicious):,} rows to look at" + (", the first:" if len(self.suspicious) else ""))
        for line in self.suspicious.head(examples).to_dict("records"):
            who, shown = f"row {line['source_row']}, {short(line['label'])!r}", text.clean(line["text"], 90)
            said.append(f'  - {who}: {line["reason"]}: "{shown}"')
        return said

    def to_dict(self) -> dict[str, Any]:
        """The datasheet as JSON values, without texts."""
        names = ("n_rows", "labels", "characters", "tokens", "model", "max_tokens", "n_cut", "languages", "telling")
        odd = self.suspicious.drop(columns="text").replace({np.nan: None}).to_dict("records")
        rest: dict[str, Any] = {
            "floor_accuracy": self.floor_accuracy,
            "suspicious": odd,
            "notes": list(self.notes),
            "licence": self.licence,
        }
        return {name: getattr(self, name) for name in names} | rest | self.repeats.to_dict()

    def save_suspicious(self, path: str | Path) -> Path:
        """Write the rows to look at as a CSV that is safe to open in a spreadsheet; a file there is left alone."""
        path = check_target(path)
        frame = self.suspicious.assign(row=self.suspicious["source_row"]).drop(columns="source_row")
        for name in ("text", "label", "reason", "suggestion"):
            frame[name] = frame[name].map(tables.guarded)
        document = frame.to_csv(index=False, lineterminator="\r\n", float_format="%.3f")  # so that \r is quoted too
        with files.on_disk(path):
            files.replace(path, document)
        return path


def check_target(path: str | Path) -> Path:
    """Raise `InputError` when the rows to look at cannot be written there; best before any work is spent on them."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists; delete it or choose another name")
    if path.suffix.lower() != ".csv" or not path.parent.is_dir():
        raise InputError(f"{path} must end in .csv and lie in a folder that exists")
    return path


def datasheet(
    frame: pd.DataFrame, *, model: str | None = MODEL, max_tokens: int = MAX_TOKENS, seed: int = 0
) -> Datasheet:
    """Look at labelled texts from all sides.

    Parameters
    ----------
    frame : DataFrame
        As `slmkit.read` gives it.
    model : str or None
        Whose tokenizer counts; None counts no tokens and needs no model.
    max_tokens : int
        The length texts will be cut to, so that the sheet can say how many lose their end.
    seed : int
        Of the folds.

    Returns
    -------
    Datasheet

    Raises
    ------
    InputError
        No rows, or no column text or label.
    """
    if max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1; got {max_tokens}")
    missing = [name for name in ("text", "label") if name not in frame]
    if missing or frame.empty:
        raise InputError(f"a datasheet needs rows with text and label; no {' and '.join(missing) or 'rows'}")
    frame = frame.reset_index(drop=True)
    texts = frame["text"].tolist()
    lengths, uncounted = token_lengths(texts, model)
    doubtful, accuracy, unchecked = _doubtful(frame, seed)
    suspicious = pd.concat([_contradictions(frame), doubtful], ignore_index=True).drop_duplicates("row")
    return Datasheet(
        n_rows=len(frame),
        labels={str(k): int(v) for k, v in frame["label"].value_counts().items()},
        characters=percentiles(frame["text"].str.len().to_numpy()),
        tokens=percentiles(lengths),
        model=None if uncounted else model,
        max_tokens=max_tokens,
        n_cut=int((lengths > max_tokens).sum()),
        languages=_languages(texts),
        telling=_telling(frame),
        suspicious=suspicious.reset_index(drop=True),
        floor_accuracy=accuracy,
        repeats=leaks.check({"rows": frame}),
        notes=(*frame.attrs.get("warnings", ()), *unchecked, *uncounted),
        licence=frame.attrs.get("licence"),
    )


def token_lengths(texts: Sequence[str], model: str | None = MODEL) -> tuple[np.ndarray, list[str]]:
    """Tokens of each text, shape (n_texts,); where the default model is not here nothing is counted, and that is said.

    Another model that is not here raises `MissingExtra` or `AssetError`; None counts nothing.
    """
    if model is None:
        return np.zeros(0, np.int64), []
    try:
        return backends.count_tokens(model, texts), []
    except (MissingExtra, AssetError) as error:
        if model != MODEL:
            raise
        return np.zeros(0, np.int64), [f"tokens were not counted: {error}"]


def percentiles(lengths: np.ndarray) -> dict[str, int]:
    """Percentiles 5, 50, 95 and 100 of lengths, shape (n_texts,), as p5 to p100; empty for none."""
    if not len(lengths):
        return {}
    return {f"p{q}": int(v) for q, v in zip(QUARTILES, np.percentile(lengths, QUARTILES), strict=True)}


def spread(found: dict[str, int]) -> str:
    """`percentiles` in words."""
    return f"median {found['p50']:,}, nine in ten from {found['p5']:,} to {found['p95']:,}, longest {found['p100']:,}"


def _languages(texts: Sequence[str]) -> dict[str, int]:
    """Texts by language, the commonest first; what is short or unclear counts as "?"."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    known = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    counts: Counter[str] = Counter()
    for one in texts:
        letters = sum(map(str.isalpha, one[:1000]))
        code, probability = known.classify(one[:1000]) if letters >= SHORTEST_TEXT else ("?", 0.0)
        counts[code if probability >= SURE else "?"] += 1
    return dict(counts.most_common())


def _telling(frame: pd.DataFrame, most: int = 8) -> dict[str, list[str]]:
    """Words by class, by the log of their share of rows there against elsewhere, weighed by how many rows hold them."""
    counter = CountVectorizer(binary=True, min_df=2, stop_words="english")
    try:
        counts = counter.fit_transform(frame["text"])
    except ValueError:  # no word occurs twice
        return {}
    words, labels = counter.get_feature_names_out(), frame["label"].to_numpy()
    found = {}
    for name in frame["label"].value_counts().index[:20]:
        inside = labels == name
        here, there = (np.asarray(counts[mask].sum(axis=0)).ravel() for mask in (inside, ~inside))
        ratio = (here + SPREAD) / (inside.sum() + 1) / ((there + SPREAD) / ((~inside).sum() + 1))
        score = here * np.log(ratio)
        best = [i for i in score.argsort()[::-1][:most] if score[i] > 0 and ratio[i] >= 1.5]
        found[str(name)] = [text.clean(words[i], 30) for i in best]
    return found


def _contradictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows whose text, normalised, stands under another label too."""
    keys = frame["text"].map(alike.normalise)
    rows = frame[(frame["label"].groupby(keys).transform("nunique") > 1).to_numpy()]
    labels: dict[str, set[str]] = {}
    for key, label in zip(keys[rows.index], rows["label"], strict=True):
        labels.setdefault(key, set()).add(label)
    others = [sorted(labels[key] - {label}) for key, label in zip(keys[rows.index], rows["label"], strict=True)]
    return _rows(rows, "the same text stands under another label", [" or ".join(o) for o in others], np.nan)


def _doubtful(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, float | None, list[str]]:
    """Rows whose label the classifier, trained without them, finds improbable; its accuracy, and what was left out.

    A row is doubtful when another class is likelier than its own; the least probable labels come first.
    """
    counts = frame["label"].value_counts()
    small = counts[counts < LEAST_ROWS]
    notes = []
    if len(small):
        notes.append(f"labels of too few rows to be checked (fewer than {LEAST_ROWS}): {listed(small.index)}")
    sample = _sampled(frame[~frame["label"].isin(small.index)], seed)
    if sample["label"].nunique() < 2:
        return _rows(frame[:0], "", [], np.nan), None, notes
    proba, classes = _unseen(sample, min(FOLDS, int(sample["label"].value_counts().min()) // 2), seed)
    codes = np.searchsorted(classes, sample["label"].to_numpy().astype(str))
    own = proba[np.arange(len(sample)), codes]
    best = proba.argmax(axis=1)
    odd = np.flatnonzero(proba.max(axis=1) > own)
    order = odd[np.argsort(own[odd], kind="stable")][: math.ceil(MOST_DOUBTFUL * len(sample))]
    reasons = [f"{short(classes[best[i]])!r} is likelier by the other rows" for i in order]
    rows = sample.iloc[order]
    accuracy = float((best == codes).mean())
    return _rows(rows, reasons, [str(classes[best[i]]) for i in order], proba[order].max(axis=1)), accuracy, notes


def _sampled(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    if len(frame) <= MAX_ROWS:
        return frame
    shuffled = frame.sample(frac=1, random_state=seed)
    rank = shuffled.groupby("label").cumcount()
    wanted = (shuffled.groupby("label")["label"].transform("size") * MAX_ROWS / len(frame)).clip(lower=LEAST_ROWS)
    return shuffled[rank < wanted].sort_index()


def _unseen(frame: pd.DataFrame, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n_rows, n_classes) by a classifier that saw neither the row nor its near-duplicates, and classes.

    A class whose rows are all near-duplicates would be missing from a fold; then rows count one by one.
    """
    classes, codes = np.unique(frame["label"].to_numpy().astype(str), return_inverse=True)
    near = alike.clusters(len(frame), alike.pairs(frame["text"].map(alike.normalise))[0])
    parts = []
    if len(np.unique(near)) >= folds:
        parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(frame, codes, near))
    if not parts or any(len(np.unique(codes[train])) < len(classes) for train, _ in parts):
        parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(frame, codes))
    return unseen_probabilities(frame["text"].tolist(), codes, parts, seed), classes


def _rows(rows: pd.DataFrame, reason: str | list[str], suggestion: list[str], confidence: Any) -> pd.DataFrame:
    values = {
        "row": rows.index.to_numpy(),
        "source_row": rows["source_row"].to_numpy() if "source_row" in rows else rows.index.to_numpy() + 1,
        "text": rows["text"].to_numpy(),
        "label": rows["label"].to_numpy(),
        "reason": reason,
        "suggestion": suggestion,
        "confidence": confidence,
    }
    return pd.DataFrame(values)
