"""Rates with their counts and intervals, and distances between sets of embeddings: pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959964  # the normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Rate:
    """`hits` of `total`, with its Wilson interval (Wilson 1927, equation without continuity correction)."""

    hits: int
    total: int

    @classmethod
    def of(cls, mask: Tensor) -> "Rate":
        return cls(int(mask.sum()), mask.numel())

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %"""
        if not self.total:
            return 0.0, 1.0
        n, p, z2 = self.total, self.hits / self.total, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_dict(self) -> dict:
        low, high = self.interval
        return {"numerator": self.hits, "denominator": self.total, "rate": round(self.value, 4), "wilson95": [round(low, 4), round(high, 4)]}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{self.total} = {self.value:.1%} [{low:.1%}, {high:.1%}]"


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of embeddings (N, D), (M, D): FID (Heusel 2017), in this embedding.

    Biased upward by about tr(C)/N: compare sets of equal sizes, and with the same figure between two sets of real pictures.
    """
    a, b = a.double(), b.double()
    c_a, c_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(c_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c_b @ root).clamp_min(0).sqrt().sum()  # tr (C_a C_b)^1/2, of a symmetric matrix
    return float((a.mean(0) - b.mean(0)).square().sum() + c_a.trace() + c_b.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD with k(x, y) = (x.y/D + 1)^3: KID (Binkowski 2018), in this embedding."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
