"""Learning curves: known laws are found again, with honest intervals, and leads and crossings are where they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from slmkit.curves import law
from slmkit.errors import InputError

SIZES = (16, 32, 64, 128, 256)
N = np.array(SIZES, dtype=float)


def power(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a + b * n**-c


def answers(rates: np.ndarray, n_test: int, seeds: int, spread: float = 0.0) -> list[np.ndarray]:
    """Whether each test row is got right, shape (S, n_test) a seed: a row is hard or easy for all sizes alike."""
    rng = np.random.default_rng(5)
    return [rng.random(n_test) >= np.clip(rates + spread * rng.normal(), 0, 1)[:, None] for _ in range(seeds)]


@pytest.mark.parametrize("known", [(0.05, 1.0, 0.5), (0.2, 0.8, 1.0), (0.0, 0.6, 0.2), (0.1, 0.0, 1.0)])
def test_a_law_without_noise_is_found_again(known: tuple[float, float, float]) -> None:
    found = law.fit(SIZES, power(N, *known)[None])
    assert found.error(N)[0] == pytest.approx(power(N, *known), abs=1e-3)
    assert found.error(np.array([512.0]))[0] == pytest.approx(power(np.array([512.0]), *known), abs=3e-3)
    assert found.a[0] == pytest.approx(known[0], abs=6e-3)
    if known[1]:
        assert found.c[0] == pytest.approx(known[2], rel=0.03)


def test_noisy_laws_are_found_within_their_intervals() -> None:
    known = (0.06, 1.1, 0.6)
    right = answers(power(N, *known), n_test=2000, seeds=3)
    found = law.fit(SIZES, np.vstack([law.errors_of(right)[None], law.resampled(right)]))
    for value, name in zip(known, "abc", strict=True):
        _, low, high = law.interval(getattr(found, name))
        assert low <= value <= high, name
    value, low, high = law.interval(found.error(np.array([512.0]))[:, 0])
    assert low <= power(np.array([512.0]), *known)[0] <= high and high - low < 0.05 and abs(value - 0.086) < 0.02


def test_the_fit_is_no_worse_than_scipy_s() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        errors = np.clip(power(N, 0.1, 1.0, 0.5) + rng.normal(0, 0.015, 5), 0, 1)
        ours = law.fit(SIZES, errors[None]).error(N)[0]
        theirs, _ = curve_fit(power, N, errors, p0=(0.1, 1.0, 0.5), bounds=([0, 0, 0.05], [1, np.inf, 2.0]))
        loss = ((power(N, *theirs) - errors) ** 2).sum()
        assert ((ours - errors) ** 2).sum() <= 1.02 * loss + 1e-6


def test_a_curve_never_rises_and_two_sizes_leave_no_error_that_stays() -> None:
    rising = law.fit(SIZES, np.array([[0.1, 0.15, 0.2, 0.25, 0.3]]))
    assert rising.b[0] == 0 and rising.error(N)[0] == pytest.approx(np.full(5, 0.2))
    two = law.fit((16, 64), np.array([[0.4, 0.2]]))
    assert two.a[0] == 0 and two.error(np.array([16.0, 64.0]))[0] == pytest.approx([0.4, 0.2], abs=4e-3)
    with pytest.raises(InputError, match="errors at two sizes or more; got 1 sizes"):
        law.fit((16,), np.array([[0.4]]))


def test_resampling_varies_with_rows_and_seeds_as_theory_says() -> None:
    rates = np.array([0.3, 0.1])
    one = law.resampled(answers(rates, n_test=400, seeds=1), resamples=4000)
    assert one.std(axis=0) == pytest.approx(np.sqrt(rates * (1 - rates) / 400), rel=0.15)
    assert np.corrcoef(one.T)[0, 1] > 0.3, "the same rows are drawn for all"
    luck = answers(rates, n_test=400, seeds=4, spread=0.08)
    means = np.array([1 - seed.mean(axis=1) for seed in luck])
    expected = np.sqrt((means.var(axis=0) + (means * (1 - means) / 400).mean(axis=0)) / 4)
    assert law.resampled(luck, resamples=4000).std(axis=0) == pytest.approx(expected, rel=0.1)
    assert (law.resampled(luck, seed=3) == law.resampled(luck, seed=3)).all()


def leads(ours: tuple[float, float, float], theirs: tuple[float, float, float]) -> float:
    labels = law.grid(SIZES)
    return float(law.lead_from(power(labels, *ours)[None], power(labels, *theirs)[None], labels, SIZES[-1])[0])


def test_a_lead_begins_where_the_curves_cross_and_lasts() -> None:
    assert leads((0.0, 2.0, 0.5), (0.2, 0.0, 1.0)) == pytest.approx(100, rel=0.03), "2 / sqrt(n) = 0.2 at n = 100"
    assert leads((0.0, 0.2, 0.5), (0.2, 0.0, 1.0)) == 16, "ahead from the start"
    assert leads((0.0, 4.0, 0.5), (0.2, 0.0, 1.0)) == pytest.approx(400, rel=0.03), "beyond what was measured"
    assert leads((0.0, 8.0, 0.5), (0.2, 0.0, 1.0)) == np.inf, "not within twice the largest size"
    assert leads((0.2, 0.0, 1.0), (0.0, 2.0, 0.5)) == np.inf, "an early lead that is lost is none"


def test_a_lead_that_is_lost_says_until_when() -> None:
    labels = law.grid(SIZES)
    flat, falling = power(labels, 0.2, 0.0, 1.0), power(labels, 0.0, 2.0, 0.5)
    assert law.lead_until(flat, falling, labels, 256) == pytest.approx(100, rel=0.03)
    assert law.lead_until(falling, flat, labels, 256) is None
    assert law.lead_until(flat - 0.2, falling, labels, 256) is None, "never lost"


def test_labels_until_an_error_invert_the_curve() -> None:
    found = law.Fit(np.array([0.0, 0.1, 0.0]), np.array([2.0, 1.0, 0.0]), np.array([0.5, 1.0, 1.0]))
    assert found.labels_until(np.array([0.1, 0.1, 0.1])).tolist() == [pytest.approx(400), np.inf, 0]


def test_bounds_are_open_beyond_twice_the_largest_size() -> None:
    labels = np.array([300.0, *np.linspace(200, 400, 90), *[np.inf] * 10])
    found = law.bound(labels, SIZES)
    assert (found.labels, found.high, found.limit, found.extrapolated) == (300.0, None, 512.0, True)
    assert found.low is not None and 200 <= found.low < 210
    far = law.bound(np.array([900.0, 400.0, 500.0]), SIZES)
    assert far.labels is None and far.extrapolated and (far.low, far.high) == (400.0, 500.0)
    assert not law.bound(np.array([40.0, 30.0, 50.0]), SIZES).extrapolated
