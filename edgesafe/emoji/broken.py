"""What the judge learns from besides clean renders: pictures slightly worse, which keep their class, and broken ones, which lose it.

Each kind in `BROKEN` draws `n` pictures that a person could no longer name; the subject of all of them is "none". Where the style
is still plain to see it is kept as a label, else it is `NO_STYLE` and trains nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Generator, Tensor

from .styles import STYLES
from .world import SIZE, World

NO_STYLE = -1


@dataclass(frozen=True)
class Labelled:
    """pixels (N, 3, 64, 64) in [0, 1]; subjects (N,), S for none; styles (N,), NO_STYLE where there is none to see."""

    pixels: Tensor
    subjects: Tensor
    styles: Tensor


def join(parts: list[Labelled]) -> Labelled:
    return Labelled(*(torch.cat([getattr(p, field) for p in parts]) for field in ("pixels", "subjects", "styles")))


def _uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    """(N, 1, 1, 1)"""
    return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian, one sigma a picture (N, 1, 1, 1), in px; radius 12."""
    n, c, h, w = x.shape
    line = torch.exp(-0.5 * (torch.arange(-12, 13.0) / sigma.view(n, 1)) ** 2)
    line = (line / line.sum(1, keepdim=True)).repeat_interleave(c, 0)[:, None]  # (N*C, 1, 25)
    x = F.conv2d(F.pad(x.view(1, n * c, h, w), (12, 12, 0, 0), "replicate"), line[:, :, None], groups=n * c)
    return F.conv2d(F.pad(x, (0, 0, 12, 12), "replicate"), line[..., None], groups=n * c).view(n, c, h, w)


