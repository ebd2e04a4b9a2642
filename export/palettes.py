"""Narrow forms of one weight, and the error of each.

    palette   W = lut[group, code]           2^bits values a tensor, or a group of output channels (iOS 18): kmeans.py
    scaled    W = scale[channel, block] q    q of 8 bits with a scale for each output channel, of 4 bits for each block of 32 inputs

A weight is seen as (C, n): C output channels, n inputs times kernel. For groups of channels: as few as 16 that divide C and whose
palettes take at most a fiftieth of the codes' bytes.
"""

from dataclasses import dataclass

import numpy as np

from edgesafe.errors import EdgeSafeError

from . import kmeans

FULL = 16  # bits: as it is
WIDTHS = {"palettize": (4, 6, 8), "quantize": (4, 8)}
GROUP, SHARE, BLOCK = 16, 1 / 50, 32
CLIPS = np.linspace(0.7, 1.0, 7, dtype=np.float32)  # of the block's largest value, tried as the largest code at 4 bits


@dataclass(frozen=True)
class Palette:
    lut: np.ndarray  # (G, 2^bits) of the weight's dtype
    codes: np.ndarray  # the weight's shape, uint8
    bits: int

    def dense(self) -> np.ndarray:
        """The weight that a device computes with, in the lut's dtype."""
        rows = self.codes.reshape(len(self.lut), -1)
        return np.stack([lut[row] for lut, row in zip(self.lut, rows, strict=True)]).reshape(self.codes.shape)

    @property
    def bytes(self) -> int:
        return self.codes.size * self.bits // 8 + self.lut.nbytes


@dataclass(frozen=True)
class Scaled:
    scale: np.ndarray  # (C, B) of the weight's dtype
    codes: np.ndarray  # the weight's shape, int8
    bits: int

    def dense(self) -> np.ndarray:
        channels, blocks = self.scale.shape
        made = self.codes.reshape(channels, blocks, -1) * self.scale[..., None].astype(np.float32)
        return made.astype(self.scale.dtype).reshape(self.codes.shape)

    @property
    def bytes(self) -> int:
        return self.codes.size * self.bits // 8 + self.scale.nbytes


Form = Palette | Scaled


def narrow(weight: np.ndarray, bits: int, method: str, newest: bool) -> Form:
    """weight (C, I, ...) float16 or float32; method "palettize" | "quantize"; `newest`: iOS 18 will read it."""
    return palettize(weight, bits, newest) if method == "palettize" else quantize(weight, bits)


def palettize(weight: np.ndarray, bits: int, grouped: bool) -> Palette:
    """weight (C, ...) float16 or float32; `grouped`: a palette for each group of channels."""
    half, scale = _halved(weight)
    groups = _groups(len(weight), weight[0].size, bits) if grouped else 1
    made = kmeans.palettize(half.reshape(groups, -1), bits)
    lut = made.lut if scale == 1 else made.lut.astype(np.float32) * scale
    return Palette(lut.astype(weight.dtype), made.codes.reshape(weight.shape), bits)


def quantize(weight: np.ndarray, bits: int) -> Scaled:
    """weight (C, I, ...) float16 or float32; 8 bits: q in -127..127; 4 bits: q in -8..7, with the best scale of CLIPS."""
    channels, inputs = weight.shape[:2]
    blocks = inputs // BLOCK if bits == 4 and inputs % BLOCK == 0 else 1
    values = weight.reshape(channels, blocks, -1)
    scale = np.empty((channels, blocks), weight.dtype)
    codes = np.empty(values.shape, np.int8)
    for rows in np.array_split(np.arange(channels), max(1, values.size // 2**21)):
        scale[rows], codes[rows] = _scaled(values[rows].astype(np.float32), bits, weight.dtype)
    return Scaled(scale, codes.reshape(weight.shape), bits)


def _scaled(values: np.ndarray, bits: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """values (C, B, n) float32 -> scale (C, B), codes (C, B, n)"""
    top = 2 ** (bits - 1) - 1
    low = -top if bits == 8 else -top - 1
    largest = np.abs(values).max(-1)
    best, error = None, np.full(largest.shape, np.inf, np.float32)
    for clip in CLIPS if bits == 4 else (1.0,):
        scale = (largest * (clip / top)).astype(dtype)
        scale[scale == 0] = np.finfo(dtype).smallest_normal  # all zeros, or too small to be told from it
        codes = np.clip(np.rint(values / scale[..., None].astype(np.float32)), low, top)
        rest = values - codes * scale[..., None].astype(np.float32)
        found = np.einsum("cbn,cbn->cb", rest, rest)
        codes, better = codes.astype(np.int8), found < error
        if best is None:
            best = [scale, codes]
        best = [np.where(better, scale, best[0]), np.where(better[..., None], codes, best[1])]
        error = np.minimum(error, found)
    return best[0], best[1]


def _halved(weight: np.ndarray) -> tuple[np.ndarray, float]:
    """float16 and the factor that was taken out, a power of 2 that leaves the largest value near 2^14."""
    largest = float(np.abs(weight).max(initial=0))
    if not np.isfinite(largest):
        raise EdgeSafeError("a weight is not finite, so it has no palette: the model is broken")
    if weight.dtype == np.float16:
        return weight, 1.0
    scale = 2.0 ** (np.ceil(np.log2(largest)) - 14) if largest else 1.0
    return (weight / scale).astype(np.float16), scale


def _groups(channels: int, each: int, bits: int) -> int:
    """How many groups of at least GROUP channels of `each` weights."""
    for size in range(GROUP, channels // 2 + 1):
        if channels % size == 0 and 2 * 2**bits <= SHARE * size * each * bits / 8:
            return channels // size
    return 1
