"""Every `constexpr_*` operation that coremltools writes: compressed weights -> what they stand for, in numpy.

Floating results are fp32; values.tensor rounds them where the program declares fp16. A name has two forms, by its parameters: iOS 16
packs indices and masks into plain bytes and names a `shape`, iOS 18 has types of 1, 2, 3, 4 and 6 bits (unpacked before they come here).
    lut    iOS 18: (g_1, ..., g_K, 2^n, v): for data of K axes, a table of 2^n vectors of v values for each block of it
    scale  iOS 18: of data's rank; each entry is for a block of data.shape[i] / scale.shape[i] elements along axis i
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray as Array

from .datatypes import unpack


def affine_dequantize(quantized_data: Array, scale: Array, zero_point: Array, axis: Array) -> Array:
    """scale (data - zero_point), both one number or one an index of `axis`."""

    def along(x: Array) -> Array:
        if not x.ndim:
            return x.astype(np.float32)
        shape = [1] * quantized_data.ndim
        shape[int(axis)] = -1
        return x.astype(np.float32).reshape(shape)

    return along(scale) * (quantized_data.astype(np.float32) - along(zero_point))


def lut_to_dense(indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None) -> Array:
    table = lut.astype(np.float32) if lut.dtype == np.float16 else lut
    if shape is not None:
        sizes = tuple(int(size) for size in shape)
        bits = (len(table) - 1).bit_length()
        return table[indices if bits == 8 else unpack(indices, bits, int(np.prod(sizes)))].reshape(sizes)
    groups, vector = lut.shape[:-2], lut.shape[-1]
    if max(groups) == 1 and vector == 1:
        return table.reshape(-1)[indices]
    blocks = tuple(size // group for size, group in zip(indices.shape, groups, strict=True))
    split = indices.reshape([n for pair in zip(groups, blocks, strict=True) for n in pair])  # (g_1, b_1, g_2, b_2, ...)
    where = np.ix_(*(np.arange(group) for group in groups))
    where = tuple(axis.reshape([n for pair in zip(axis.shape, [1] * len(groups), strict=True) for n in pair]) for axis in where)
    found = table[(*where, split)].reshape(*indices.shape, vector)
    axis = 0 if vector_axis is None else int(vector_axis) % indices.ndim
    longer = [size * vector if i == axis else size for i, size in enumerate(indices.shape)]
    return np.moveaxis(found, -1, axis + 1).reshape(longer)


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    if shape is not None:
        sizes = tuple(int(size) for size in shape)
        mask = unpack(mask, 1, int(np.prod(sizes))).reshape(sizes)
    made = np.zeros(mask.shape, np.float32 if nonzero_data.dtype == np.float16 else nonzero_data.dtype)
    made[mask != 0] = nonzero_data
    return made


def cast(source_val: Array, output_dtype: Array) -> Array:
    return source_val.astype(np.float32)  # the only one that the format allows


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale (data - offset)"""

    def spread(x: Array) -> Array:
        x = x.astype(np.float32)
        for axis, (size, entries) in enumerate(zip(data.shape, x.shape, strict=True)):
            if 1 < entries < size:
                x = np.repeat(x, size // entries, axis)
        return x  # numpy broadcasts a size of one

    shifted = data.astype(np.float32)
    if offset is not None:
        shifted -= spread(offset)
    shifted *= spread(scale)
    return shifted


def lut_to_sparse(indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None) -> tuple[Array, Array]:
    dense = lut_to_dense(sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis=vector_axis)
    mask = indices_mask if vector_axis is None else np.repeat(indices_mask, lut.shape[-1], int(vector_axis))
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None) -> tuple[Array, Array]:
    return data_mask, blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, offset)[data_mask != 0]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "constexpr_cast": cast,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
}