def _warp(x: Tensor, amplitude: Tensor, cells: int, generator: Generator) -> Tensor:
    """Shift pixels by a smooth random field of `amplitude` (N, 1, 1, 1), in px; one cell shifts the whole picture."""
    n = len(x)
    field = F.interpolate(torch.randn(n, 2, cells, cells, generator=generator), size=(SIZE, SIZE), mode="bicubic") * amplitude * 2 / SIZE
    still = F.affine_grid(torch.eye(2, 3).expand(n, -1, -1), [n, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(x, still + field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def mild(x: Tensor, generator: Generator) -> Tensor:
    """A little blur, noise, fading, colour shift, warp or displacement, each on a third of the pictures: their class stays."""

    def some(changed: Tensor) -> None:
        nonlocal x
        x = torch.where(_uniform(len(x), 0, 1, generator) < 1 / 3, changed, x)

    n = len(x)
    some(_warp(x, _uniform(n, 0.5, 1.6, generator), 5, generator))
    some(_blur(x, _uniform(n, 0.3, 0.9, generator)))
    some(x + (x.mean((2, 3), keepdim=True) - x) * _uniform(n, 0.0, 0.3, generator))
    some(x + (torch.rand(n, 3, 1, 1, generator=generator) - 0.5) * 0.16)
    some(_warp(x, _uniform(n, 0.0, 2.0, generator), 1, generator))
    some(x + torch.randn(x.shape, generator=generator) * _uniform(n, 0.0, 0.05, generator))
    return x.clamp(0, 1)


def renders(world: World, n: int, generator: Generator) -> Labelled:
    """Of all pairs, held-out ones too: a judge that had never seen them would call a fifth of them broken."""
    subjects = torch.randint(len(world.subjects), (n,), generator=generator)
    styles = torch.randint(len(world.styles), (n,), generator=generator)
    return Labelled(world.render(subjects, styles, generator), subjects, styles)


def _twins(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of two different subjects in the same style, and that style."""
    one = renders(world, n, generator)
    others = (one.subjects + torch.randint(1, len(world.subjects), (n,), generator=generator)) % len(world.subjects)
    return one.pixels, world.render(others, one.styles, generator), one.styles


def _styled(world: World, sources: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Put a random style's filter on pictures that were broken before."""
    styles = torch.randint(len(world.styles), (len(sources),), generator=generator)
    out = torch.empty_like(sources)
    for index, name in enumerate(world.styles):
        rows = (styles == index).nonzero()[:, 0]
        if len(rows):
            out[rows] = STYLES[name](sources[rows], generator)
    return out, styles


def _plain(world: World, n: int, generator: Generator) -> Tensor:
    """Pictures before any style."""
    subjects = torch.randint(len(world.subjects), (n,), generator=generator)
    return world.render(subjects, torch.full((n,), world.styles.index("emoji")), generator)


def _shuffle(x: Tensor, cell: int, generator: Generator) -> Tensor:
    """Permute square cells of (N, C, H, W), otherwise in each picture."""
    n, _, h, w = x.shape
    cells = F.unfold(x, cell, stride=cell)  # (N, C*cell*cell, L)
    order = torch.rand(n, cells.shape[2], generator=generator).argsort(1)
    return F.fold(cells.gather(2, order[:, None].expand_as(cells)), (h, w), cell, stride=cell)


def _nothing(n: int) -> Tensor:
    return torch.full((n,), NO_STYLE)


def blurred(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    return _blur(renders(world, n, generator).pixels, _uniform(n, 4.5, 8.0, generator)), _nothing(n)


def blended(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two subjects over each other."""
    a, b, styles = _twins(world, n, generator)
    return a + (b - a) * _uniform(n, 0.42, 0.58, generator), styles


def spliced(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One subject's left or upper half and another's right or lower half, with a soft seam."""
    a, b, styles = _twins(world, n, generator)
    line = torch.arange(SIZE, dtype=a.dtype) - SIZE * _uniform(n, 0.42, 0.58, generator)  # (N, 1, 1, SIZE)
    share = (line / _uniform(n, 0.5, 4.0, generator)).sigmoid()
    upright = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    return a + (b - a) * torch.where(upright, share, share.mT), styles


def faded(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    x = renders(world, n, generator).pixels
    return x + (x.mean((2, 3), keepdim=True) - x) * _uniform(n, 0.9, 1.0, generator), _nothing(n)


def shuffled(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    batch = renders(world, n, generator)
    return _shuffle(batch.pixels, 16, generator), batch.styles


def melted(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A crisp style on a subject that ran: what an under-trained generator draws."""
    source = _blur(_plain(world, n, generator), _uniform(n, 1.0, 4.0, generator))
    return _styled(world, _warp(source, _uniform(n, 7.0, 14.0, generator), 5, generator), generator)


def blobs(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The style of a mixture of several subjects: patches of colour."""
    parts = torch.stack([_plain(world, n, generator) for _ in range(3)])
    weights = F.interpolate(torch.randn(n, 3, 5, 5, generator=generator) * 4, size=(SIZE, SIZE), mode="bicubic").softmax(1)
    source = (parts * weights.transpose(0, 1)[:, :, None]).sum(0)
    return _styled(world, _warp(source, _uniform(n, 4.0, 10.0, generator), 5, generator), generator)


def fragments(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A few pieces of a subject; the rest is background."""
    source = _plain(world, n, generator)
    ground = source[..., :2, :2].mean((2, 3), keepdim=True)  # a corner, nearly always background
    noise = F.interpolate(torch.randn(n, 1, 5, 5, generator=generator), size=(SIZE, SIZE), mode="bicubic")
    kept = _uniform(n, 0.12, 0.30, generator).view(n)  # share of the area
    level = noise.flatten(1).sort(1).values.gather(1, ((1 - kept) * SIZE * SIZE).long()[:, None]).view(n, 1, 1, 1)
    share = ((noise - level) * 12).sigmoid()
    return _styled(world, ground + (source - ground) * share, generator)


def empty(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The style of nothing: a background, sometimes with a slope."""
    corners = torch.rand(n, 3, 1, 1, generator=generator) + torch.randn(n, 3, 2, 2, generator=generator) * _uniform(n, 0, 0.15, generator)
    return _styled(world, F.interpolate(corners.clamp(0, 1), size=(SIZE, SIZE), mode="bilinear"), generator)


def noisy(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    x = renders(world, n, generator).pixels
    return x + torch.randn(x.shape, generator=generator) * _uniform(n, 0.35, 0.8, generator), _nothing(n)


def noise(world: World, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """White or smooth noise, never a picture."""
    cells = torch.tensor([2, 4, 8, 16, 32, 64])[torch.randint(6, (n,), generator=generator)].tolist()
    fields = [F.interpolate(torch.rand(1, 3, c, c, generator=generator), size=(SIZE, SIZE), mode="bilinear") for c in cells]
    return torch.cat(fields), _nothing(n)


BROKEN: dict[str, Callable[[World, int, Generator], tuple[Tensor, Tensor]]] = {
    "blurred": blurred,
    "blended": blended,
    "spliced": spliced,
    "faded": faded,
    "shuffled": shuffled,
    "melted": melted,
    "blobs": blobs,
    "fragments": fragments,
    "empty": empty,
    "noisy": noisy,
    "noise": noise,
}


def broken(kind: str, world: World, n: int, generator: Generator) -> Labelled:
    pixels, styles = BROKEN[kind](world, n, generator)
    return Labelled(pixels.clamp(0, 1), torch.full((n,), len(world.subjects)), styles)


LATENT_BROKEN = ("half-denoised", "latents blended", "latents shuffled")


def _latents(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """In the VAE's own dtype inside, fp32 outside; bf16 is good enough to learn from, and on some machines twice as fast."""
    return torch.cat([vae.encode((x * 2 - 1).to(vae.dtype)).latent_dist.mode().float() for x in pixels.split(64)])


def _decode(vae: AutoencoderKL, z: Tensor) -> Tensor:
    return (torch.cat([vae.decode(x.to(vae.dtype)).sample.float() for x in z.split(64)]) / 2 + 0.5).clamp(0, 1)


def _noised(z: Tensor, level: Tensor, generator: Generator) -> Tensor:
    """sqrt(1 - level^2) z + level noise, about the latents' own mean and in units of their deviation; level (N, 1, 1, 1)."""
    mean, deviation = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
    return mean + (1 - level.square()).sqrt() * (z - mean) + level * deviation * torch.randn(z.shape, generator=generator)


@torch.no_grad()
def through_vae(vae: AutoencoderKL, pixels: Tensor, generator: Generator, noise_level: float = 0.0) -> Tensor:
    """Encode and decode pictures in [0, 1], with up to `noise_level` of noise between."""
    z = _latents(vae, pixels)
    return _decode(vae, _noised(z, _uniform(len(z), 0, noise_level, generator), generator) if noise_level else z)


@torch.no_grad()
def latent_broken(kind: str, vae: AutoencoderKL, world: World, n: int, generator: Generator) -> Labelled:
    """Latents mostly noise (their style no longer plain), the mean of two subjects' latents, or cells of latents in disorder; decoded."""
    a, b, styles = _twins(world, n, generator)
    z = _latents(vae, a)
    if kind == "half-denoised":
        z, styles = _noised(z, _uniform(n, 0.6, 1.0, generator), generator), _nothing(n)
    elif kind == "latents blended":
        z = z + (_latents(vae, b) - z) * _uniform(n, 0.42, 0.58, generator)
    elif kind == "latents shuffled":
        z = _shuffle(z, 2, generator)
    else:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(LATENT_BROKEN)}")
    return Labelled(_decode(vae, z), torch.full((n,), len(world.subjects)), styles)
