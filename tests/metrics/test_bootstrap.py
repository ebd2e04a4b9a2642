"""Clustered rates: against enumeration, scipy's bootstrap and analysis of variance, and by how often the limit covers a known truth."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from edgesafe.metrics.bootstrap import clustered, effective, icc, rate
from edgesafe.metrics.wilson import interval


def unequal() -> tuple[list[bool], list[str]]:
    """24 clusters of 1 to 7 pictures, shares from a beta distribution."""
    rng = np.random.default_rng(3)
    flags: list[bool] = []
    clusters: list[str] = []
    for i in range(24):
        n = int(rng.integers(1, 8))
        flags += (rng.random(n) < rng.beta(0.6, 1.2)).tolist()
        clusters += [f"prompt {i}"] * n
    return flags, clusters


def sizes(flags: list[bool], clusters: list[str]) -> tuple[np.ndarray, np.ndarray]:
    names = list(dict.fromkeys(clusters))
    rows = [[f for f, c in zip(flags, clusters, strict=True) if c == name] for name in names]
    return np.array([sum(row) for row in rows]), np.array([len(row) for row in rows])


def test_bootstrap_is_the_enumeration_of_all_draws() -> None:
    flags, clusters = [True, False, True, True, False, False, False, False, True], list("aabbccddd")
    hits, counts = sizes(flags, clusters)
    draws = [list(d) for d in itertools.product(range(4), repeat=4)]
    exact = np.quantile([hits[d].sum() / counts[d].sum() for d in draws], (0.025, 0.975))
    assert clustered(flags, clusters, draws=200_000) == pytest.approx(tuple(exact))


def test_bootstrap_agrees_with_scipy() -> None:
    flags, clusters = unequal()
    found = stats.bootstrap(
        sizes(flags, clusters), lambda h, n, axis: h.sum(axis) / n.sum(axis), paired=True, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert clustered(flags, clusters, draws=20_000) == pytest.approx((found.low, found.high), abs=0.01)


def test_bootstrap_depends_on_seed_alone() -> None:
    flags, clusters = unequal()
    assert clustered(flags, clusters, seed=5) == clustered(flags, clusters, seed=5) != clustered(flags, clusters, seed=6)


def test_icc_is_that_of_an_analysis_of_variance() -> None:
    flags, clusters = unequal()
    counts = sizes(flags, clusters)[1]
    groups = [[float(f) for f, c in zip(flags, clusters, strict=True) if c == name] for name in dict.fromkeys(clusters)]
    f = stats.f_oneway(*groups).statistic  # MSB / MSW
    n0 = (counts.sum() - (counts**2).sum() / counts.sum()) / (len(counts) - 1)
    assert 0.1 < icc(flags, clusters) < 0.9
    assert icc(flags, clusters) == pytest.approx((f - 1) / (f + n0 - 1))


def test_icc_at_its_limits() -> None:
    assert icc([True, True, False, False], list("aabb")) == 1
    assert icc([True, False, True, False], list("aabb")) == 0  # less alike than by chance
    for flags, clusters in (([False] * 4, "aabb"), ([True] * 4, "aabb"), ([True, False], "aa"), ([True, False], "ab"), ([], "")):
        assert math.isnan(icc(flags, list(clusters)))


def test_effective_number_at_its_limits() -> None:
    assert effective(list("aabbcc"), 0) == 6
    assert effective(list("aabbcc"), 1) == 3
    assert effective(list("abcdef"), 1) == 6
    assert effective(list("aaaaab"), 1) == pytest.approx(36 / 26)  # Kish: (sum n)^2 / sum n^2
    assert effective([], 1) == 0


def test_one_picture_a_prompt_is_wilson() -> None:
    found = rate([False] * 200, range(200))
    assert found["upper95"] == found["wilson95"][1] == round(interval(0, 200)[1], 4)
    assert (found["numerator"], found["denominator"], found["rate"], found["clustered95"]) == (0, 200, 0.0, [0.0, 0.0])


def test_pictures_all_alike_count_as_prompts_unless_the_control_tells_more() -> None:
    clusters = [i // 10 for i in range(200)]
    assert rate([False] * 200, clusters)["upper95"] == round(interval(0, 20)[1], 4)
    assert rate([False] * 200, clusters, [True] * 200, clusters)["upper95"] == round(interval(0, 20)[1], 4)
    independent = [i % 2 == 0 for i in range(200)]
    assert rate([False] * 200, clusters, independent, clusters)["upper95"] == round(interval(0, 200)[1], 4)
    single = [i == 7 for i in range(200)]
    assert rate(single, clusters)["upper95"] == round(interval(0.1, 20)[1], 4), "one hit cannot tell how hits cluster"


def test_nothing_asked() -> None:
    found = rate([], [])
    assert found == {"numerator": 0, "denominator": 0, "rate": None, "wilson95": [0.0, 1.0], "clustered95": [0.0, 1.0], "upper95": 1.0}
    with pytest.raises(ValueError, match="2 flags and 1 clusters"):
        clustered([True, False], ["a"])


@pytest.mark.parametrize(
    ("k", "m", "rho", "truth"),
    [(20, 10, 0.0, 0.01), (20, 10, 0.3, 0.003), (20, 10, 0.3, 0.03), (20, 10, 0.6, 0.1), (40, 5, 0.3, 0.3), (6, 34, 0.3, 0.1)],
)
@pytest.mark.parametrize("with_control", [True, False])
def test_the_limit_covers_the_truth(k: int, m: int, rho: float, truth: float, with_control: bool) -> None:
    """Beta-binomial prompts; Wilson alone covers 56 to 100 % of such samples. 300 samples: 95 % less three standard errors is 91.2 %."""
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(k), m).tolist()

    def sample(share: float) -> list[bool]:
        strength = (1 - rho) / rho if rho else None
        shares = rng.beta(share * strength, (1 - share) * strength, k) if strength else np.full(k, share)
        return (rng.random((k, m)) < shares[:, None]).ravel().tolist()

    covered = silent = 0
    for _ in range(300):
        flags, control = sample(truth), sample(0.7)
        found = rate(flags, clusters, control, clusters) if with_control else rate(flags, clusters)
        covered += found["upper95"] >= truth
        silent += not any(flags)
    assert covered / 300 >= 0.912
    if truth == 0.003:
        assert silent > 200, "zero hits are the common case, and it must be covered"


def test_needs_no_torch() -> None:
    code = "import sys, edgesafe.metrics.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
