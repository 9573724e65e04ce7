"""Near-duplicates: planted ones are found, nothing below the threshold is a pair, and large clusters stay cheap."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit.splits import alike

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]


def jaccard(one: str, other: str) -> float:
    mine, theirs = alike.tokens(one), alike.tokens(other)
    return len(mine & theirs) / max(len(mine | theirs), 1)


def brute_force(texts: list[str], threshold: float = alike.THRESHOLD) -> set[tuple[int, int]]:
    sets = [alike.tokens(text) for text in texts]
    return {
        (i, j)
        for j in range(len(sets))
        for i in range(j)
        if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j])
    }


def found_pairs(texts: list[str], threshold: float = alike.THRESHOLD) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in alike.pairs(texts, threshold)[0]}


def same_clusters(texts: list[str], pairs: set[tuple[int, int]]) -> np.ndarray:
    return alike.clusters(len(texts), np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2))


def variant(words: list[str], rng: random.Random, changed: int) -> list[str]:
    """The same words in another order, some replaced by words that occur nowhere else."""
    kept = rng.sample(words, len(words) - changed)
    new = [f"{rng.choice(WORDS)}{rng.choice(WORDS)}" for _ in range(changed)]
    return rng.sample([*kept, *new], len(words))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), length=st.integers(3, 60), n=st.integers(2, 40))
def test_planted_near_duplicates_are_found_and_nothing_else_is_reported(seed: int, length: int, n: int) -> None:
    rng = random.Random(seed)
    originals = [rng.sample(WORDS, length) for _ in range(n)]
    most = int(length * (1 - alike.THRESHOLD) / (1 + alike.THRESHOLD))  # (length - k) / (length + k) >= threshold
    planted = [variant(words, rng, rng.randint(0, most)) for words in originals]
    texts = [" ".join(words) for words in (*originals, *planted)]
    assert all(jaccard(texts[i], texts[n + i]) >= alike.THRESHOLD for i in range(n)), "the test itself"
    found, expected = found_pairs(texts), brute_force(texts)
    assert {(i, n + i) for i in range(n)} <= found
    assert found == expected


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), vocabulary=st.integers(4, 30), length=st.integers(1, 12))
def test_a_few_hundred_crowded_texts_give_the_clusters_of_brute_force(seed: int, vocabulary: int, length: int) -> None:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS[:vocabulary], k=length)) for _ in range(300)]
    expected, (pairs, similarity) = brute_force(texts), alike.pairs(texts)
    assert {(int(a), int(b)) for a, b in pairs} <= expected
    assert np.array_equal(same_clusters(texts, found_pairs(texts)), same_clusters(texts, expected))
    assert np.allclose(similarity, [jaccard(texts[a], texts[b]) for a, b in pairs])


def test_a_pair_at_the_threshold_counts_and_one_below_does_not() -> None:
    at = " ".join(WORDS[:20]), " ".join(WORDS[:17])  # 17 / 20 = 0.85
    below = " ".join(WORDS[:19]), " ".join(WORDS[:16])  # 16 / 19 = 0.84
    assert found_pairs(list(at)) == {(0, 1)} and found_pairs(list(below)) == set()
    assert found_pairs(list(below), threshold=0.84) == {(0, 1)}
    assert alike.pairs(list(at))[1].tolist() == [0.85]


def test_pairs_are_sorted_and_words_in_another_order_or_with_other_digits_are_the_same() -> None:
    texts = ["call 0906 174 now", "nothing like it", "now call 0807 99", "call now 1"]
    pairs, similarity = alike.pairs(texts)
    assert {tuple(p) for p in pairs.tolist()} == {(0, 2), (0, 3)} and similarity.tolist() == [1.0, 1.0]
    assert alike.clusters(4, pairs)[[0, 2, 3]].tolist() == [alike.clusters(4, pairs)[0]] * 3


@pytest.mark.parametrize("texts", [[], ["one"], ["", ""], ["a", "b", ""]])
def test_few_or_empty_texts_are_no_special_case(texts: list[str]) -> None:
    pairs, similarity = alike.pairs(texts)
    assert pairs.shape == (len(brute_force(texts)) if texts != ["", ""] else 1, 2) and len(similarity) == len(pairs)
    assert len(alike.clusters(len(texts), pairs)) == len(texts)


def campaign(n: int, seed: int = 0, changed: int = 1) -> list[str]:
    """n texts that each differ from one text, in the middle, by one word of twenty; among each other they are 0.82."""
    rng = random.Random(seed)
    base = rng.sample(WORDS, 20)
    texts = [" ".join(variant(base, rng, changed)) for _ in range(n)]
    return [*texts[: n // 2], " ".join(base), *texts[n // 2 :]]


def test_five_thousand_near_identical_texts_are_one_cluster_and_few_pairs() -> None:
    texts = campaign(5_000)
    pairs, similarity = alike.pairs(texts)
    assert len(set(alike.clusters(len(texts), pairs).tolist())) == 1
    assert len(pairs) < 20 * len(texts), "12.5 million pairs are spanned, not listed"
    assert similarity.min() >= alike.THRESHOLD


@pytest.mark.parametrize("changed", [1, 3])
def test_work_grows_with_the_texts_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch, changed: int) -> None:
    """One cluster; and texts with so much in common that they are compared, none near to any other (0.74)."""
    compared: list[int] = []
    jaccard = alike._jaccard

    def counting(sets: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        compared.append(len(left))
        return jaccard(sets, left, right)

    monkeypatch.setattr(alike, "_jaccard", counting)
    counts = []
    for n in (1_000, 4_000):
        compared.clear()
        alike.pairs(campaign(n, changed=changed))
        counts.append(sum(compared))
    assert counts[1] < 6 * counts[0], counts


def test_two_campaigns_in_one_bucket_stay_two() -> None:
    first, second = campaign(400, seed=1), campaign(400, seed=2)
    mixed = [text for both in zip(first, second, strict=True) for text in both]
    numbers = alike.clusters(len(mixed), alike.pairs(mixed)[0])
    assert len(set(numbers[::2])) == len(set(numbers[1::2])) == 1 and numbers[0] != numbers[1]


def test_long_texts_in_a_large_cluster_are_compared_in_bounded_memory() -> None:
    rng = random.Random(0)
    words = [f"{a}{b}" for a in WORDS[:60] for b in WORDS[:60]]
    texts = [" ".join(rng.sample(words, 3_500)) for _ in range(300)]  # each shares 97 % of its words with any other
    tracemalloc.start()
    pairs, _ = alike.pairs(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(alike.clusters(len(texts), pairs).tolist())) == 1
    assert peak < 400e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize(
    ("one", "near", "other"),
    [
        (
            "您的账户已被冻结，请立即点击链接验证身份。",
            "您的账户已被冻结，请立即点击链接验证身份！！",
            "明天中午一起吃饭吗？",
        ),
        ("บัญชีของคุณถูกระงับ กรุณายืนยันตัวตน", "บัญชีของคุณถูกระงับ กรุณายืนยันตัวตนค่ะ", "พรุ่งนี้ไปกินข้าวกันไหม"),
        (
            "アカウントが停止されました。今すぐ確認してください",
            "アカウントが停止されました!今すぐ確認してください",
            "明日会いましょう",
        ),
    ],
)
def test_writing_without_spaces_is_compared_in_pairs_of_signs(one: str, near: str, other: str) -> None:
    texts = [alike.normalise(text) for text in (one, near, other)]
    assert found_pairs(texts) == brute_force(texts) == {(0, 1)}
    assert len(alike.tokens(texts[0])) > 10, "a whole sentence would be one word"


def test_words_with_spaces_are_not_cut_and_single_signs_stay() -> None:
    assert alike.tokens("straße 12 größe") == {"straße", "0", "größe"}
    assert alike.tokens("好 你好吗 iphone") == {"好", "你好", "好吗", "iphone"}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_and_surrounding_signs_do_not_count(text: str) -> None:
    once = alike.normalise(text)
    assert alike.normalise(once) == once
    if any(c.isalpha() for c in once):
        assert alike.normalise(f" \u200b{text}\u202e \u2066...") == once


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("e\u0301te\u0301", "été"),
        ("e\u200d\u0301te\u0301", "été"),  # a joiner keeps letter and accent apart
        ("☎\ufe0f now", "☎ now"),
        ("pa\u00adypal", "PayPal"),
        ("a\x00b", "a b"),
        ("a\u2028b\u00a0c", "a b c"),
    ],
)
def test_what_cannot_be_seen_makes_no_difference(one: str, other: str) -> None:
    assert alike.normalise(one) == alike.normalise(other)
