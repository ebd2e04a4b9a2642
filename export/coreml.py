"""Core ML in the `Resources/` shape of Apple's ml-stable-diffusion; names and layouts stand in wrappers.py, every shape is fixed.

    TextEncoder.mlpackage  Unet.mlpackage  VAEDecoder.mlpackage  [VAEEncoder.mlpackage]  vocab.json  merges.txt

Converting, saving and reading the files again work on any machine; running them works on macOS only, and there they are compared with
torch. Where `xcrun` is, each package is also compiled to `.mlmodelc`, which an app loads faster.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import apple, mlprogram, wrappers
from .config import ExportConfig
from .mlprogram import Port

NAMES = {"text_encoder": "TextEncoder", "unet": "Unet", "vae_decoder": "VAEDecoder", "vae_encoder": "VAEEncoder"}
NOT_HERE = (
    "not measured on this platform: Core ML runs on macOS only. "
    "The files were read again: the names, shapes and types of inputs and outputs and the kinds of operations are as meant"
)


@dataclass(frozen=True)
class Part:
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class CoreML:
    precision: str  # of the arithmetic and the weights; inputs and outputs are float32
    height: int  # pixels
    width: int
    batch: int  # of the UNet
    deployment: str  # "iOS16" | "iOS17" | "iOS18"
    vae_encoder: bool

    name: ClassVar[str] = "coreml"
    default_precision: ClassVar[str] = "fp16"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "coremltools", "numpy")

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "CoreML":
        height, width = config.size(model)
        precision = config.precision_of(cls.default_precision)
        return cls(precision, height, width, config.batch or 2, config.deployment or "iOS17", config.vae_encoder)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name for name in NAMES if name != "vae_encoder" or self.vae_encoder)

    def notes(self, model: TextToImage) -> tuple[str, ...]:
        return apple.notes(model, self.batch)

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`: what an app must know that the packages do not say."""
        return {
            "height": self.height,
            "width": self.width,
            "batch": self.batch,
            "deployment": self.deployment,
            "scaling_factor": model.vae.config.scaling_factor,
            "scheduler": {key: value for key, value in model.scheduler_config.items() if not key.startswith("_")},
        }

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None]) -> None:
        for name in self.parts:
            begin(name)
            part, path = self._part(name, model), folder / self.files(name)
            mlprogram.convert(part.module, part.inputs, part.outputs, self.precision, self.deployment, path)
            mlprogram.check(path, part.inputs, part.outputs)
        model.tokenizer.save_vocabulary(str(folder))
        if shutil.which("xcrun"):
            compile_packages(folder)

    def open(self, folder: Path) -> "CoreMLParts | str":
        return CoreMLParts(folder, self) if sys.platform == "darwin" else NOT_HERE

    def files(self, part: str) -> str:
        return f"{NAMES[part]}.mlpackage"

    def _part(self, name: str, model: TextToImage) -> Part:
        f, (c, _, _) = model.vae_factor, model.latent_shape
        latent, pixels = (c, self.height // f, self.width // f), (1, 3, self.height, self.width)
        moments = (1, 2 * c, *latent[1:])
        tokens, text = model.tokenizer.model_max_length, model.text_encoder.config.hidden_size
        if name == "text_encoder":
            outputs = Port("last_hidden_state", (1, tokens, text)), Port("pooled_outputs", (1, text))
            return Part(wrappers.AppleTextEncoder(model.text_encoder, tokens), (Port("input_ids", (1, tokens)),), outputs)
        if name == "unet":
            sample = Port("sample", (self.batch, *latent))
            states = Port("encoder_hidden_states", (self.batch, text, 1, tokens))
            inputs = sample, Port("timestep", (self.batch,)), states
            return Part(wrappers.AppleUnet(model.unet), inputs, (Port("noise_pred", sample.shape),))
        if name == "vae_decoder":
            return Part(wrappers.VAEDecoder(model.vae), (Port("z", (1, *latent)),), (Port("image", pixels),))
        return Part(wrappers.VAEEncoder(model.vae), (Port("x", pixels),), (Port("latent", moments),))


class CoreMLParts:
    """A Core ML export as parity.Parts, by `predict`, on macOS. Batches are cut to what the packages take."""

    def __init__(self, folder: Path, target: CoreML) -> None:
        import coremltools

        self._models = {name: coremltools.models.MLModel(str(folder / target.files(name))) for name in target.parts}
        self._batch = target.batch

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        made = [self._predict("text_encoder", input_ids=row) for row in ids.split(1)]
        return torch.cat([row["last_hidden_state"] for row in made]), torch.cat([row["pooled_outputs"] for row in made])

    def unet(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        times = timestep.float().expand(self._batch)
        rows = torch.arange(-(-len(sample) // self._batch) * self._batch) % len(sample)  # the last call is filled up with copies
        x, s = sample[rows], states[rows].transpose(1, 2).unsqueeze(2)  # (N, C, 1, S)
        calls = zip(x.split(self._batch), s.split(self._batch), strict=True)
        made = [self._predict("unet", sample=a, timestep=times, encoder_hidden_states=b)["noise_pred"] for a, b in calls]
        return torch.cat(made)[: len(sample)]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return torch.cat([self._predict("vae_decoder", z=z)["image"] for z in latents.split(1)])

    def vae_encoder(self, pixels: Tensor) -> Tensor:
        return torch.cat([self._predict("vae_encoder", x=x)["latent"] for x in pixels.split(1)])

    def _predict(self, name: str, **inputs: Tensor) -> dict[str, Tensor]:
        made = self._models[name].predict({key: value.contiguous().numpy().astype(np.float32) for key, value in inputs.items()})
        return {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in made.items()}


def compile_packages(folder: Path) -> None:
    """`X.mlpackage` -> `X.mlmodelc` beside it, with Xcode's compiler."""
    for package in sorted(folder.glob("*.mlpackage")):
        done = subprocess.run(
            ["xcrun", "coremlcompiler", "compile", str(package), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise EdgeSafeError(f"{package.name}: `xcrun coremlcompiler` refused it ({reason[0]}). Nothing was written")
