"""Preview grids: what the student draws for the same prompts and seeds as it trains."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from . import model, sampling
from .concepts import Concept
from .data import Source
from .model import TextToImage, predictor

SHOWN = 12  # pictures of a grid, more where more than half as many concepts are erased
MOST = 16  # concepts shown
SEED = 1000


def prompts(concepts: tuple[Concept, ...], source: Source) -> list[str]:
    """Half with the concept, half the same prompts with the anchor; without a concept, captions of the data."""
    if not concepts:
        return source.examples()[:SHOWN]
    each, step = SHOWN // 2 // len(concepts) or 1, -(-len(concepts) // MOST)
    shown = ((c.pairs, min(each, len(c.pairs))) for c in concepts[::step])
    pairs = [pairs[i * len(pairs) // n] for pairs, n in shown for i in range(n)]
    return [a for a, _ in pairs] + [b for _, b in pairs]


@torch.no_grad()
def draw(net: TextToImage, unet: nn.Module, asked: list[str], batch: int = 16) -> Tensor:
    """(N, 3, H, W) in [0, 1], on the CPU."""
    device, parts = next(unet.parameters()).device, []
    for start in range(0, len(asked), batch):
        rows = asked[start : start + batch]
        noise = sampling.starting_latents(range(SEED + start, SEED + start + len(rows)), net.latent_shape).to(device)
        schedule = sampling.scheduler("ddim", net.scheduler_config)
        z = sampling.sample(predictor(unet), model.conditions(net, rows), model.conditions(net, [""]), noise, schedule)
        pixels = net.vae.decode((z / net.vae.config.scaling_factor).to(net.vae.dtype)).sample
        parts.append((pixels.float() / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(parts)


def save_grid(pictures: Tensor, path: Path, columns: int | None = None) -> None:
    """A contact sheet, rows filled from the left; in two rows, of prompts with the concepts and with their anchors, by default."""
    n, c, h, w = pictures.shape
    columns = min(columns or -(-n // 2), n)
    rows = -(-n // columns)
    sheet = torch.ones(rows * columns, c, h, w)
    sheet[:n] = pictures
    sheet = sheet.view(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().byte().numpy()).save(path)
