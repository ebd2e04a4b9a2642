"""Do two runtimes draw the same pictures from the same latents?"""

from typing import Any

from torch import Tensor

from edgesafe.metrics.pixels import difference

from . import runtimes
from .gallery import Drawing
from .sources import Source

Model = tuple[Source, str]  # a source and the runtime to draw it with


def compare(a: Model, b: Model, prompts: list[str], seeds: list[int], drawing: Drawing, threads: int) -> dict[str, Any]:
    """Pixel by pixel, before rounding to 8 bits."""

    def draw(source: Source, runtime: str) -> Tensor:
        model = runtimes.load(source.place, runtime, threads)
        return model.pixels(prompts, seeds, steps=drawing.steps, guidance=drawing.guidance, sampler=drawing.sampler)

    return difference(draw(*a), draw(*b))
