"""What a pruner returns, and when two UNets have the same blocks."""

from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DConditionModel

SHAPE = ("block_out_channels", "layers_per_block", "mid_block_type", "down_block_types", "up_block_types")


@dataclass(frozen=True)
class Pruned:
    unet: UNet2DConditionModel
    weights: dict[str, str]  # student weight -> the teacher weight that it starts from
    features: dict[str, str]  # student module -> teacher module, for feature KD


def same_shape(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two UNet configs have the same blocks."""

    def shape(config: dict[str, Any]) -> list[Any]:
        return [list(v) if isinstance(v := config.get(key), tuple) else v for key in SHAPE]

    return shape(a) == shape(b)
