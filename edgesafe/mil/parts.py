"""A Core ML export in the shape of Apple's `Resources/` as a pipeline's functions over torch's layouts.

    evaluate   with torch, on any machine (program.py)
    predict    by Core ML itself, on macOS

Packages take fixed batches: longer ones are cut, and the last call is filled up with copies. UnetChunk1 and UnetChunk2 stand for a Unet
that is too large for an iPhone's memory: the second takes the first's outputs, and those of the UNet's own inputs that it declares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError
from edgesafe.families import Family, StableDiffusion, StableDiffusionXL

from .program import PROVES, load

UNET, CHUNKS = "Unet", ("UnetChunk1", "UnetChunk2")
STATES = "last_hidden_state", "hidden_embeds"  # the second: before the last layer, as Stable Diffusion XL takes it
RUN_HERE = "run by Core ML on this Mac: kernels, speed and placement on another device may differ"
Call = Callable[..., Mapping[str, Tensor]]


@dataclass(frozen=True)
class Stage:
    """One package, ready to be called with tensors by name."""

    inputs: Mapping[str, tuple[int, ...]]  # name -> shape
    call: Call


class CoreMLParts:
    def __init__(self, folder: Path, batch: int, run: Literal["evaluate", "predict"] = "evaluate", half: bool = True) -> None:
        """`batch`: of the UNet. `half`, for evaluate: what is declared fp16 is rounded to fp16. Each package is opened at its first use."""
        self.folder, self.batch, self.run, self.half = Path(folder), batch, run, half
        self.proves = PROVES if run == "evaluate" else RUN_HERE
        self._stages: dict[str, Stage] = {}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) that the UNet takes."""
        _, c, h, w = self._stage(self._unets[0]).inputs["sample"]
        return c, h, w

    @property
    def family(self) -> Family:
        return StableDiffusionXL if "text_embeds" in self._stage(self._unets[0]).inputs else StableDiffusion

    @property
    def tokens(self) -> int:
        """S, the length of a prompt's ids."""
        return self._stage("TextEncoder").inputs["input_ids"][1]

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S) -> (N, S, C), (N, C)"""
        return self._text("TextEncoder", ids)

    def text_encoder_2(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S) -> (N, S, C), (N, P)"""
        return self._text("TextEncoder2", ids)

    def unet(self, sample: Tensor, timestep: Tensor, states: Tensor, *added: Tensor) -> Tensor:
        """(N, c, h, w), (), (N, S, C), of Stable Diffusion XL also (N, P) and (N, 6) -> (N, c, h, w)"""
        times = timestep.float().expand(self.batch)
        rows = torch.arange(-(-len(sample) // self.batch) * self.batch) % len(sample)
        x, s = sample[rows], states[rows].transpose(1, 2).unsqueeze(2)  # (N, C, 1, S)
        inputs = {"sample": x, "encoder_hidden_states": s, **{name: y[rows] for name, y in zip(self.family.added, added, strict=True)}}
        calls = zip(*(column.split(self.batch) for column in inputs.values()), strict=True)
        made = [self._unet(timestep=times, **dict(zip(inputs, call, strict=True)))["noise_pred"] for call in calls]
        return torch.cat(made)[: len(sample)]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        """(N, c, h, w) -> (N, 3, H, W)"""
        return torch.cat([self._call("VAEDecoder", z=z)["image"] for z in latents.split(1)])

    def vae_encoder(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 2c, h, w)"""
        return torch.cat([self._call("VAEEncoder", x=x)["latent"] for x in pixels.split(1)])

    def _text(self, name: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        made = [self._call(name, input_ids=row.float()) for row in ids.split(1)]
        states = next(output for output in STATES if output in made[0])
        return torch.cat([row[states] for row in made]), torch.cat([row["pooled_outputs"] for row in made])

    @property
    def _unets(self) -> tuple[str, ...]:
        return CHUNKS if self._path(CHUNKS[0]).is_dir() and not self._path(UNET).is_dir() else (UNET,)

    def _unet(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        made: Mapping[str, Tensor] = {}
        for name in self._unets:
            given = {**inputs, **made}
            made = self._call(name, **{key: given[key] for key in self._stage(name).inputs if key in given})
        return made

    def _call(self, name: str, **inputs: Tensor) -> Mapping[str, Tensor]:
        return self._stage(name).call(**inputs)

    def _stage(self, name: str) -> Stage:
        if name not in self._stages:
            path = self._path(name)
            if not path.is_dir():
                raise EdgeSafeError(f"{path}: no such package, and this needs it. Export the model again")
            self._stages[name] = self._evaluated(path) if self.run == "evaluate" else _predicted(path)
        return self._stages[name]

    def _evaluated(self, path: Path) -> Stage:
        program = load(path)
        shapes = {name: declared.shape for name, declared in program.inputs.items()}
        return Stage(shapes, lambda **inputs: program(half=self.half, **inputs))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.mlpackage"


def _predicted(path: Path) -> Stage:
    import coremltools

    model = coremltools.models.MLModel(str(path))

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        made = model.predict({key: value.contiguous().numpy().astype(np.float32) for key, value in inputs.items()})
        return {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in made.items()}

    return Stage({row.name: tuple(row.type.multiArrayType.shape) for row in model.get_spec().description.input}, call)
