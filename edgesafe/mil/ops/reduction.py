"""Reductions over `axes` (all of them where none are named), and the place of the largest or smallest element of one axis."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .elementwise import DTYPES

Axes = Sequence[int] | None


def over(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, *, axes: Axes = None, keep_dims: bool = False) -> Tensor:
        return function(x, tuple(range(x.ndim)) if axes is None else tuple(axes), keep_dims)

    return reduce


def product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def total(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)  # torch would widen integers


def argmax(x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return x.argmax(axis, keepdim=keep_dims).to(DTYPES[output_dtype])


def argmin(x: Tensor, *, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return x.argmin(axis, keepdim=keep_dims).to(DTYPES[output_dtype])


def cumsum(x: Tensor, *, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    turned = x.flip(axis) if reverse else x
    summed = turned.cumsum(axis, dtype=x.dtype)
    if exclusive:
        summed = summed - turned
    return summed.flip(axis) if reverse else summed


OPERATIONS: dict[str, Callable[..., Any]] = {
    "reduce_mean": over(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "reduce_sum": over(total),
    "reduce_max": over(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_min": over(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_prod": over(product),
    "reduce_l1_norm": over(lambda x, axes, keep: total(x.abs(), axes, keep)),
    "reduce_l2_norm": over(lambda x, axes, keep: total(x.square(), axes, keep).sqrt()),
    "reduce_sum_square": over(lambda x, axes, keep: total(x.square(), axes, keep)),
    "reduce_log_sum": over(lambda x, axes, keep: total(x, axes, keep).log()),
    "reduce_log_sum_exp": over(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "reduce_argmax": argmax,
    "reduce_argmin": argmin,
    "cumsum": cumsum,
}
