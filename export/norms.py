"""GroupNorm without a square that fp16 cannot hold. x: (B, C, ...) in G groups, its deviations from the group's mean are

    c = x - mean(x)        y = c / m        m = max(max|c| / 128, floor)        y / sqrt(mean(y^2) + (sqrt(eps) / m)^2)

which is c / sqrt(mean(c^2) + eps) for any m > 0; this m keeps y^2 at or below 2^14. coremltools' own form squares c, and fp16 ends at
65,504: from |c| = 256 on the square is infinite and the output 0. A VAE's activations get there (deviations of hundreds to thousands).
Costs 7 more operations for each GroupNorm (14 for 7); two of them, abs and a division, go over the whole tensor.
"""

import torch
from torch import Tensor

PEAK = 128.0  # of |y|
FLOOR = 6.2e-5  # smallest m; fp16's numbers below 6.1e-5 lose digits


def group_norm(x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """As torch.nn.functional.group_norm."""
    shape, rest = x.shape, [1] * (x.ndim - 2)
    root = eps**0.5
    grouped = x.unflatten(1, (num_groups, -1))  # (B, G, C / G, ...)
    axes = list(range(2, grouped.ndim))
    c = grouped - grouped.mean(axes, keepdim=True)
    floor = torch.full((1,), max(FLOOR, root / 200), device=x.device)  # root / m stays below 256
    m = torch.maximum(c.abs().amax(axes, keepdim=True) * (1 / PEAK), floor)  # (B, G, 1, ...)
    y = c / m
    variance = y.square().mean(axes, keepdim=True) + (torch.full((1,), root, device=x.device) / m).square()
    y = (y / variance.sqrt()).reshape(shape)
    y = y if weight is None else y * weight.reshape(1, -1, *rest)
    return y if bias is None else y + bias.reshape(1, -1, *rest)
