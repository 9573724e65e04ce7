"""Tells which texts are alike: equal after normalisation, or near-duplicates among a million others.

Near-duplicates share at least 85 % of their words (Jaccard index of the word sets), digits alike: one campaign, many
phone numbers. MinHash signatures (by rensa) cut into 28 bands of 7 rows propose 99.998 % of the pairs at that threshold
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3); every pair is verified, so none below is reported.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

THRESHOLD = 0.85
BANDS, ROWS = 28, 7
SEED = 1729
CHUNK = 10_000  # sets whose signatures are in memory at a time
CHUNK_WORDS = 4_000_000  # words of the pairs that are compared at a time
WHOLE_BUCKET = 24  # in larger ones each set meets the next one and a few pivots only, so that work stays linear
PIVOTS = 8
_DIGITS = re.compile(r"\d+")
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


class _Fold(dict[int, str]):
    """Translation table for `str.translate`, filled as characters occur: letters, marks, digits and symbols stay."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        hidden = category == "Cf" or _INVISIBLE.match(chr(code))
        self[code] = "" if hidden else chr(code) if category[0] in "LMNS" else " "
        return self[code]


_FOLD = _Fold()


def normalise(text: str) -> str:
    """Bring texts that a reader would call the same to one form.

    NFKC, case folded, punctuation and runs of spaces to one space, invisible characters dropped; letters, digits and
    symbols (currency, emoji) stay. A text of nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = unicodedata.normalize("NFC", folded.translate(_FOLD))  # marks that an invisible character held apart
    return " ".join(plain.split()) or " ".join(folded.split())


def tokens(normalised: str) -> set[str]:
    """The words of a normalised text; digits are alike, writing without spaces is cut into pairs of signs."""
    words = _DIGITS.sub("0", normalised).split()
    if normalised.isascii() or not _UNSPACED.search(normalised):
        return set(words)
    found: set[str] = set()
    for word in words:
        whole = len(word) < 2 or not _UNSPACED.search(word)
        found.update([word] if whole else (word[i : i + 2] for i in range(len(word) - 1)))
    return found


def pairs(normalised: Iterable[str], threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of near-duplicate texts.

    Parameters
    ----------
    normalised : iterable of str, n texts
        As `slmkit.data.normalise` gives them.
    threshold : float
        Least Jaccard index of a reported pair. The bands are laid out for 0.85: far lower values miss pairs.

    Returns
    -------
    pairs : ndarray of int64, shape (n_pairs, 2)
        Positions, the smaller first. A large cluster is spanned rather than listed pair by pair; `clusters` gives it.
    similarity : ndarray of float64, shape (n_pairs,)
    """
    ids, offsets, first, of_text = _word_sets(normalised)
    sets = _as_matrix(ids, offsets)
    found = list(_candidates(_bands(ids, offsets), sets, threshold))
    left, right = np.divmod(np.unique(np.concatenate([np.zeros(0, np.int64), *found])), max(len(first), 1))
    similarity = _jaccard(sets, left, right)
    near = similarity >= threshold
    repeats = np.flatnonzero(first[of_text] != np.arange(len(of_text)))  # their word set stood in an earlier text
    rows = np.concatenate([first[left[near]], first[of_text[repeats]]]), np.concatenate([first[right[near]], repeats])
    return np.sort(np.stack(rows, axis=1), axis=1), np.concatenate([similarity[near], np.ones(len(repeats))])


