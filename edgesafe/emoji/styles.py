"""The styles: parametric image filters with jitter, pictures (N, 3, H, W) in [0, 1] -> the same shape.

Each filter draws its own jitter from the generator it is given, so no two pictures of one caption share their strokes.
`CORE_STYLES` is the world of the shipped teacher. Adding a style = one function and one line in `STYLES`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LUMA = (0.299, 0.587, 0.114)


def _uniform(low: float, high: float, x: Tensor, generator: Generator, channels: int = 1) -> Tensor:
    """One value a picture, shaped (N, channels, 1, 1)."""
    return torch.rand(x.shape[0], channels, 1, 1, generator=generator) * (high - low) + low


def _luma(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)"""
    return sum(w * x[:, i : i + 1] for i, w in enumerate(LUMA))


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, math.ceil(2 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1.0) / sigma) ** 2)
    line = (line / line.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), "replicate"), line[:, :, None], groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), "replicate"), line[..., None], groups=x.shape[1])


def _edges(x: Tensor) -> Tensor:
    """Sobel magnitude, the strongest of the three colours: (N, 1, H, W), about 0 to 1."""
    x = F.pad(x, (1, 1, 1, 1), "replicate")
    dx, dy = x[..., 2:] - x[..., :-2], x[..., 2:, :] - x[..., :-2, :]
    gx = dx[..., :-2, :] + 2 * dx[..., 1:-1, :] + dx[..., 2:, :]
    gy = dy[..., :-2] + 2 * dy[..., 1:-1] + dy[..., 2:]
    return (gx.square() + gy.square()).amax(1, keepdim=True).sqrt() / 4


def _mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + (b - a) * share


def _colour(rgb: tuple[float, float, float], x: Tensor, generator: Generator, jitter: float = 0.04) -> Tensor:
    """(N, 3, 1, 1) of one colour, a little different each time."""
    return (torch.tensor(rgb).view(1, 3, 1, 1) + _uniform(-jitter, jitter, x, generator, 3)).clamp(0, 1)


def emoji(x: Tensor, generator: Generator) -> Tensor:
    return x


def pencil_sketch(x: Tensor, generator: Generator) -> Tensor:
    """Grey strokes on paper with soft shading."""
    stroke = (_edges(x) * _uniform(1.6, 2.4, x, generator)).clamp(0, 1)
    shade = (1 - _luma(x)) * _uniform(0.15, 0.35, x, generator)
    paper = _colour((0.96, 0.95, 0.92), x, generator, 0.02)
    return paper * (1 - torch.maximum(stroke * 0.85, shade)).clamp(0, 1)


def neon(x: Tensor, generator: Generator) -> Tensor:
    """Glowing saturated outlines in the dark."""
    line = (_edges(x) * _uniform(1.6, 2.4, x, generator)).clamp(0, 1)
    colour = _blur(x, 1.5)
    colour = colour - colour.amin(1, keepdim=True)
    colour = (colour / (colour.amax(1, keepdim=True) + 0.05)).clamp(0, 1)
    tint = _colour((0.75, 0.2, 0.95), x, generator, 0.2)
    tube = _mix(colour, tint, 1 - colour.amax(1, keepdim=True))
    glow = _blur(line * tube, 2.2) * _uniform(1.0, 1.6, x, generator)
    return (_colour((0.05, 0.03, 0.12), x, generator, 0.03) + line * tube + glow).clamp(0, 1)


