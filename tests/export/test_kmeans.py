"""Palettes against the exact dynamic programme over all values, and against coremltools' own k-means."""

import numpy as np
import pytest

from edgesafe.export import kmeans

RNG = np.random.default_rng(0)
WEIGHTS = {
    "normal": RNG.standard_normal(1200) * 0.03,
    "heavy tails": RNG.standard_t(3, 1200) * 0.01,
    "three heaps": np.concatenate([RNG.normal(-0.3, 0.01, 400), RNG.normal(0, 0.05, 700), RNG.normal(0.5, 0.002, 100)]),
    "far from zero": RNG.uniform(99, 101, 1200),
}


def exact(weights: np.ndarray, k: int) -> float:
    """The least squared error, by trying every cut: O(k n^2)."""
    values, counts = np.unique(weights.astype(np.float64), return_counts=True)
    values = values - values.mean()
    sums = [np.concatenate([[0], np.cumsum(counts * values**power)]) for power in (0, 1, 2)]
    n, s, q = (total[None, :] - total[:, None] for total in sums)  # of values i..j - 1
    cost = np.where(n > 0, q - s * s / np.maximum(n, 1), np.inf)
    best = cost[0]
    for _ in range(k - 1):
        best = (best[:, None] + cost).min(0)
    return float(best[-1])


def squared(weights: np.ndarray, made: kmeans.Palettes) -> float:
    dense = np.take_along_axis(made.lut.astype(np.float64), made.codes.astype(np.intp), 1)
    return float(((dense - weights.astype(np.float64)) ** 2).sum())


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("k", [4, 16, 64])
def test_centres_are_within_a_thousandth_of_the_exact_ones(name: str, k: int) -> None:
    values, counts = np.unique(WEIGHTS[name].astype(np.float16).astype(np.float64), return_counts=True)
    (centres,) = kmeans.cluster(values, counts.astype(np.float64), np.array([0, len(values)]), k)
    nearest = np.abs(values[:, None] - centres).min(1)
    best = exact(WEIGHTS[name].astype(np.float16), k)
    spread = (counts * (values - values.mean()) ** 2).sum()
    assert (counts * nearest**2).sum() <= best * 1.001 + 1e-12 * spread


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_no_worse_than_coremltools(bits: int) -> None:
    from coremltools.optimize.coreml import _quantization_passes as passes  # what palettize_weights calls for each tensor

    weights = (RNG.standard_normal((1, 40_000)) * 0.02).astype(np.float16)
    made = kmeans.palettize(weights, bits)
    lut, indices = passes.palettize_weights._get_lut_and_indices(weights[0], "KMEANS", bits, None, 1, 0)
    theirs = float(((lut.astype(np.float16).reshape(-1)[indices].astype(np.float64) - weights[0]) ** 2).sum())
    assert squared(weights, made) <= theirs * 1.0005
    assert made.squared_error == pytest.approx(squared(weights, made), rel=1e-9)


def test_each_group_is_solved_as_if_alone() -> None:
    groups = np.stack([WEIGHTS["normal"], WEIGHTS["heavy tails"] + 0.1]).astype(np.float16)
    together, alone = kmeans.palettize(groups, 4), [kmeans.palettize(row[None], 4) for row in groups]
    for group, one in enumerate(alone):
        np.testing.assert_array_equal(together.lut[group], one.lut[0])
        np.testing.assert_array_equal(together.codes[group], one.codes[0])


@pytest.mark.parametrize("values", [[0.5], [-2.0, 0.0, 1e-7, 3.0], list(range(-8, 8)), [-0.0, 0.0, 65504.0, -65504.0]])
def test_few_values_are_kept_exactly(values: list[float]) -> None:
    weights = np.resize(np.array(values, np.float16), (1, 500))
    made = kmeans.palettize(weights, 4)
    assert squared(weights, made) == 0 and made.lut.shape == (1, 16) and (np.diff(made.lut[0].astype(float)) >= 0).all()
