"""What a pruner returns, what it may look at, and when two UNets have the same blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffusers import UNet2DConditionModel
from rich.console import Console

from ..data import Batch, Show, Source, TextConditions
from ..model import TextToImage

SHAPE = ("block_out_channels", "layers_per_block", "mid_block_type", "down_block_types", "up_block_types")


@dataclass(frozen=True)
class Pruned:
    unet: UNet2DConditionModel
    weights: dict[str, str]  # student weight -> the teacher weight that it starts from
    features: dict[str, str]  # student module -> teacher module, for feature KD
    kept: dict[str, list[int]] = field(default_factory=dict)  # group -> units that stay, where width was pruned


@dataclass(frozen=True)
class Calibration:
    """What scores and gates may look at."""

    teacher: TextToImage
    source: Source  # prepared
    texts: TextConditions
    seed: int
    show: Show  # a progress bar
    console: Console  # where the plan is printed
    pictures: int = 256  # to look at

    def batches(self) -> Iterator[Batch]:
        """The source's first, of `pictures` rows in all."""
        left, n = self.pictures, 0
        while left > 0:
            batch = self.source.batch(n)
            yield Batch(batch.latents[:left], batch.captions[:left])
            left, n = left - len(batch.captions), n + 1


def same_shape(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two UNet configs have the same blocks."""

    def shape(config: dict[str, Any]) -> list[Any]:
        return [list(v) if isinstance(v := config.get(key), tuple) else v for key in SHAPE]

    return shape(a) == shape(b)
