"""The leak guard: which rows of one part stand in another, to the letter, nearly, or by their group.

A score on rows the model has seen says nothing. The guard looks at any named parts (train, validation, test, the
examples in a prompt, the pool of a distillation) and names every row of one that leaks into another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from slmkit import text
from slmkit.errors import InputError, listed
from slmkit.reading import tables
from slmkit.splits import alike

KINDS = ("exact", "normalised", "near", "group")  # the first that holds is the kind of a row
IN_WORDS = {
    "exact": "the same text",
    "normalised": "the same after normalisation (case, punctuation, spaces)",
    "near": "near-duplicates",
    "group": "of the same group",
}
NESTED = 0.99  # share of rows from which a part is said to lie inside another


@dataclass(frozen=True)
class Overlap:
    """Rows of one part that stand in another, or repeat an earlier row of the same part.

    Attributes
    ----------
    part, other : str
        The rows of `part` are looked for in `other`; equal names: within one part.
    n_part, n_other : int
        Rows of each.
    rows : DataFrame
        One line a row of `part` that was found: `row`, `kind` (of `KINDS`), `other_row`, `similarity` (Jaccard index of
        the words; NaN where the rows are linked through others or by a group) and `conflict` (same text, other label).
        Rows are counted from 0.
    n_other_found : int
        Rows of `other` whose text, after normalisation, stands in `part`.
    """

    part: str
    other: str
    n_part: int
    n_other: int
    rows: pd.DataFrame
    n_other_found: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Rows by kind; kinds that do not occur are left out."""
        found = self.rows["kind"].value_counts()
        return {kind: int(found[kind]) for kind in KINDS if kind in found}

    @property
    def nested(self) -> bool:
        """Whether `part` lies inside `other`: nearly all its texts stand there, after normalisation."""
        same = self.rows["kind"].isin(["exact", "normalised"]).sum()
        return self.part != self.other and bool(same >= NESTED * self.n_part) and self.n_part > 0

    @property
    def holds(self) -> bool:
        """Whether `other` lies inside `part`, the other way round."""
        return self.part != self.other and self.n_other_found >= NESTED * self.n_other

    def sentence(self) -> str:
        """What was found, in words."""
        where = f"stand in {self.other}" if self.part != self.other else "repeat an earlier row"
        if self.rows.empty:
            return f"{self.part}: none of {self.n_part:,} rows {where}"
        kinds = ", ".join(f"{n:,} {IN_WORDS[kind]}" for kind, n in self.counts.items())
        said = f"{self.part}: {len(self.rows):,} of {self.n_part:,} rows ({len(self.rows) / self.n_part:.1%}) {where}"
        conflicts = int(self.rows["conflict"].sum())
        nested = f"; {self.part} lies inside {self.other}" if self.nested else ""
        nested += f"; {self.other} lies inside {self.part}" if self.holds else ""
        return f"{said}: {kinds}" + (f"; {conflicts:,} with another label" if conflicts else "") + nested


