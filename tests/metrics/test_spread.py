"""Quartiles are numpy's; the interval for a median is the sign test's, by counting all outcomes."""

import itertools

import numpy as np
import pytest

from edgesafe.metrics.spread import paired, sign_interval, summary


def test_quartiles_are_numpys() -> None:
    samples = list(np.random.default_rng(0).lognormal(3, 0.1, 31))
    found = summary(samples)
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
    assert [found["q1_ms"], found["median_ms"], found["q3_ms"]] == pytest.approx([low, median, high], abs=1e-3)
    assert found["warning"] is None
    assert "wide spread: the middle half of 3 runs spans 50% of the median" in summary([1.0, 2.0, 3.0])["warning"]


@pytest.mark.parametrize(("n", "k"), [(5, None), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6)])
def test_the_interval_is_the_sign_tests(n: int, k: int | None) -> None:
    """k from printed tables of the sign test (two-sided, 5 %)."""
    found = sign_interval(list(range(1, n + 1)))
    assert found == (None if k is None else (k, n + 1 - k))


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """All 2^n ways in which n values can fall below or above the true median 0, each as likely."""
    n = 10
    hits = 0
    for signs in itertools.product((-1, 1), repeat=n):
        low, high = sign_interval([sign * (i + 1) for i, sign in enumerate(signs)])
        hits += low <= 0 <= high
    assert 0.95 <= hits / 2**n < 0.99


def test_pairs() -> None:
    found = paired([30.0, 40.0, 10.0], [10.0, 20.0, 10.0])
    assert (found["n"], found["median"], found["interval95"]) == (3, 2.0, None)
    assert "wide spread: the middle half of 3 ratios spans 50% of their median" in found["warning"]
    steady = paired([2.0 + i / 1000 for i in range(10)], [1.0] * 10)
    assert steady["interval95"] == [2.001, 2.008] and steady["warning"] is None
    with pytest.raises(ValueError):
        paired([1.0], [])
