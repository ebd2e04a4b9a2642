"""What an attacker learns from: pictures of the concept that the un-erased model draws, and how badly the erased one denoises them.

    L = || goal - f(x_t, t, c) ||^2,   x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps

goal eps or v as the model predicts; x_0 (B, C, h, w) the encoded picture, c the text states. The erased model then serves as its own
classifier: what lowers L makes it see the concept (Zhang 2024, arXiv 2310.11868, section 4).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgesafe import checkpoint, losses, model
from edgesafe.data import encode_pixels
from edgesafe.families import Conditions
from edgesafe.model import TextToImage

from .. import runtimes
from ..gallery import Drawing
from ..leakage import Cell, Question
from ..sources import Source
from . import learned
from .probe import Probe, Target, there


def spread(cell: Cell, count: int) -> list[Question]:
    """The first `count` questions of different prompts."""
    found: dict[str, Question] = {}
    for question in cell.questions:
        found.setdefault(question.prompt, question)
    return list(found.values())[:count]


def drawn(source: Source, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing, threads: int) -> Tensor:
    """(N, 3, H, W) in [0, 1] by torch."""
    artist = runtimes.load(source.place, "torch", threads)
    pictures = artist.generate(prompts, seeds, steps=drawing.steps, guidance=drawing.guidance, sampler=drawing.sampler, batch=drawing.batch)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def encoded(net: TextToImage, pixels: Tensor) -> Tensor:
    """(N, C, h, w), scaled as the UNet reads them."""
    return encode_pixels(net, pixels)[0].float() * net.vae.config.scaling_factor


def of_control(probe: Probe, target: Target, cell: Cell, net: TextToImage, asked: Sequence[Question]) -> Tensor:
    """(N, C, h, w): the un-erased model's pictures of the plain prompts as the attacked model encodes them, drawn once."""
    path = learned.place(probe, target, "pictures", ".safetensors", cell)
    if path.is_file():
        return checkpoint.load(path)[0]["drawn"]["latents"]
    target.progress("the un-erased model draws the concept")
    prompts, seeds = [q.prompt for q in asked], [q.seed for q in asked]
    latents = encoded(net, drawn(there(target.control), prompts, seeds, target.drawing, target.threads))
    checkpoint.save(path, {"drawn": {"latents": latents}}, {"prompts": prompts, "seeds": seeds})
    return latents


def noise_error(net: TextToImage) -> Callable[[Tensor, Conditions, Tensor, Tensor], Tensor]:
    """(x_0, conditions of B rows, timesteps (B,), noise as x_0) -> L of each row (B,); gradients reach conditions and weights."""
    alphas = model.alphas_cumprod(net)

    def error(latents: Tensor, given: Conditions, timesteps: Tensor, noise: Tensor) -> Tensor:
        alpha = alphas[timesteps].to(latents.dtype)
        prediction = model.predict(net, losses.noised(latents, noise, alpha), timesteps, *given)
        goal = losses.target(net.prediction_type, latents, noise, alpha)
        return (prediction - goal).square().flatten(1).mean(1)

    return error
