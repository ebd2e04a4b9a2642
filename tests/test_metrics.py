"""Each metric against an independent reference: scipy, closed forms, brute force, numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import kernel_distance
from edgesafe.metrics.pixels import difference, psnr_db
from edgesafe.metrics.spread import summary
from edgesafe.metrics.wilson import Rate, interval


@pytest.mark.parametrize(("hits", "total"), [(0, 48), (1, 48), (24, 48), (47, 48), (48, 48), (3, 7), (81, 263)])
def test_wilson_equals_scipy(hits: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    theirs = stats.binomtest(hits, total).proportion_ci(0.95, "wilson")
    assert interval(hits, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("hits", "total", "low", "high"), NEWCOMBE)
def test_wilson_equals_newcombes_table(hits: int, total: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert interval(hits, total) == pytest.approx((low, high), abs=5e-5)


def test_rate_of_nothing() -> None:
    assert Rate(0, 0).to_dict() == {"numerator": 0, "denominator": 0, "rate": None, "wilson95": [0.0, 1.0]}
    assert math.isnan(Rate(0, 0).value)
    assert Rate.of([True, False, True]) == Rate(2, 3)


def gaussian(n: int, mean: float, scale: Tensor, seed: int) -> Tensor:
    """(n, D) samples whose mean and covariance are exactly `mean` and diag(scale^2)."""
    x = torch.randn(n, len(scale), generator=Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x * scale + mean


def test_frechet_equals_the_closed_form_of_gaussians() -> None:
    """Diagonal covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2."""
    s_a, s_b = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([2.0, 0.5, 0.5, 1.0])
    a, b = gaussian(50, 0.0, s_a, 0), gaussian(70, 1.5, s_b, 1)
    assert frechet_distance(a, b) == pytest.approx(4 * 1.5**2 + float((s_a - s_b).square().sum()), abs=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_equals_scipys_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    a, b = np.random.default_rng(0).normal(size=(40, 5)), np.random.default_rng(1).normal(size=(30, 5)) * 2 + 1
    c_a, c_b = np.cov(a.T), np.cov(b.T)
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * linalg.sqrtm(c_a @ c_b).real)
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(theirs, abs=1e-8)


def test_kernel_equals_brute_force() -> None:
    a, b = (torch.randn(n, 3, generator=Generator().manual_seed(n), dtype=torch.float64) for n in (6, 4))

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    def within(x: Tensor) -> float:
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    cross = [k(x, y) for x in a for y in b]
    assert kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * sum(cross) / len(cross), abs=1e-12)


def test_pixels() -> None:
    a = torch.full((2, 3, 4, 4), 0.5)
    b = a.clone()
    b[1] += 0.1
    assert psnr_db(a, b).tolist() == pytest.approx([120.0, 20.0], abs=1e-4)
    found = difference(a, b)
    assert (found["pictures"], found["identical_pictures"]) == (2, 1)
    assert found["largest_difference_levels"] == pytest.approx(25.5, abs=1e-3)
    assert found["mean_difference_levels"] == pytest.approx(12.75, abs=1e-3)


def test_spread_equals_numpys_quartiles() -> None:
    samples = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0]
    found = summary(samples)
    q1, median, q3 = np.percentile(samples, [25, 50, 75])
    assert (found["q1_ms"], found["median_ms"], found["q3_ms"], found["n"]) == (q1, median, q3, 7)
    assert found["iqr_ms"] == pytest.approx(q3 - q1)
    assert found["warning"] == "wide spread: the middle half of 7 runs spans 108% of the median; was the machine busy?"


def test_a_narrow_spread_has_no_warning() -> None:
    assert summary([10.0, 10.1, 10.2])["warning"] is None
    assert summary([5.0])["iqr_ms"] == 0


def test_a_rate_of_a_tensor_and_its_text() -> None:
    assert Rate.of([True, False, True]) == Rate(2, 3) == Rate.of(torch.tensor([[True], [False], [True]]))
    assert str(Rate(24, 48)) == "24/48 = 50.0% [36.4%, 63.6%]"
    assert str(Rate(0, 0)) == "0/0"
