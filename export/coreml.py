"""Core ML in the `Resources/` shape of Apple's ml-stable-diffusion; names and layouts stand in wrappers.py, every shape is fixed.

    TextEncoder.mlpackage  Unet.mlpackage  VAEDecoder.mlpackage  [VAEEncoder.mlpackage]  vocab.json  merges.txt
    Stable Diffusion XL: also TextEncoder2.mlpackage
    or, chunked, UnetChunk1.mlpackage and UnetChunk2.mlpackage in the place of Unet.mlpackage (chunks.py)

Converting, saving and reading the files again work on any machine; edgesafe.mil evaluates them there for the comparison with torch. On
macOS Core ML itself is compared too. Where `xcrun` is, each package is also compiled to `.mlmodelc`, which an app loads faster.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from edgesafe.errors import EdgeSafeError
from edgesafe.families import ZERO_EMPTY, StableDiffusion
from edgesafe.mil.parts import CoreMLParts
from edgesafe.model import TextToImage

from . import apple, chunks, mlprogram, narrow, norms, split_einsum, tracing, wrappers
from .compression import Compression
from .config import ExportConfig
from .job import Job
from .mlprogram import Port

CHUNKS = "UnetChunk1.mlpackage", "UnetChunk2.mlpackage"
NAMES = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "unet": "Unet",
    "vae_decoder": "VAEDecoder",
    "vae_encoder": "VAEEncoder",
}


@dataclass(frozen=True)
class Part:
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    precision: str
    lowerings: tracing.Lowerings = field(default_factory=dict)


@dataclass(frozen=True)
class CoreML:
    precision: str  # of the arithmetic and the weights; inputs and outputs are float32
    height: int  # pixels
    width: int
    batch: int  # of the UNet
    deployment: str  # "iOS16" | "iOS17" | "iOS18"
    vae_encoder: bool
    compression: Compression | None = None
    chunked: bool = False
    attention: str = "original"  # | "split-einsum"
    encoders: tuple[str, ...] = ("text_encoder",)  # the text encoders

    name: ClassVar[str] = "coreml"
    default_precision: ClassVar[str] = "fp16"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "coremltools", "numpy")

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "CoreML":
        if config.static:
            raise EdgeSafeError("--static is for --target onnx and openvino: a Core ML export always has fixed sizes. Leave it out")
        apple.refuse(model, config.own_scheduler)
        height, width = config.size(model)
        precision = config.precision_of(cls.default_precision)
        deployment = config.deployment or "iOS17"
        compression = narrow.check(config.compression(), deployment)
        forms = config.chunked, config.attention, tuple(model.family.tokenizers)
        target = cls(precision, height, width, config.batch or 2, deployment, config.vae_encoder, compression, *forms)
        if compression and compression.method == "mixed" and config.chunked:
            raise EdgeSafeError(
                "--mixed measures each layer in the whole UNet, and --chunked cuts it in two. Give --palettize in its place"
            )
        target.packages_of("unet", model)  # refuses blocks that chunks or split-einsum do not know
        return target

    @property
    def narrowed(self) -> tuple[str, ...]:
        return tuple(name for name in narrow.PARTS if name in self.parts)

    def compress(
        self, part: str, wide: Path, to: Path, compression: Compression, job: Job, advance: Callable[[float], None]
    ) -> dict[str, Any]:
        return narrow.compress(part, wide, to, compression, job, advance)

    def wider(self, compression: Compression) -> tuple[Compression, ...]:
        return narrow.wider(compression)

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.encoders, "unet", "vae_decoder", *(("vae_encoder",) if self.vae_encoder else ()))

    def notes(self, model: TextToImage) -> tuple[str, ...]:
        return apple.notes(model, self.batch, (self.height, self.width)) + (
            (split_einsum.NOTE,) if self.attention == "split-einsum" else ()
        )

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`: what an app must know that the packages do not say."""
        return {
            "height": self.height,
            "width": self.width,
            "batch": self.batch,
            "deployment": self.deployment,
            "chunked": self.chunked,
            "attention": {"form": self.attention} | ({"note": split_einsum.NOTE} if self.attention == "split-einsum" else {}),
            "scaling_factor": model.vae.config.scaling_factor,
            "pad_tokens": [tokenizer.pad_token for tokenizer in model.tokenizers().values()],
            ZERO_EMPTY: model.zero_empty,
            "scheduler": {key: value for key, value in model.scheduler_config.items() if not key.startswith("_")},
        }

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None], recording: Any = None) -> None:
        for name in self.parts:
            begin(name)
            for file, part in self.packages_of(name, model).items():
                path = folder / file
                mlprogram.convert(part.module, part.inputs, part.outputs, part.precision, self.deployment, path, part.lowerings)
                mlprogram.check(path, part.inputs, part.outputs)
        model.tokenizer.save_vocabulary(str(folder))

    def finish(self, folder: Path) -> None:
        """After any compression: what apps load faster, where Xcode is."""
        if shutil.which("xcrun"):
            compile_packages(folder)

    def open(self, folder: Path) -> CoreMLParts:
        """The saved files, evaluated with torch on any machine."""
        return CoreMLParts(folder, self.batch)

    def open_native(self, folder: Path) -> CoreMLParts | None:
        """Run by Core ML itself, where this is macOS."""
        return CoreMLParts(folder, self.batch, run="predict") if sys.platform == "darwin" else None

    def files(self, part: str) -> str | tuple[str, ...]:
        return CHUNKS if part == "unet" and self.chunked else f"{NAMES[part]}.mlpackage"

    def packages_of(self, name: str, model: TextToImage) -> dict[str, Part]:
        """The files of a part, and what each is converted from."""
        if name == "unet" and self.chunked:
            return dict(zip(CHUNKS, self._chunks(model), strict=True))
        return {f"{NAMES[name]}.mlpackage": self._part(name, model)}

    def _part(self, name: str, model: TextToImage) -> Part:
        f, (c, _, _) = model.vae_factor, model.latent_shape
        latent, pixels = (c, self.height // f, self.width // f), (1, 3, self.height, self.width)
        moments = (1, 2 * c, *latent[1:])
        if name in self.encoders:
            encoder, tokens = getattr(model, name), model.tokenizer.model_max_length
            width, pooled = encoder.config.hidden_size, encoder.config.projection_dim if name == "text_encoder_2" else None
            states = "last_hidden_state" if model.family is StableDiffusion else "hidden_embeds"
            outputs = Port(states, (1, tokens, width)), Port("pooled_outputs", (1, pooled or width))
            module = wrappers.AppleTextEncoder(encoder, tokens, model.family)
            return Part(module, (Port("input_ids", (1, tokens)),), outputs, self.precision)
        if name == "unet":
            inputs, noise_pred = self._unet_ports(model)
            original = self.attention == "original"
            module = wrappers.AppleUnet(model.unet) if original else wrappers.Unet(split_einsum.rewritten(model.unet))
            return Part(module, inputs, (noise_pred,), self.precision)
        precision = "fp32" if model.vae_overflows else self.precision
        wide = {F.group_norm: norms.group_norm} if precision == "fp16" else {}
        if name == "vae_decoder":
            return Part(wrappers.VAEDecoder(model.vae), (Port("z", (1, *latent)),), (Port("image", pixels),), precision, wide)
        return Part(wrappers.VAEEncoder(model.vae), (Port("x", pixels),), (Port("latent", moments),), precision, wide)

    def _unet_ports(self, model: TextToImage) -> tuple[tuple[Port, ...], Port]:
        f, channels = model.vae_factor, model.latent_shape[0]
        sample = Port("sample", (self.batch, channels, self.height // f, self.width // f))
        tokens, text = model.tokenizer.model_max_length, model.unet.config.cross_attention_dim
        states = Port("encoder_hidden_states", (self.batch, text, 1, tokens))
        added: tuple[Port, ...] = ()
        if model.text_encoder_2 is not None:
            pooled = model.text_encoder_2.config.projection_dim
            added = Port("text_embeds", (self.batch, pooled)), Port("time_ids", (self.batch, 6))
        return (sample, Port("timestep", (self.batch,)), states, *added), Port("noise_pred", sample.shape)

    def _chunks(self, model: TextToImage) -> tuple[Part, Part]:
        inputs, noise_pred = self._unet_ports(model)
        original = self.attention == "original"
        unet = model.unet if original else split_einsum.rewritten(model.unet)
        first, second, _ = chunks.split(unet, inputs[0].shape[2:], original)
        shapes = tracing.shapes(first, [port.shape for port in inputs])
        names = "hidden_states", "time_embedding", *(f"skip_{i}" for i in range(len(shapes) - 2))
        between = tuple(Port(name, shape) for name, shape in zip(names, shapes, strict=True))
        text = inputs[2:3] if second.reads_text else ()
        return Part(first, inputs, between, self.precision), Part(second, (*text, *between), (noise_pred,), self.precision)


def compile_packages(folder: Path) -> None:
    """`X.mlpackage` -> `X.mlmodelc` beside it, with Xcode's compiler."""
    for package in sorted(folder.glob("*.mlpackage")):
        done = subprocess.run(
            ["xcrun", "coremlcompiler", "compile", str(package), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise EdgeSafeError(f"{package.name}: `xcrun coremlcompiler` refused it ({reason[0]}). Nothing was written")
