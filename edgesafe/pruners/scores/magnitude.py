"""Magnitude: a unit's weights as one vector, and its length. Torch-Pruning calls it the group L2 norm (arXiv 2301.12900).

    I_u = sqrt( sum_k w_k^2 )            k: every weight and bias of unit u, of the layers before it and the one after

Looks at no data. Layers differ in scale, so that only units of one group compare: every group loses the same share (rank "group").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..pruned import Calibration
from ..units import Group, by_unit, slices


@dataclass(frozen=True)
class Magnitude:
    rank: ClassVar[str] = "group"

    def score(self, calibration: Calibration, unet: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
        """(count,) a group"""
        return {group.name: magnitude(unet, group) for group in groups}


@torch.no_grad()
def magnitude(unet: nn.Module, group: Group) -> Tensor:
    parts = slices(unet, group)
    squares = [by_unit(unet.get_parameter(part.weight).double().square(), part, group.count).sum(1) for part in parts]
    return torch.stack(squares).sum(0).sqrt().float().cpu()