def mosaic(x: Tensor, generator: Generator, tile: int = 4) -> Tensor:
    """Square tiles of one colour each, set in grout."""
    h, w = x.shape[-2:]
    tiles = F.avg_pool2d(x, tile) + torch.randn(x.shape[0], 1, h // tile, w // tile, generator=generator) * 0.05
    tiles = F.interpolate(tiles.clamp(0, 1), size=(h, w), mode="nearest")
    grid = torch.zeros(1, 1, h, w)
    grid[..., ::tile, :] = 1
    grid[..., :, ::tile] = 1
    return _mix(tiles, _colour((0.25, 0.25, 0.27), x, generator), grid * _uniform(0.3, 0.6, x, generator))


def sepia(x: Tensor, generator: Generator) -> Tensor:
    """A faded brown photograph with dark corners."""
    tone = 0.5 + (_luma(x) - 0.5) * _uniform(0.75, 1.0, x, generator)
    dark, light = _colour((0.22, 0.12, 0.04), x, generator), _colour((0.98, 0.88, 0.68), x, generator)
    axis = torch.linspace(-1, 1, x.shape[-1])
    vignette = (axis[:, None] ** 2 + axis[None] ** 2) * _uniform(0.1, 0.3, x, generator)
    return (_mix(dark, light, tone) * (1 - vignette)).clamp(0, 1)


def blueprint(x: Tensor, generator: Generator) -> Tensor:
    """White lines on blue squared paper."""
    line = (_edges(x) * _uniform(1.4, 2.2, x, generator)).clamp(0, 1)
    grid = torch.zeros(1, 1, *x.shape[-2:])
    grid[..., 4::8, :] = 1
    grid[..., :, 4::8] = 1
    paper = _colour((0.09, 0.27, 0.60), x, generator, 0.05) + grid * _uniform(0.06, 0.14, x, generator)
    return _mix(paper, torch.ones_like(x) * 0.95, line * 0.95)


def watercolour(x: Tensor, generator: Generator) -> Tensor:
    """Pale washes that bleed over their edges, darker where they dry."""
    wash = _blur(x, 1.6)
    bleed = F.interpolate(torch.randn(x.shape[0], 1, 9, 9, generator=generator), size=x.shape[-2:], mode="bicubic")
    rim = (_edges(_blur(x, 1.0)) * 0.8).clamp(0, 0.5)
    return (_mix(wash, torch.ones_like(x), _uniform(0.3, 0.5, x, generator)) * (1 - rim) + bleed * 0.05).clamp(0, 1)


def halftone(x: Tensor, generator: Generator, pitch: int = 5) -> Tensor:
    """Ink dots on a turned raster whose size follows the darkness, one ink a picture."""
    h, w = x.shape[-2:]
    angle = _uniform(0.5, 0.9, x, generator)
    yy, xx = torch.meshgrid(torch.arange(h, dtype=x.dtype), torch.arange(w, dtype=x.dtype), indexing="ij")
    u, v = xx * angle.cos() + yy * angle.sin(), yy * angle.cos() - xx * angle.sin()
    raster = (torch.cos(u * 2 * math.pi / pitch) + torch.cos(v * 2 * math.pi / pitch)) / 4 + 0.5
    ink = torch.sigmoid((1 - _luma(x) + raster - 1.05) * 12)
    return _mix(_colour((0.98, 0.96, 0.90), x, generator, 0.02), _colour((0.85, 0.1, 0.3), x, generator, 0.1), ink)


def stained_glass(x: Tensor, generator: Generator, cell: int = 8) -> Tensor:
    """Panes of one saturated colour (the cells of jittered seeds), held by dark lead."""
    n, _, h, w = x.shape
    rows, cols = h // cell, w // cell
    seeds = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), -1).view(1, -1, 2)
    seeds = (seeds + 0.15 + 0.7 * torch.rand(n, rows * cols, 2, generator=generator)) * cell  # (N, S, 2)
    pixels = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(1, -1, 2).float() + 0.5
    near = torch.cdist(pixels.expand(n, -1, -1), seeds).topk(2, largest=False)  # (N, H*W, 2)
    pane = near.indices[..., 0]
    total = torch.zeros(n, 3, rows * cols).scatter_add_(2, pane[:, None].expand(-1, 3, -1), x.flatten(2))
    count = torch.zeros(n, 1, rows * cols).scatter_add_(2, pane[:, None], torch.ones(n, 1, h * w)).clamp_min(1)
    glass = (total / count).gather(2, pane[:, None].expand(-1, 3, -1)).view(n, 3, h, w)
    glass = (0.5 + (glass - 0.5) * _uniform(1.2, 1.5, x, generator)).clamp(0, 1)
    lead = ((near.values[..., 1] - near.values[..., 0]) < 1.3).view(n, 1, h, w)
    return torch.where(lead, _colour((0.07, 0.07, 0.09), x, generator, 0.03), glass)


def embroidery(x: Tensor, generator: Generator) -> Tensor:
    """Slanted coloured thread on linen."""
    h, w = x.shape[-2:]
    yy, xx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    thread = (((xx + yy) % 4 < 2).float() * 2 - 1) * (((xx - yy) % 8 < 6).float())
    sewn = F.interpolate(F.avg_pool2d(x, 2), size=(h, w), mode="nearest")
    return (sewn * 0.9 + 0.05 + thread * _uniform(0.08, 0.14, x, generator)).clamp(0, 1)


STYLES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "emoji": emoji,
    "pencil sketch": pencil_sketch,
    "neon": neon,
    "mosaic": mosaic,
    "sepia": sepia,
    "blueprint": blueprint,
    "watercolour": watercolour,
    "halftone": halftone,
    "stained glass": stained_glass,
    "embroidery": embroidery,
}
CORE_STYLES = ("emoji", "pencil sketch", "neon", "mosaic", "sepia", "blueprint")
COLOURLESS = ("pencil sketch", "neon", "sepia", "blueprint", "halftone")  # the background's colour does not survive
