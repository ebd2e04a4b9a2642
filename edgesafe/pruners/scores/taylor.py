"""Taylor: how much the denoising loss changes, to first order, without a unit (Molchanov et al., CVPR 2019, arXiv 1906.10771).

    L(without u) - L = -sum_k w_k g_k + ...      k: the weights that leave unit u (its columns in the layer after); g = dL/dw

    taylor        I_u = mean_b sum_k |w_k g_k|   b: batches of pictures, timesteps and noise drawn at random
    taylor-gate   I_u = mean_b |sum_k w_k g_k|   the derivative by a gate on the unit, because what leaves it is linear in those weights

A trained network's gradient vanishes on average, so absolute values are taken within each batch. The sum over a unit's weights mostly
cancels in the same way; the sum of absolute products does not, and cuts better. Costs a backward pass a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ... import model
from ...data import generator
from ..pruned import Calibration
from ..units import Group, by_unit, slices
from .denoising import loss, watched


@dataclass(frozen=True)
class Taylor:
    gate: bool = False  # the second of the two

    rank: ClassVar[str] = "global"

    def score(self, calibration: Calibration, unet: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
        """(count,) a group"""
        total = {group.name: torch.zeros(group.count) for group in groups}
        steps = len(model.alphas_cumprod(calibration.teacher))
        batches = list(calibration.batches())
        for n, batch in enumerate(calibration.show(batches, "scoring units")):
            draws = generator(calibration.seed, "taylor", n)
            noise = torch.randn(batch.latents.shape, generator=draws)
            timesteps = torch.randint(steps, (len(noise),), generator=draws)
            with watched(unet, groups) as weights:
                products = leaving(loss(calibration, unet, batch, timesteps, noise), weights, unet, groups)
            for name, units in products.items():
                change = units.sum(1).abs() if self.gate else units.abs().sum(1)
                total[name] += change.cpu() / len(batches)
        return total


def leaving(loss: Tensor, weights: dict[str, Tensor], unet: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """(count, K) a group: w_k g_k of the K weights that leave each unit."""
    parts = {group: next(part for part in slices(unet, group) if part.leaving) for group in groups}
    wanted = [weights[part.weight] for part in parts.values()]
    products = [(w * g).detach() for w, g in zip(wanted, torch.autograd.grad(loss, wanted), strict=True)]
    return {group.name: by_unit(product, part, group.count) for (group, part), product in zip(parts.items(), products, strict=True)}
