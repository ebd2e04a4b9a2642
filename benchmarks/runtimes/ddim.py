"""DDIM (Song 2021, arXiv 2010.02502) without noise, number for number as diffusers' scheduler has it, without importing diffusers.

    x0 = (z - sqrt(1 - a_t) e) / sqrt(a_t),   z_(t-1) = sqrt(a_prev) x0 + sqrt(1 - a_prev) e          (formula 12 at sigma = 0)

z: latents (N, C, h, w); e: the noise that the UNet predicts, here also from v = sqrt(a) e - sqrt(1 - a) x0 or from x0; a: the share of the
picture's variance left at a timestep. Importing diffusers costs 90 MiB and seconds; this is what most pictures need of it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BETAS = {
    "linear": lambda first, last, n: torch.linspace(first, last, n, dtype=torch.float32),
    "scaled_linear": lambda first, last, n: torch.linspace(first**0.5, last**0.5, n, dtype=torch.float32) ** 2,
}
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
}
ONLY = {"trained_betas": None, "thresholding": False, "timestep_spacing": "leading", "rescale_betas_zero_snr": False}


class DDIM:
    """What `sampling.denoise` asks of a scheduler."""

    init_noise_sigma = 1.0

    @staticmethod
    def covers(config: Mapping[str, Any]) -> bool:
        """Whether a scheduler_config.json asks for nothing that only diffusers' own scheduler does."""
        plain = all(config.get(key, value) == value for key, value in ONLY.items())
        return plain and config.get("beta_schedule", "linear") in BETAS and config.get("prediction_type", "epsilon") in PREDICTIONS

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = DEFAULTS | {key: config[key] for key in DEFAULTS if key in config}
        c = self.config
        betas = BETAS[c["beta_schedule"]](c["beta_start"], c["beta_end"], c["num_train_timesteps"])
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)

    def set_timesteps(self, steps: int) -> None:
        n = self.config["num_train_timesteps"]
        if not 1 <= steps <= n:
            raise ValueError(f"{steps} steps: the model was trained with {n}, so from 1 to {n} can be taken")
        self.timesteps = torch.arange(steps - 1, -1, -1) * (n // steps) + self.config["steps_offset"]
        if self.timesteps[0] >= n:
            raise ValueError(f"{steps} steps begin at timestep {int(self.timesteps[0])}, behind the {n} of the model. Take fewer")
        final = torch.tensor(1.0) if self.config["set_alpha_to_one"] else self.alphas_cumprod[0]
        self.factors: dict[int, tuple[float, ...]] = {}  # timestep -> sqrt of a, 1 - a, a_prev, 1 - a_prev
        for t in self.timesteps.tolist():
            a, before = self.alphas_cumprod[t], t - n // steps
            a_prev = self.alphas_cumprod[before] if before >= 0 else final
            self.factors[t] = tuple(float(value**0.5) for value in (a, 1 - a, a_prev, 1 - a_prev))

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int) -> Tensor:
        return sample

    def step(self, prediction: Tensor, timestep: Tensor | int, sample: Tensor, return_dict: bool = False) -> tuple[Tensor, Tensor]:
        """z_(t-1), x0"""
        signal, noise, signal_prev, noise_prev = self.factors[int(timestep)]
        x0, e = PREDICTIONS[self.config["prediction_type"]](prediction, sample, signal, noise)
        return signal_prev * x0 + noise_prev * e, x0


def _epsilon(prediction: Tensor, sample: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
    return (sample - noise * prediction) / signal, prediction


def _v(prediction: Tensor, sample: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
    return signal * sample - noise * prediction, signal * prediction + noise * sample


def _sample(prediction: Tensor, sample: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
    return prediction, (sample - signal * prediction) / noise


PREDICTIONS = {"epsilon": _epsilon, "v_prediction": _v, "sample": _sample}
