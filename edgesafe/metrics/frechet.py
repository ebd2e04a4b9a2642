"""Frechet distance of two sets of features, as if each were Gaussian: FID (Heusel 2017) in whatever embedding they come from.

    d = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2)

Features (N, D), (M, D). Biased upward when N is small (by about tr(C)/N and more below N = D): compare sets of equal size, beside
the same figure between two sets of real pictures.
"""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T  # C_a^1/2
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()  # tr (C_a C_b)^1/2, of a symmetric matrix
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)
