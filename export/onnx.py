"""ONNX in the layout of Optimum and diffusers; loads unchanged in `optimum.onnxruntime.ORTStableDiffusionPipeline`.

Batch, height and width are dynamic; names and layouts stand in wrappers.py. Inputs and outputs are fp32 in fp16 exports too, so that
the sampling loop around them keeps fp32 and callers need not know. Over 2 GB, weights go to `model.onnx_data` beside the graph.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import graph, wrappers
from .config import ExportConfig
from .half import to_half

DATA_LIMIT = 2**31 - 2**27  # bytes; one protobuf file cannot pass 2 GiB, and the graph wants its share
PARTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
BATCH = "batch_size"


@dataclass(frozen=True)
class Part:
    module: nn.Module
    example: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: graph.Axes
    config: dict[str, Any]  # its config.json


@dataclass(frozen=True)
class Onnx:
    precision: str  # "fp32" | "fp16"
    height: int  # pixels of the parity check; the files take any multiple of `step`
    width: int

    name: ClassVar[str] = "onnx"
    default_precision: ClassVar[str] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")
    parts: ClassVar[tuple[str, ...]] = PARTS

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "Onnx":
        for flag, value in (("--batch", config.batch), ("--deployment", config.deployment)):
            if value is not None:
                raise EdgeSafeError(f"{flag} is for --target coreml: an ONNX export takes any batch. Leave it out")
        step = model.vae_factor * 2 ** (len(model.unet.config.block_out_channels) - 1)
        height, width = config.size(model)
        for flag, pixels in (("--height", height), ("--width", width)):
            if pixels % step:
                raise EdgeSafeError(f"{flag} {pixels}: an ONNX export of this model draws multiples of {step} pixels (VAE x UNet levels)")
        return cls(config.precision_of(cls.default_precision), height, width)

    def notes(self, model: TextToImage) -> tuple[str, ...]:
        return ()

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`."""
        return {"height": self.height, "width": self.width, "dynamic": [BATCH, "height", "width"], "opset": graph.OPSET}

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None]) -> None:
        for name in PARTS:
            begin(name)
            part = self._part(name, model)
            (folder / name).mkdir()
            with tempfile.TemporaryDirectory(dir=folder) as scratch, wrappers.plain_attention(model.unet):
                made = graph.trace(part.module, part.example, part.outputs, part.axes, Path(scratch))
            if self.precision == "fp16":
                to_half(made)
            save(made, folder / name / "model.onnx")
            check(folder / name / "model.onnx", part)
            _write_json(folder / name / "config.json", part.config)
        model.tokenizer.save_pretrained(folder / "tokenizer")
        scheduler = {"_class_name": "DDIMScheduler", **model.scheduler_config}
        (folder / "scheduler").mkdir()
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        _write_json(folder / "model_index.json", _index(scheduler["_class_name"]))

    def open(self, folder: Path) -> "OrtParts":
        return OrtParts(folder)

    def files(self, part: str) -> str:
        return part

    def _part(self, name: str, model: TextToImage) -> Part:
        f, (c, _, _) = model.vae_factor, model.latent_shape
        h, w, tokens = self.height // f, self.width // f, model.tokenizer.model_max_length
        width = model.unet.config.cross_attention_dim
        vae = _config(model.vae)
        latent = {0: BATCH, 2: "latent_height", 3: "latent_width"}
        if name == "text_encoder":
            ids = torch.full((2, tokens), model.text_encoder.config.eos_token_id)
            text = {0: BATCH, 1: "sequence_length"}
            axes = {"input_ids": text, "last_hidden_state": text, "pooler_output": {0: BATCH}}
            outputs = "last_hidden_state", "pooler_output"
            return Part(wrappers.TextEncoder(model.text_encoder), {"input_ids": ids}, outputs, axes, _config(model.text_encoder.config))
        if name == "unet":
            states = torch.randn(2, tokens, width)
            example = {"sample": torch.randn(2, c, h, w), "timestep": torch.tensor(500.0), "encoder_hidden_states": states}
            size = {0: BATCH, 2: "height", 3: "width"}
            axes = {"sample": size, "encoder_hidden_states": {0: BATCH, 1: "sequence_length"}, "out_sample": size}
            return Part(wrappers.Unet(model.unet), example, ("out_sample",), axes, _config(model.unet))
        if name == "vae_decoder":
            axes = {"latent_sample": latent, "sample": {0: BATCH, 2: f"latent_height * {f}", 3: f"latent_width * {f}"}}
            return Part(wrappers.VAEDecoder(model.vae), {"latent_sample": torch.randn(1, c, h, w)}, ("sample",), axes, vae)
        axes = {
            "sample": {0: BATCH, 2: "sample_height", 3: "sample_width"},
            "latent_parameters": {0: BATCH, 2: f"sample_height / {f}", 3: f"sample_width / {f}"},
        }
        return Part(wrappers.VAEEncoder(model.vae), {"sample": torch.randn(1, 3, h * f, w * f)}, ("latent_parameters",), axes, vae)


class OrtParts:
    """An ONNX export as parity.Parts, on the CPU with torch's number of threads."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._sessions = {
            name: onnxruntime.InferenceSession(folder / name / "model.onnx", options, providers=["CPUExecutionProvider"]) for name in PARTS
        }

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, pooled = self._run("text_encoder", input_ids=ids)
        return hidden, pooled

    def unet(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return self._run("unet", sample=sample, timestep=timestep.float(), encoder_hidden_states=states)[0]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return self._run("vae_decoder", latent_sample=latents)[0]

    def vae_encoder(self, pixels: Tensor) -> Tensor:
        return self._run("vae_encoder", sample=pixels)[0]

    def _run(self, name: str, **inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in self._sessions[name].run(None, {key: value.numpy() for key, value in inputs.items()})]


def save(model: onnx.ModelProto, path: Path) -> None:
    if sum(int(np.prod(t.dims)) * (2 if t.data_type == onnx.TensorProto.FLOAT16 else 4) for t in model.graph.initializer) < DATA_LIMIT:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024)


def check(path: Path, part: Part) -> None:
    """Read the file again: a valid graph, and exactly the inputs and outputs that were meant."""
    onnx.checker.check_model(str(path), full_check=True)
    declared = onnx.load(str(path), load_external_data=False).graph
    found, meant = {}, {name: part.axes.get(name, {}) for name in (*part.example, *part.outputs)}
    for value in [*declared.input, *declared.output]:
        found[value.name] = {i: dim.dim_param for i, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
    if found != meant:
        raise EdgeSafeError(
            f"{path.parent.name}: its inputs, outputs and dynamic sizes are {found}, meant were {meant}. Nothing was written"
        )


def _config(part: Any) -> dict[str, Any]:
    """What `save_pretrained` would write as config.json, without the place that the part was loaded from."""
    return {key: value for key, value in json.loads(part.to_json_string()).items() if key != "_name_or_path"}


def _index(scheduler: str) -> dict[str, Any]:
    absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        **absent,
        "requires_safety_checker": False,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
