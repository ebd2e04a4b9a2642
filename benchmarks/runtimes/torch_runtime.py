"""torch: runs a diffusers model folder, a run, an embedded model or a hub id on the CPU in fp32."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgesafe.families import Conditions

from .runtime import Runtime


class TorchRuntime(Runtime):
    name = "torch"
    packages = ("torch", "diffusers", "transformers")

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        folder = Path(source)
        if not folder.is_dir():
            return None  # an id: model.resolve knows more, and says what is wrong with it
        model = folder / "model" if (folder / "model" / "model_index.json").is_file() else folder
        if not (model / "model_index.json").is_file():
            return f"{source} is no model folder and no run (no model_index.json)"
        if not any((model / "unet").glob("*.safetensors")):
            return f"{source} holds no torch weights (no unet/*.safetensors)"
        return None

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "TorchRuntime":
        return cls(source, threads)

    def __init__(self, source: str | Path, threads: int | None) -> None:
        from edgesafe import model

        if threads:
            torch.set_num_threads(threads)
        self.model = model.load(source)
        self.tokenizer, self.scheduler_config = self.model.tokenizer, self.model.scheduler_config
        self.latent_shape = self.model.latent_shape

    @classmethod
    def import_libraries(cls) -> None:
        from diffusers import DDIMScheduler  # noqa: F401

        import edgesafe.model  # noqa: F401

    def encode(self, prompts: Sequence[str]) -> Conditions:
        from edgesafe import model

        return model.conditions(self.model, prompts)

    @torch.no_grad()
    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        from edgesafe import model

        return model.predict(self.model, sample, timestep, *given)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.model.vae.decode(latents / self.model.vae.config.scaling_factor, return_dict=False)[0]
