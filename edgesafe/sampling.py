"""From text to latents: the same starting noise everywhere, diffusers' schedulers, and the classifier-free-guidance loop over any UNet.

    e = e_empty + g (e_text - e_empty),   z_(t-1) = scheduler(e, t, z_t)          (Ho & Salimans 2022)

N pictures; C, h, w of the latents; S text tokens of width D. A UNet is a callable `(sample, timestep, states, *others) -> prediction`,
where `others` are what else it reads of a prompt (families.py), a row a picture each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import EdgeSafeError

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE = 4.0
DEFAULT_SAMPLER = "ddim"

UNetCall = Callable[..., Tensor]  # (B, C, h, w), (), (B, S, D), others (B, ...) -> (B, C, h, w)
Text = Tensor | Sequence[Tensor]  # states (N, S, D), alone or with the others


def _ddim(config: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config, clip_sample=False)  # its default clips, which latents must not be


def _pndm(config: dict[str, Any]) -> Any:
    from diffusers import PNDMScheduler

    return PNDMScheduler.from_config(config, skip_prk_steps=True)


def _dpm(config: dict[str, Any]) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


SAMPLERS: dict[str, Callable[[dict[str, Any]], Any]] = {"ddim": _ddim, "pndm": _pndm, "dpm++": _dpm}


def scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler with the model's own betas and prediction type.

    config: what the model folder's scheduler/scheduler_config.json holds, of whatever class.
    """
    if name not in SAMPLERS:
        raise EdgeSafeError(f"unknown sampler {name!r}; known: {', '.join(SAMPLERS)}")
    return SAMPLERS[name]({key: value for key, value in config.items() if not key.startswith("_")})


def starting_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """(N, C, h, w) of unit noise: each picture from its own seed, so equal in every batch and on every runtime."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def columns(text: Text) -> tuple[Tensor, ...]:
    return (text,) if isinstance(text, Tensor) else tuple(text)


def denoise(unet: UNetCall, text: Text, empty: Text, latents: Tensor, scheduler: Any, steps: int, guidance: float) -> Iterator[Tensor]:
    """Yield the latents (N, C, h, w) after each UNet call. text of N rows, empty of 1 row, latents of unit variance.

    Guidance 1 asks the UNet for the text alone, at half the cost.
    """
    scheduler.set_timesteps(steps)
    guided = guidance != 1
    given = columns(text)
    if guided:
        given = tuple(torch.cat([rows, row.expand_as(rows)]) for rows, row in zip(given, columns(empty), strict=True))
    z = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(z, t)
        if guided:
            asked, plain = unet(torch.cat([x, x]), t, *given).chunk(2)
            prediction = plain + guidance * (asked - plain)
        else:
            prediction = unet(x, t, *given)
        z = scheduler.step(prediction, t, z, return_dict=False)[0]
        yield z


@torch.no_grad()
def sample(
    unet: UNetCall,
    text: Text,
    empty: Text,
    latents: Tensor,
    scheduler: Any,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The last latents (N, C, h, w) of `denoise`; callback(i, latents) after each UNet call."""
    z = latents
    for i, z in enumerate(denoise(unet, text, empty, latents, scheduler, steps, guidance)):
        if callback:
            callback(i, z)
    return z
