"""Values by their place. Negative indices count from the end, as iOS 16 allows; later systems forbid them, so nothing is lost."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def gather(x: Tensor, indices: Tensor, *, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """-> x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1:]"""
    axis %= x.ndim
    places = indices.long() % x.shape[axis] if _inside(indices, x.shape[axis]) else indices.long()
    if batch_dims == 0:
        return x.index_select(axis, places.reshape(-1)).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    rows = [gather(a, b, axis=axis - 1, batch_dims=batch_dims - 1) for a, b in zip(x, places, strict=True)]
    return torch.stack(rows)


def gather_along_axis(x: Tensor, indices: Tensor, *, axis: int = 0, validate_indices: bool = False) -> Tensor:
    return x.gather(axis, indices.long() % x.shape[axis] if _inside(indices, x.shape[axis]) else indices.long())


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """The last axis of `indices` holds places in x's axes after the batch axes."""
    if batch_dims:
        return torch.stack([gather_nd(a, b, batch_dims=batch_dims - 1) for a, b in zip(x, indices, strict=True)])
    return x[tuple(indices.long().unbind(-1))]


def _inside(indices: Tensor, size: int) -> bool:
    """Whether % only turns negative places; others stay as they are, for torch to refuse."""
    return indices.numel() > 0 and bool((indices >= -size).all()) and bool((indices < size).all())


OPERATIONS: dict[str, Callable[..., Any]] = {"gather": gather, "gather_along_axis": gather_along_axis, "gather_nd": gather_nd}
