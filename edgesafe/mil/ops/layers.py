"""What holds nearly all of the arithmetic: convolutions, products, attention, normalisation, pooling."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """(N, C, *spatial), weight (C', C / groups, *kernel)"""
    spatial = x.ndim - 2
    steps, spread = list(strides or [1] * spatial), list(dilations or [1] * spatial)
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    x, padding = _padded(x, kernel, steps, pad_type, pad)
    return CONVOLUTIONS[spatial](x, weight, bias, steps, padding, spread, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pad: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """weight (C, C' / groups, *kernel). What `pad` says is cut from the full result, and from its end what `output_shape` has not."""
    if pad_type.startswith("same"):
        raise ValueError(f"a transposed convolution of pad_type {pad_type} is not known; known: valid, custom")
    spatial = x.ndim - 2
    made = TRANSPOSED[spatial](x, weight, bias, list(strides or [1] * spatial), 0, 0, groups, list(dilations or [1] * spatial))
    cut = list(pad or [0] * 2 * spatial) if pad_type == "custom" else [0] * 2 * spatial
    for axis in range(spatial):
        size = output_shape[axis + 2] if output_shape else made.shape[axis + 2] - cut[2 * axis] - cut[2 * axis + 1]
        made = made.narrow(axis + 2, cut[2 * axis], size)
    return made


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, *, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.transpose(-1, -2) if transpose_x else x) @ (y.transpose(-1, -2) if transpose_y else y)


def einsum(values: tuple[Tensor, ...], *, equation: str) -> Tensor:
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + mask) v"""
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


def layer_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, axes: Sequence[int] | None = None, epsilon: float = 1e-5
) -> Tensor:
    places = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    if places == list(range(places[0], x.ndim)):
        return F.layer_norm(x, x.shape[places[0] :], gamma, beta, epsilon)
    variance, mean = torch.var_mean(x, places, correction=0, keepdim=True)
    made = (x - mean) * (variance + epsilon).rsqrt()
    sizes = [size if i in places else 1 for i, size in enumerate(x.shape)]
    made = made if gamma is None else made * gamma.reshape(sizes)
    return made if beta is None else made + beta.reshape(sizes)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, epsilon: float = 1e-5
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


def l2_norm(x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """x / sqrt(sum of squares of the last three axes + epsilon)"""
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


def avg_pool(
    x: Tensor,
    *,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    if ceil_mode or exclude_padding_from_average:
        raise ValueError("avg_pool with ceil_mode or exclude_padding_from_average is not known")
    steps = list(strides or [1] * len(kernel_sizes))
    x, padding = _padded(x, kernel_sizes, steps, pad_type, pad)
    return {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x.ndim - 2](x, tuple(kernel_sizes), steps, padding)


def _padded(x: Tensor, kernel: Sequence[int], steps: Sequence[int], kind: str, pad: Sequence[int] | None) -> tuple[Tensor, list[int]]:
    """(x, padding on both sides): x is padded already where its sides differ. `kernel`: sizes with their dilation."""
    sides = {"valid": [0] * 2 * len(kernel), "custom": list(pad or [0] * 2 * len(kernel))}.get(kind)
    if sides is None:
        if kind not in ("same", "same_lower"):
            raise ValueError(f"pad_type {kind!r} is not known; known: valid, custom, same, same_lower")
        sides = []
        for size, k, s in zip(x.shape[2:], kernel, steps, strict=True):
            whole = max((-(-size // s) - 1) * s + k - size, 0)
            less, more = whole // 2, whole - whole // 2
            sides += [less, more] if kind == "same" else [more, less]
    if sides[::2] == sides[1::2]:
        return x, sides[::2]
    return F.pad(x, [sides[2 * axis + side] for axis in reversed(range(len(kernel))) for side in (0, 1)]), [0] * len(kernel)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": linear,
    "matmul": matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "avg_pool": avg_pool,
}
