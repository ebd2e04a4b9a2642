"""diffusers' StableDiffusionPipeline as its documentation has it, eager, fp32, on the same latents."""

from pathlib import Path

import torch

from ..runtimes.torch_runtime import TorchRuntime
from .pipeline import PeerPipeline


class DiffusersPipeline(PeerPipeline):
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
        super().__init__(
            StableDiffusionPipeline.from_pretrained(
                model.local(source), torch_dtype=torch.float32, safety_checker=None, local_files_only=True
            )
        )

    @classmethod
    def import_libraries(cls) -> None:
        from diffusers import StableDiffusionPipeline  # noqa: F401

        import edgesafe.model  # noqa: F401
