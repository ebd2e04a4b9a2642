"""What a runtime is: something that encodes prompts, calls a UNet and decodes latents. Drawing pictures is the same for all of them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.families import Conditions

from .ddim import DDIM


class Runtime(ABC):
    """N prompts, latents (C, h, w), pictures H x W px; what the UNet reads of prompts stands in edgesafe/families.py.

    A subclass fills `tokenizer`, `scheduler_config` and `latent_shape` and writes the three abstract methods.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # whose versions a report names
    untimed: ClassVar[str | None] = None  # why its times and memory are not those of what it stands for; None: they are

    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    latent_shape: tuple[int, int, int]

    @classmethod
    @abstractmethod
    def why_not(cls, source: str | Path) -> str | None:
        """Why this runtime cannot run `source`, by a look at its files; None if it can."""

    @classmethod
    @abstractmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "Runtime":
        """Load every part of the model that drawing needs, once."""

    @classmethod
    @abstractmethod
    def import_libraries(cls) -> None:
        """Import all that drawing will need, so that a measurement can tell libraries from model."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """A row a prompt, computed anew each time."""

    @abstractmethod
    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        """(B, C, h, w), (), conditions of B rows -> (B, C, h, w)"""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (N, C, h, w) -> pictures (N, 3, H, W), about -1 to 1."""

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """Like `encode`, each distinct prompt encoded once in this runtime's life."""
        cache: dict[str, Conditions] = self.__dict__.setdefault("_conditions", {})
        if new := [p for p in dict.fromkeys(prompts) if p not in cache]:
            cache.update(zip(new, zip(*self.encode(new), strict=True), strict=True))
        return tuple(torch.stack(column) for column in zip(*(cache[p] for p in prompts), strict=True))

    def scheduler(self, sampler: str) -> Any:
        """A fresh one; diffusers is imported only where it has to be."""
        if sampler == "ddim" and DDIM.covers(self.scheduler_config):
            return DDIM(self.scheduler_config)
        return sampling.scheduler(sampler, self.scheduler_config)

    @torch.no_grad()
    def pixels(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = sampling.DEFAULT_STEPS,
        guidance: float = sampling.DEFAULT_GUIDANCE,
        sampler: str = sampling.DEFAULT_SAMPLER,
    ) -> Tensor:
        """One batch of pictures (N, 3, H, W) in [0, 1], not yet rounded to 8 bits."""
        latents = sampling.starting_latents(seeds, self.latent_shape)
        scheduler = self.scheduler(sampler)
        latents = sampling.sample(self.unet_call, self.conditions(prompts), self.conditions([""]), latents, scheduler, steps, guidance)
        return self.developed(latents)

    @torch.no_grad()
    def developed(self, latents: Tensor) -> Tensor:
        """Scaled latents (N, C, h, w) -> pictures (N, 3, H, W) in [0, 1], not yet rounded to 8 bits."""
        return (self.decode(latents).float() / 2 + 0.5).clamp(0, 1)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = sampling.DEFAULT_STEPS,
        guidance: float = sampling.DEFAULT_GUIDANCE,
        sampler: str = sampling.DEFAULT_SAMPLER,
        batch: int = 16,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """uint8 (N, H, W, 3), prompt i from seed i; progress(pictures done) after each batch."""
        if len(prompts) != len(seeds) or not prompts:
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed a prompt, and at least one prompt")
        rows = []
        for i in range(0, len(prompts), batch):
            part = slice(i, i + batch)
            rows.append(to_uint8(self.pixels(prompts[part], seeds[part], steps=steps, guidance=guidance, sampler=sampler)))
            if progress:
                progress(min(i + batch, len(prompts)))
        return np.concatenate(rows)

    def words_cut(self, prompt: str) -> str:
        """The end of a prompt that is longer than the text encoder reads, as text; "" when all of it is read."""
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        return self.tokenizer.decode(ids[self.tokenizer.model_max_length - 2 :]).strip()  # 2: start and end token


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3)"""
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise EdgeSafeError(f"{path}: no such file, and this model cannot be run without it. Export or copy the folder again")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeSafeError(f"{path}: not valid JSON ({error}). Export or copy the folder again") from error


def latent_shape(unet_config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, h, w) of a UNet2DConditionModel's config, whose sample_size may be one number or two."""
    size = unet_config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return unet_config["in_channels"], height, width