@dataclass(frozen=True)
class LeakReport:
    """What the guard found.

    Attributes
    ----------
    parts : dict of str to DataFrame
        The rows that were looked at.
    within : tuple of Overlap
        Repetitions inside each part.
    across : tuple of Overlap
        Each later part against each earlier one, in the order given.
    chance : float or None
        For one part alone: the share of a random fifth of its rows that would have a copy or a near-duplicate in the
        rest. None for several.
    """

    parts: dict[str, pd.DataFrame]
    within: tuple[Overlap, ...]
    across: tuple[Overlap, ...]
    chance: float | None

    @property
    def n_leaking(self) -> int:
        """Rows of the last part (the test rows) that stand in any other part."""
        last = next(reversed(self.parts))
        return len({row for found in self.across if found.part == last for row in found.rows["row"].tolist()})

    def lines(self, examples: int = 3) -> list[str]:
        """The report as lines of plain text, with a few rows of every overlap spelled out."""
        said = []
        for found in (*self.within, *self.across):
            said.append(found.sentence())
            said += [f"  - {line}" for line in self.examples(found, examples)]
        if self.chance is not None and self.chance > 0:
            said.append(
                f"Of a random fifth of these rows, {self.chance:.1%} would have a copy or near-copy in the rest"
            )
        return said

    def examples(self, found: Overlap, most: int) -> list[str]:
        """The first rows of an overlap with both texts; rows are counted from 1, as in the file they were read from."""
        lines = []
        order = found.rows["kind"].map(KINDS.index).to_numpy().argsort(kind="stable")
        for line in found.rows.iloc[order].head(most).to_dict("records"):
            row, other_row, kind, similarity = line["row"], line["other_row"], line["kind"], line["similarity"]
            how = f"{kind}, {similarity:.2f}" if kind == "near" and not np.isnan(similarity) else kind
            both = f'"{text.clean(self.parts[found.part]["text"].iloc[row], 70)}"'
            if kind in ("near", "group"):
                both += f' and "{text.clean(self.parts[found.other]["text"].iloc[other_row], 70)}"'
            mine, theirs = (f"{found.part} ", f"{found.other} ") if len(self.parts) > 1 else ("", "")
            ours, other = self._number(found.part, row), self._number(found.other, other_row)
            lines.append(f"{mine}row {ours} = {theirs}row {other} ({how}): {both}")
        return lines

    def _number(self, part: str, row: int) -> int:
        """What a person calls a row: its number in the file (from 1, the header apart), else its place in the part."""
        frame = self.parts[part]
        return int(frame["source_row"].iloc[row]) if "source_row" in frame else row + 1

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; rows are counted from 0, as they stand in their part."""
        overlaps = [
            {
                "part": found.part,
                "other": found.other,
                "n_part": found.n_part,
                "n_other": found.n_other,
                "counts": found.counts,
                "conflicts": int(found.rows["conflict"].sum()),
                "nested": found.nested,
                "holds": found.holds,
                "rows": found.rows["row"].tolist(),
                "other_rows": found.rows["other_row"].tolist(),
            }
            for found in (*self.within, *self.across)
        ]
        return {"overlaps": overlaps, "chance_of_a_random_fifth": self.chance}


def check(
    parts: Mapping[str, pd.DataFrame | Sequence[str]], *, threshold: float = alike.THRESHOLD, within: bool = True
) -> LeakReport:
    """Look for rows of each part in the others, and for repetitions inside each.

    Parameters
    ----------
    parts : mapping of str to DataFrame or sequence of str
        Rows by the name of their part, the test rows last: {"train": ..., "pool": ..., "test": ...}. A frame has the
        column text, and may have label (to find contradictions) and group.
    threshold : float
        Jaccard index from which two texts are near-duplicates; see `slmkit.splits.alike`. Lower finds looser copies.
    within : bool
        Whether to look inside each part as well.

    Returns
    -------
    LeakReport

    Raises
    ------
    InputError
        No part, a part without rows, or a frame without the column text.
    """
    frames = {str(name): _frame(str(name), rows) for name, rows in parts.items()}
    if not frames:
        raise InputError("the leak guard needs at least one part, for example {'train': ..., 'test': ...}")
    whole = pd.concat(list(frames.values()), ignore_index=True)
    keys = whole["text"].map(alike.normalise)
    near, similarity = alike.pairs(keys, threshold)
    labels = whole["label"].tolist() if "label" in whole else None
    looker = _Looker(whole, keys, alike.clusters(len(whole), near), _similarities(near, similarity), labels)
    ends = np.cumsum([len(frame) for frame in frames.values()])
    spans = {name: (end - len(frames[name]), end) for name, end in zip(frames, ends.tolist(), strict=True)}
    inside = tuple(looker.overlap(name, name, spans) for name in frames) if within else ()
    across = tuple(looker.overlap(later, earlier, spans) for earlier, later in combinations(frames, 2))
    return LeakReport(frames, inside, across, looker.chance() if len(frames) == 1 else None)


def _frame(name: str, rows: pd.DataFrame | Sequence[str]) -> pd.DataFrame:
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame({"text": list(rows)}, dtype=object)
    if "text" not in frame or len(frame) == 0:
        what = "no rows" if "text" in frame else f"no column 'text', only {listed(frame.columns)}"
        raise InputError(f"part {name!r} has {what}")
    kept = frame[[c for c in ("text", "label", "group", "source_row") if c in frame]].reset_index(drop=True)
    return kept.assign(text=pd.Series(list(map(tables.as_text, kept["text"])), dtype=object))


def _similarities(near: np.ndarray, similarity: np.ndarray) -> dict[tuple[int, int], float]:
    return {(a, b): s for (a, b), s in zip(near.tolist(), similarity.tolist(), strict=True)}


@dataclass(frozen=True)
class _Looker:
    """All rows in one frame, with what links them."""

    whole: pd.DataFrame
    keys: pd.Series
    cluster: np.ndarray  # (n_rows,)
    similarity: dict[tuple[int, int], float]
    labels: list[Any] | None

    def overlap(self, part: str, other: str, spans: Mapping[str, tuple[int, int]]) -> Overlap:
        """Rows of `part` found in `other`; within one part, rows found among the earlier ones."""
        (start, stop), (begin, end) = spans[part], spans[other]
        found: dict[int, tuple[str, int]] = {}
        columns = {"exact": self.whole["text"], "normalised": self.keys, "near": pd.Series(self.cluster)}
        if "group" in self.whole:
            groups = self.whole["group"].map(tables.as_text, na_action="ignore").replace("", None)
            columns["group"] = groups if part != other else groups[:0]
        for kind, values in columns.items():
            for row, first in _matches(values, (start, stop), (begin, end)):
                found.setdefault(row, (kind, first))
        rows = [self._line(row, kind, first, start, begin) for row, (kind, first) in sorted(found.items())]
        names = ["row", "kind", "other_row", "similarity", "conflict"]
        n_other_found = int(self.keys[begin:end].isin(set(self.keys[start:stop])).sum()) if part != other else 0
        return Overlap(part, other, stop - start, end - begin, pd.DataFrame(rows, columns=names), n_other_found)

    def _line(self, row: int, kind: str, first: int, start: int, begin: int) -> tuple[int, str, int, float, bool]:
        similarity = 1.0 if kind in ("exact", "normalised") else np.nan
        if kind == "near":
            similarity = self.similarity.get((min(row, first), max(row, first)), np.nan)
        conflict = kind in ("exact", "normalised") and self.labels is not None
        if conflict and self.labels is not None:
            ours, theirs = self.labels[row], self.labels[first]
            conflict = pd.notna(ours) and pd.notna(theirs) and ours != theirs
        return row - start, kind, first - begin, similarity, conflict

    def chance(self) -> float:
        """Expected share of a random fifth whose cluster reaches into the other four fifths."""
        sizes = np.bincount(self.cluster)[self.cluster]
        return float((1 - 0.2 ** (sizes - 1)).mean())


def _matches(values: pd.Series, here: tuple[int, int], there: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows of one span whose value stands in another span (or earlier in the same one), each with the first such."""
    known: dict[Any, int] = {}
    within, found = here == there, []
    cells = values.tolist()
    if not within:
        for row in range(*there):
            if row < len(cells) and pd.notna(cells[row]):
                known.setdefault(cells[row], row)
    for row in range(*here):
        value = cells[row] if row < len(cells) else None
        if value is None or pd.isna(value):
            continue
        if value in known:
            found.append((row, known[value]))
        elif within:
            known[value] = row
    return found
