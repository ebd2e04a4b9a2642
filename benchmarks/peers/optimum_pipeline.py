"""Optimum's ORTStableDiffusionPipeline as its documentation has it, on the same ONNX files and latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe import sampling
from edgesafe.families import Conditions

from ..runtimes.onnxruntime_runtime import OnnxRuntime
from ..runtimes.runtime import Runtime, latent_shape


class OptimumPipeline(Runtime):
    name = "optimum"
    packages = ("optimum", "optimum-onnx", "onnxruntime", "torch", "diffusers", "transformers")

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        return OnnxRuntime.why_not(source)

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "OptimumPipeline":
        return cls(Path(source), threads)

    def __init__(self, folder: Path, threads: int | None) -> None:
        import onnxruntime as ort
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        options = ort.SessionOptions()
        if threads:
            torch.set_num_threads(threads)
            options.intra_op_num_threads = threads
        self.pipeline = ORTStableDiffusionPipeline.from_pretrained(
            folder, session_options=options, provider="CPUExecutionProvider", local_files_only=True
        )
        prepare(self)
        self.scaling_factor = self.pipeline.vae.config.scaling_factor

    @classmethod
    def import_libraries(cls) -> None:
        from optimum.onnxruntime import ORTStableDiffusionPipeline  # noqa: F401

    def encode(self, prompts: Sequence[str]) -> Conditions:
        return (self.pipeline.text_encoder(token_ids(self, prompts))[0],)

    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self.pipeline.unet(sample, timestep, encoder_hidden_states=given[0], return_dict=False)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.pipeline.vae.decode(latents / self.scaling_factor, return_dict=False)[0]

    def pixels(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        return call(self, prompts, seeds, **options)


def prepare(peer: Any) -> None:
    """What both peers' pipelines need to be asked as a Runtime is."""
    peer.pipeline.set_progress_bar_config(disable=True)
    peer.tokenizer, peer.scheduler_config = peer.pipeline.tokenizer, dict(peer.pipeline.scheduler.config)
    peer.latent_shape = latent_shape(peer.pipeline.unet.config)


def token_ids(peer: Any, prompts: Sequence[str]) -> Tensor:
    return peer.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def call(
    peer: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = sampling.DEFAULT_STEPS,
    guidance: float = sampling.DEFAULT_GUIDANCE,
    sampler: str = sampling.DEFAULT_SAMPLER,
) -> Tensor:
    """The pipeline's own call, from our latents, to pictures (N, 3, H, W) in [0, 1]."""
    peer.pipeline.scheduler = sampling.scheduler(sampler, peer.scheduler_config)
    latents = sampling.starting_latents(seeds, peer.latent_shape)
    made = peer.pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        height=latents.shape[2] * peer.pipeline.vae_scale_factor,
        width=latents.shape[3] * peer.pipeline.vae_scale_factor,
        output_type="pt",
    )
    return torch.as_tensor(made.images).float()
