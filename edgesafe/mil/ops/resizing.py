"""Pictures made larger or smaller: nearest neighbour and bilinear, over the last two axes."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def upsample_nearest_neighbor(x: Tensor, *, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Pixel i of n comes from floor(i / scale)."""
    if scale_factor_height == int(scale_factor_height) and scale_factor_width == int(scale_factor_width):
        return _flat(x, lambda y: F.interpolate(y, scale_factor=(float(scale_factor_height), float(scale_factor_width)), mode="nearest"))
    size = int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width)
    return _flat(x, lambda y: F.interpolate(y, size, mode="nearest"))


def resize_nearest_neighbor(x: Tensor, *, target_size_height: int, target_size_width: int) -> Tensor:
    return _flat(x, lambda y: F.interpolate(y, (target_size_height, target_size_width), mode="nearest"))


def upsample_bilinear(
    x: Tensor, *, scale_factor_height: float = 1, scale_factor_width: float = 1, align_corners: bool = True, half_pixel_centers: bool = True
) -> Tensor:
    """torch's recompute_scale_factor=True: the scale is that of the sizes."""
    if not align_corners and not half_pixel_centers:
        raise ValueError("align_corners and half_pixel_centers are both false, which torch cannot compute")
    size = int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width)
    return _flat(x, lambda y: F.interpolate(y, size, mode="bilinear", align_corners=align_corners))


def resize_bilinear(x: Tensor, *, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT") -> Tensor:
    corners = {"STRICT_ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
    if sampling_mode not in corners:
        raise ValueError(f"the sampling mode {sampling_mode} is not known; known: {', '.join(corners)}")
    size = target_size_height, target_size_width
    return _flat(x, lambda y: F.interpolate(y, size, mode="bilinear", align_corners=corners[sampling_mode]))


def _flat(x: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """(..., H, W) by way of (N, C, H, W)"""
    made = resize(x if x.ndim == 4 else x.reshape(1, -1, *x.shape[-2:]))
    return made.reshape(*x.shape[:-2], *made.shape[-2:])


OPERATIONS: dict[str, Callable[..., Any]] = {
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "resize_bilinear": resize_bilinear,
}
