"""SPDM, or Diff-Pruning (Fang et al., NeurIPS 2023, arXiv 2305.10924, section 4): Taylor scores of the timesteps that still matter.

One clean batch x_0 and one noise. For t = 0, 1, 2, ..., from little noise upward:

    L_t = MSE(model(x_t, t), eps)            stop before the first t with L_t < threshold max_{s <= t} L_s
    g = sum_t dL_t / dw
    I_u = sum_k |w_k g_k|                    k: every weight and bias of unit u

Late timesteps, whose loss has all but vanished, would only add noise to the gradient. Sum of absolute products, as its code for whole
pipelines has it. `every` takes each n-th timestep, which its code does not; 1 is the paper. Costs a backward pass a timestep.
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
class SPDM:
    threshold: float = 0.05
    every: int = 10  # timesteps from one to the next

    rank: ClassVar[str] = "global"

    def score(self, calibration: Calibration, unet: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
        """(count,) a group"""
        batch = calibration.source.batch(0)
        noise = torch.randn(batch.latents.shape, generator=generator(calibration.seed, "spdm"))
        timesteps = range(0, len(model.alphas_cumprod(calibration.teacher)), self.every)
        largest = 0.0
        with watched(unet, groups) as weights:
            total = [torch.zeros_like(weight) for weight in weights.values()]
            for t in calibration.show(timesteps, "scoring units"):
                now = loss(calibration, unet, batch, torch.full((len(noise),), t), noise)
                largest = max(largest, now.item())
                if now.item() < self.threshold * largest:
                    break
                total = [a + b for a, b in zip(total, torch.autograd.grad(now, list(weights.values())), strict=True)]
            products = {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), total, strict=True)}
        return {group.name: _sum(products, unet, group) for group in groups}


def _sum(products: dict[str, Tensor], unet: nn.Module, group: Group) -> Tensor:
    parts = slices(unet, group)
    return torch.stack([by_unit(products[part.weight], part, group.count).sum(1) for part in parts]).sum(0).cpu()