def clusters(n: int, found: np.ndarray) -> np.ndarray:
    """Cluster number of each of n texts, shape (n,), from pairs of shape (n_pairs, 2); one without a pair is alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(found), np.int8), (found[:, 0], found[:, 1])), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1])


def _word_sets(normalised: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The word sets that differ, end to end.

    Returns
    -------
    ids : ndarray of uint32
        Words as numbers, sorted within each set.
    offsets : ndarray of int64, shape (n_sets + 1,)
        Where each set begins and ends among them.
    first : ndarray of int64, shape (n_sets,)
        The text each set was first found in.
    of_text : ndarray of int64, shape (n_texts,)
        The set of each text.
    """
    vocabulary: dict[str, int] = {}
    known: dict[bytes, int] = {}
    first: list[int] = []
    of_text: list[int] = []
    for position, text in enumerate(normalised):
        numbers = np.sort([vocabulary.setdefault(word, len(vocabulary)) for word in sorted(tokens(text))]).astype(
            np.uint32
        )
        number = known.setdefault(numbers.tobytes(), len(first))
        if number == len(first):
            first.append(position)
        of_text.append(number)
    lengths = np.fromiter((len(raw) // 4 for raw in known), np.int64, len(known))
    ids = np.frombuffer(b"".join(known), np.uint32)
    return ids, np.append(0, np.cumsum(lengths)), np.asarray(first, np.int64), np.asarray(of_text, np.int64)


def _bands(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A number for each band of each set's signature, uint64, shape (n_sets, BANDS)."""
    from rensa import RMinHash

    n = len(offsets) - 1
    hashes = _scattered(np.arange(int(ids.max(initial=0)) + 1, dtype=np.uint64))
    weights = _scattered(np.arange(ROWS, dtype=np.uint64)) | np.uint64(1)
    bands = np.empty((n, BANDS), np.uint64)
    for start in range(0, n, CHUNK):
        begins = offsets[start : start + CHUNK + 1]
        flat = hashes[ids[begins[0] : begins[-1]]]
        relative = (begins - begins[0]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, relative, BANDS * ROWS, SEED)
        signatures = np.asarray(matrix.to_rows(), dtype=np.uint64).reshape(-1, BANDS, ROWS)  # (chunk, BANDS, ROWS)
        bands[start : start + CHUNK] = (_scattered(signatures) * weights).sum(axis=2, dtype=np.uint64)
    return bands


def _scattered(values: np.ndarray) -> np.ndarray:
    """64-bit numbers that look random: the finaliser of SplitMix64 (Steele et al. 2014). Overflow is meant."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _candidates(bands: np.ndarray, sets: csr_array, threshold: float) -> Iterator[np.ndarray]:
    """Pairs of sets that share a band, packed as first * n_sets + second, first < second."""
    n = len(bands)
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        bucket = np.cumsum(np.append(False, column[order][1:] != column[order][:-1]))[:n]
        size = np.bincount(bucket)[bucket]
        order, bucket, size = order[size > 1], bucket[size > 1], size[size > 1]
        for step in range(1, WHOLE_BUCKET):
            meet = (bucket[step:] == bucket[:-step]) & ((size[step:] <= WHOLE_BUCKET) | (step == 1))
            yield order[:-step][meet] * n + order[step:][meet]
        large = size > WHOLE_BUCKET
        ends = np.flatnonzero(np.diff(bucket[large])) + 1
        for members in np.split(order[large], ends) if large.any() else ():
            yield from _spanned(members, sets, threshold)


def _spanned(members: np.ndarray, sets: csr_array, threshold: float) -> Iterator[np.ndarray]:
    """Pairs of a large bucket: all sets with the most typical one, then with that of those it is not near to, ..."""
    n, rest = sets.shape[0], members
    for _ in range(PIVOTS):
        if len(rest) <= WHOLE_BUCKET:
            break
        pivot = _most_typical(rest, sets)
        others = members[members != pivot]
        yield np.minimum(pivot, others) * n + np.maximum(pivot, others)
        rest = rest[_jaccard(sets, np.full(len(rest), pivot), rest) < threshold]
    if len(rest) <= WHOLE_BUCKET:
        left, right = np.triu_indices(len(rest), 1)
        yield rest[left] * n + rest[right]


def _most_typical(members: np.ndarray, sets: csr_array) -> int:
    """The set that differs least from all others of a bucket: the campaign's text rather than one of its variants."""
    held = sets[members]
    _, word, counts = np.unique(held.indices, return_inverse=True, return_counts=True)
    gain = np.append(0, np.cumsum(2 * counts[word] - len(members)))  # a word of the set: + its holders, - the others
    return int(members[np.diff(gain[held.indptr]).argmax()])


def _as_matrix(ids: np.ndarray, offsets: np.ndarray) -> csr_array:
    """The sets as rows of ones, shape (n_sets, n_words)."""
    from scipy.sparse import csr_array

    shape = (len(offsets) - 1, int(ids.max(initial=0)) + 1)
    return csr_array((np.ones(len(ids), np.int32), ids.astype(np.int64), offsets), shape=shape)


def _jaccard(sets: csr_array, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Jaccard index of each pair of sets, shape (n_pairs,)."""
    sizes = np.diff(sets.indptr).astype(np.int64)
    both = sizes[left] + sizes[right]
    shared = np.zeros(len(left))
    chunk = np.cumsum(both) // CHUNK_WORDS  # long texts are compared few at a time
    for part in np.split(np.arange(len(left)), np.flatnonzero(np.diff(chunk)) + 1):
        shared[part] = sets[left[part]].multiply(sets[right[part]]).sum(axis=1)
    return shared / np.maximum(both - shared, 1)
