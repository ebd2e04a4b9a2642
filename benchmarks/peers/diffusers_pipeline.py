"""diffusers' StableDiffusionPipeline as its documentation has it, eager, fp32, on the same latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.families import Conditions

from ..runtimes.runtime import Runtime
from ..runtimes.torch_runtime import TorchRuntime
from .optimum_pipeline import call, prepare, token_ids


class DiffusersPipeline(Runtime):
    name = "diffusers"
    packages = ("torch", "diffusers", "transformers")

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        return TorchRuntime.why_not(source)

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "DiffusersPipeline":
        return cls(source, threads)

    def __init__(self, source: str | Path, threads: int | None) -> None:
        from diffusers import StableDiffusionPipeline

        from edgesafe import model

        if threads:
            torch.set_num_threads(threads)
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            model.local(source), torch_dtype=torch.float32, safety_checker=None, local_files_only=True
        )
        prepare(self)

    @classmethod
    def import_libraries(cls) -> None:
        from diffusers import StableDiffusionPipeline  # noqa: F401

        import edgesafe.model  # noqa: F401

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        return (self.pipeline.text_encoder(token_ids(self, prompts))[0],)

    @torch.no_grad()
    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self.pipeline.unet(sample, timestep, encoder_hidden_states=given[0], return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor, return_dict=False)[0]

    def pixels(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        return call(self, prompts, seeds, **options)
