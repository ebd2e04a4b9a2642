"""Operations that move values about and change none: shapes, slices, joins, copies."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Mask = Sequence[bool] | None


def identity(x: Tensor) -> Tensor:
    return x


def reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """A size of 0 is that of x where the ranks are equal."""
    same = len(shape) == x.ndim and 0 not in x.shape
    return x.reshape([x.shape[i] if size == 0 and same else size for i, size in enumerate(shape)])


def expand_dims(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(*perm)


def flatten2d(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def concat(values: tuple[Tensor, ...], *, axis: int, interleave: bool = False) -> Tensor:
    if not interleave:
        return torch.cat(values, axis)
    return torch.stack(values, axis % values[0].ndim + 1).flatten(axis % values[0].ndim, axis % values[0].ndim + 1)


def stack(values: tuple[Tensor, ...], *, axis: int) -> Tensor:
    return torch.stack(values, axis)


def split(x: Tensor, *, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    return x.split(list(split_sizes) if split_sizes is not None else x.shape[axis] // int(num_splits or 1), axis)


def slice_by_index(
    x: Tensor,
    *,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    """numpy's x[begin : end : stride]; a true in a mask says: from the first, to the last, this one index alone."""
    index: list[Any] = []
    turned = []
    for i, size in enumerate(x.shape):
        step = stride[i] if stride else 1
        if squeeze_mask and squeeze_mask[i]:
            index.append(begin[i])
            continue
        first = None if begin_mask and begin_mask[i] else begin[i]
        last = None if end_mask and end_mask[i] else end[i]
        if step > 0:
            index.append(slice(first, last, step))
        else:  # torch has no negative steps
            kept = range(*slice(first, last, step).indices(size))
            index.append(slice(kept[-1], kept[0] + 1, -step) if kept else slice(0, 0))
            turned.append(len([entry for entry in index if isinstance(entry, slice)]) - 1)
    made = x[tuple(index)]
    return made.flip(turned) if turned else made


def slice_by_size(x: Tensor, *, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin, size, strict=True))]


def tile(x: Tensor, *, reps: Sequence[int]) -> Tensor:
    return x.repeat(*reps)


def reverse(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else list(axes))


def pad(x: Tensor, *, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """`pad`: before and after, for the last len(pad) / 2 axes in order; torch wants the last axis first."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    while len(pairs) > 1 and pairs[0] == (0, 0) and mode != "constant":
        pairs.pop(0)
    sizes = [size for pair in reversed(pairs) for size in pair]
    if mode == "constant":
        return F.pad(x, sizes, value=constant_val)
    outer = x.reshape(1, -1, *x.shape[x.ndim - len(pairs) :])
    made = F.pad(outer, sizes, mode=mode)
    return made.reshape(*x.shape[: x.ndim - len(pairs)], *made.shape[2:])


def fill(*, shape: Sequence[int], value: float | int | bool) -> Tensor:
    dtype = torch.bool if isinstance(value, bool) else torch.int32 if isinstance(value, int) else torch.float32
    return torch.full(list(shape), value, dtype=dtype)


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def depth_to_space(x: Tensor, *, block_size: int) -> Tensor:
    """(N, b b C, H, W) -> (N, C, H b, W b), the block outside the channels."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def space_to_depth(x: Tensor, *, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def pixel_shuffle(x: Tensor, *, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, *, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


def band_part(x: Tensor, *, lower: int = -1, upper: int = -1) -> Tensor:
    x = x if upper < 0 else x.tril(upper)
    return x if lower < 0 else x.triu(-lower)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "identity": identity,
    "reshape": reshape,
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "transpose": transpose,
    "flatten2d": flatten2d,
    "concat": concat,
    "stack": stack,
    "split": split,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "tile": tile,
    "reverse": reverse,
    "pad": pad,
    "fill": fill,
    "shape": shape,
    "range_1d": range_1d,
    "depth_to_space": depth_to_space,
    "space_to_depth": space_to_depth,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "band_part": band_part,
}
