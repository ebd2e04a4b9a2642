"""Kernel distance of two sets of features: KID (Binkowski 2018), the unbiased squared MMD with a cubic kernel.

    k(x, y) = (x.y / D + 1)^3,   MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j)

Features (N, D), (M, D). Unbiased at any size, and so sometimes a little below 0.
"""

import torch
from torch import Tensor


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)"""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()

    def within(x: Tensor) -> Tensor:
        k = cubic(x, x)
        return (k.sum() - torch.trace(k)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * cubic(a, b).mean())
