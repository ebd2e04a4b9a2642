"""Captions alone: the teacher draws their pictures."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import checkpoint, model, sampling
from ..errors import EdgeSafeError
from ..model import TextToImage, predictor
from .source import Batch, Pictures, Show, generator, read_text

DRAW_BATCH = 16  # pictures drawn at once


@dataclass
class CaptionList:
    """Captions without pictures: the teacher draws `bank` of them once (DDIM with guidance) and they are kept with the run."""

    captions: list[str]
    net: TextToImage
    seed: int
    size: int
    bank: int
    _pictures: Pictures = field(init=False)

    def prepare(self, folder: Path, show: Show) -> None:
        asked = [self.captions[i % len(self.captions)] for i in range(max(self.bank, len(self.captions)))]
        self._pictures = drawn_by(self.net, asked, self.seed, folder / "drawn.safetensors", show)

    def batch(self, n: int) -> Batch:
        rows = generator(self.seed, "caption rows", n)
        return self._pictures.draw(torch.randint(len(self._pictures.captions), (self.size,), generator=rows), rows)

    def examples(self) -> list[str]:
        return self.captions[:12]


def drawn_by(net: TextToImage, prompts: list[str], seed: int, path: Path, show: Show) -> Pictures:
    """Pictures of the prompts by the model itself, kept in `path` after every batch."""
    done = checkpoint.load(path)[0]["drawn"]["latents"] if path.is_file() else torch.empty(0, *net.latent_shape)
    unet, call = net.unet, predictor(net.unet)
    for start in show(range(len(done), len(prompts), DRAW_BATCH), "the teacher draws pictures"):
        asked = prompts[start : start + DRAW_BATCH]
        noise = sampling.starting_latents([(seed << 20) + start + i for i in range(len(asked))], net.latent_shape).to(unet.device)
        schedule = sampling.scheduler("ddim", net.scheduler_config)
        new = sampling.sample(call, model.conditions(net, asked), model.conditions(net, [""]), noise, schedule)
        done = torch.cat([done, new.cpu()])
        checkpoint.save(path, {"drawn": {"latents": done}}, {"prompts": prompts})
    scale = net.vae.config.scaling_factor
    mean = (done[: len(prompts)] / scale).half()
    return Pictures(mean, torch.zeros_like(mean), prompts, scale)


def read_captions(path: Path) -> list[str]:
    captions = [text for line in read_text(path).splitlines() if (text := line.strip())]
    if not captions:
        raise EdgeSafeError(f"--data {path}: empty; write one caption a line")
    return captions
