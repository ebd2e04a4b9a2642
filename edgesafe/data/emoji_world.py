"""The embedded emoji world: captioned pictures drawn anew."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..emoji.world import World
from ..model import TextToImage
from .picture import encode_pixels
from .source import Batch, Pictures, Show, generator, silent


@dataclass
class EmojiWorld:
    """Pictures of the world drawn anew: `bank` at a time, and again once each was seen `replays` times on average (0: never again)."""

    world: World
    net: TextToImage
    seed: int
    size: int  # of a batch
    bank: int
    replays: int
    _era: int = -1
    _pictures: Pictures = field(init=False)

    def prepare(self, folder: Path, show: Show) -> None:
        self._fill(0, show)

    def batch(self, n: int) -> Batch:
        era = n * self.size // (self.bank * self.replays) if self.replays else 0
        if era != self._era:
            self._fill(era, silent)
        rows = generator(self.seed, "emoji rows", n)
        return self._pictures.draw(torch.randint(self.bank, (self.size,), generator=rows), rows)

    def examples(self) -> list[str]:
        return [f"{s.name} {style} style" for s in self.world.subjects[9:33:8] for style in self.world.styles]

    def _fill(self, era: int, show: Show) -> None:
        draws, parts, captions = generator(self.seed, "emoji bank", era), [], []
        for start in show(range(0, self.bank, 64), "drawing emoji pictures"):
            drawn = self.world.sample(min(64, self.bank - start), draws)
            parts.append(encode_pixels(self.net, drawn.pixels))
            captions += drawn.captions
        mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
        self._pictures, self._era = Pictures(mean, std, captions, self.net.vae.config.scaling_factor), era
