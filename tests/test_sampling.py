"""The sampling loop against diffusers' own pipeline, and starting noise that depends on a picture's seed alone."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from edgesafe import model, sampling
from edgesafe.errors import EdgeSafeError

SHAPE = (4, 8, 8)


def test_starting_latents_depend_on_their_own_seed_alone() -> None:
    together = sampling.starting_latents([5, 6, 7], SHAPE)
    assert torch.equal(together[1:2], sampling.starting_latents([6], SHAPE))
    assert torch.equal(together[0], torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)))
    assert sampling.starting_latents([], SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sample_equals_the_diffusers_pipeline(tiny_sd1: Path, guidance: float) -> None:
    loaded = model.load(tiny_sd1)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd1, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    latents = sampling.starting_latents([1, 2], SHAPE)
    prompts = ["red apple", "shark neon style"]
    theirs = pipeline(prompts, latents=latents, num_inference_steps=4, guidance_scale=guidance, output_type="latent").images

    def unet(sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return loaded.unet(sample, timestep, states).sample

    scheduler = sampling.scheduler("ddim", loaded.scheduler_config)
    text, empty = model.encode(loaded, prompts), model.encode(loaded, [""])
    with torch.no_grad():
        ours = sampling.sample(unet, text, empty, latents, scheduler, 4, guidance)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_sample_equals_the_diffusers_sdxl_pipeline(tiny_sdxl: Path, guidance: float, size: tuple[int, int]) -> None:
    loaded = model.load(tiny_sdxl)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    height, width = size
    latents = sampling.starting_latents([1, 2], (4, height // 4, width // 4))
    prompts = ["red apple", "shark neon style"]
    asked = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "latent"}
    theirs = pipeline(prompts, height=height, width=width, latents=latents, **asked).images
    text, empty = model.conditions(loaded, prompts, size), model.conditions(loaded, [""], size)
    scheduler = sampling.scheduler("ddim", loaded.scheduler_config)
    ours = sampling.sample(partial(model.predict, loaded), text, empty, latents, scheduler, 4, guidance)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # diffusers' DPM-Solver with numpy 2
@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_sampler_finds_the_only_picture_of_a_point_distribution(sampler: str, prediction_type: str) -> None:
    """Data that is one picture x: the exact prediction is known, and every sampler must end at x."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": prediction_type}
    scheduler = sampling.scheduler(sampler, config | {"steps_offset": 1, "set_alpha_to_one": False, "_class_name": "Other"})
    only = torch.linspace(-1, 1, 256).view(1, *SHAPE)

    def exact(z: Tensor, t: Tensor, states: Tensor) -> Tensor:
        alpha = scheduler.alphas_cumprod[t.long()]
        noise = (z - alpha.sqrt() * only) / (1 - alpha).sqrt()
        return noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * only

    states = torch.zeros(2, 3, 4)
    found = sampling.sample(exact, states, states[:1], sampling.starting_latents([0, 1], SHAPE), scheduler, 30, 4.0)
    left = (1 - scheduler.alphas_cumprod[0]).sqrt()  # the noise that Stable Diffusion's last step leaves
    assert (found - only).square().mean().sqrt() < 1.5 * left


def test_callback_sees_every_step() -> None:
    seen: list[int] = []
    scheduler = sampling.scheduler("ddim", {"beta_schedule": "scaled_linear"})
    states = torch.zeros(1, 3, 4)
    sampling.sample(lambda z, t, s: z, states, states, torch.zeros(1, *SHAPE), scheduler, 5, 1.0, lambda i, z: seen.append(i))
    assert seen == [0, 1, 2, 3, 4]


def test_an_unknown_sampler_lists_the_known() -> None:
    with pytest.raises(EdgeSafeError, match=r"unknown sampler 'euler'; known: ddim, pndm, dpm\+\+"):
        sampling.scheduler("euler", {})
