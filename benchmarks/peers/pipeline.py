"""A whole pipeline of somebody else, asked as a Runtime is: its own call draws pictures, from our latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgesafe import sampling
from edgesafe.families import Conditions

from ..runtimes.runtime import Runtime, latent_shape


class PeerPipeline(Runtime):
    """A subclass's __init__ makes the pipeline, of diffusers' interface, and hands it on."""

    def __init__(self, pipeline: Any) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self.tokenizer, self.scheduler_config = pipeline.tokenizer, dict(pipeline.scheduler.config)
        self.latent_shape = latent_shape(pipeline.unet.config)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return (self.pipeline.text_encoder(ids)[0],)

    @torch.no_grad()
    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self.pipeline.unet(sample, timestep, encoder_hidden_states=given[0], return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor, return_dict=False)[0]

    def pixels(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = sampling.DEFAULT_STEPS,
        guidance: float = sampling.DEFAULT_GUIDANCE,
        sampler: str = sampling.DEFAULT_SAMPLER,
    ) -> Tensor:
        """(N, 3, H, W) in [0, 1]"""
        self.pipeline.scheduler = sampling.scheduler(sampler, self.scheduler_config)
        latents = sampling.starting_latents(seeds, self.latent_shape)
        made = self.pipeline(
            list(prompts),
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=latents,
            height=latents.shape[2] * self.pipeline.vae_scale_factor,
            width=latents.shape[3] * self.pipeline.vae_scale_factor,
            output_type="pt",
        )
        return torch.as_tensor(made.images).float()
