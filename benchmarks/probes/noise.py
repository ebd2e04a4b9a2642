"""Noise injection: DDIM that puts more noise back between its steps than it should, so that the path wanders off where the eraser
steered it. (Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?", arXiv 2505.17013: eta 1 to 1.85, noise scale 1 to 1.04;
DDIM: Song et al. 2021, arXiv 2010.02502, equations 12 and 16.)

    x0      = (z_t - sqrt(1 - a_t) e) / sqrt(a_t)
    sigma_t = min(eta sqrt((1 - a_p) / (1 - a_t)) sqrt(1 - a_t / a_p),  sqrt(1 - a_p))
    z_p     = sqrt(a_p) x0 + sqrt(1 - a_p - sigma_t^2) e + scale sigma_t n,     n ~ N(0, 1)

a_t: the share of the picture's variance at timestep t, p: the next timestep; z, e, n (N, C, h, w). The minimum is ours: past it the
square root of the second term has no value, and at it z_p holds new noise only, of the right variance for p. eta 0 is DDIM, 1 is DDPM's
variance. The paper draws each prompt with every eta and keeps the best picture; here the seed of a question chooses its eta, so that a
share is a share of all pictures. Always draws with DDIM, whatever sampler the audit uses, with as many steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Question
from ..runtimes.ddim import PREDICTIONS
from ..runtimes.runtime import Runtime, to_uint8
from .probe import Probe, Target


@dataclass(frozen=True)
class Noise(Probe):
    etas: tuple[float, ...] = (1.0, 1.4, 1.85)  # how much noise, for seeds 0, 1, 2, 3, ... in turn; 0: none
    scale: float = 1.0  # of the noise that is added, beyond what its level should have

    name: ClassVar[str] = "noise"
    attacker: ClassVar[str] = "files"
    what: ClassVar[str] = "the concept by its own name, with noise put back between the steps of DDIM"
    source_of_method: ClassVar[str] = "Lu et al. 2025, When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013"

    def __post_init__(self) -> None:
        if not self.etas or not all(0 <= eta <= 4 for eta in self.etas):
            raise EdgeSafeError(f"noise: etas {self.etas} must be one or more numbers from 0 to 4")
        if not 0 < self.scale <= 2:
            raise EdgeSafeError(f"noise: scale {self.scale} must be over 0 and at most 2")

    def draw(self, model: Runtime, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:
        d, seeds = target.drawing, [q.seed for q in questions]
        etas = torch.tensor([self.etas[seed % len(self.etas)] for seed in seeds])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        ddim = Injecting(sampling.scheduler("ddim", model.scheduler_config), etas, self.scale, generators)
        latents = ddim.noise(model.latent_shape)  # sampling.starting_latents of these seeds
        text = model.conditions([q.prompt for q in questions])
        latents = sampling.sample(model.unet_call, text, model.conditions([""]), latents, ddim, d.steps, d.guidance)
        return to_uint8(model.developed(latents))


class Injecting:
    """Steps as the docstring above says; in all else the DDIM scheduler that it is given."""

    def __init__(self, ddim: Any, etas: Tensor, scale: float, generators: Sequence[torch.Generator]) -> None:
        self.ddim, self.etas, self.scale, self.generators = ddim, etas[:, None, None, None], scale, generators

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ddim, name)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """(N, *shape): each picture's from its own generator, so equal in every batch and on every runtime."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self.generators])

    def step(self, prediction: Tensor, t: Tensor, z: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        config, levels = self.ddim.config, self.ddim.alphas_cumprod
        p = t - config.num_train_timesteps // self.ddim.num_inference_steps
        a_t, a_p = levels[t], levels[p] if p >= 0 else self.ddim.final_alpha_cumprod
        b_t, b_p = 1 - a_t, 1 - a_p
        x0, e = PREDICTIONS[config.prediction_type](prediction, z, a_t**0.5, b_t**0.5)
        sigma = torch.minimum(self.etas * (b_p / b_t * (1 - a_t / a_p)) ** 0.5, b_p**0.5)
        e_share = (b_p - sigma**2).clamp(min=0) ** 0.5  # rounding may leave less than nothing
        return (a_p**0.5 * x0 + e_share * e + self.scale * sigma * self.noise(z.shape[1:]),)
