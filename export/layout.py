"""The diffusers layout, shared by the targets that write it: a folder a part with its config.json, and what a pipeline needs beside them.

    model_index.json  scheduler/  tokenizer/  {text_encoder,unet,vae_encoder,vae_decoder}/{config.json, the target's file}

Names and layouts of inputs and outputs stand in wrappers.py. Batch, height and width are dynamic, or all fixed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import wrappers
from .config import ExportConfig

PARTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
BATCH = "batch_size"
Axes = dict[str, dict[int, str]]  # input or output -> position of a dynamic size -> its name


@dataclass(frozen=True)
class Part:
    module: nn.Module
    example: dict[str, Tensor]  # an example of each input, in the order of the module's arguments
    outputs: tuple[str, ...]
    axes: Axes
    config: dict[str, Any]  # its config.json


@dataclass(frozen=True)
class Sizes:
    """Of the examples; with `fixed` the only ones that the files take."""

    height: int  # pixels
    width: int
    fixed: bool = False
    batch: int = 2  # of the UNet: with and without the prompt


def refuse(config: ExportConfig, kind: str) -> None:
    """Raises: EdgeSafeError for options that only a Core ML export has."""
    for flag, given, why in (
        ("--batch", config.batch is not None and not config.static, f"an {kind} export takes any batch"),
        ("--deployment", config.deployment is not None, f"an {kind} export runs wherever its runtime does"),
        ("--chunked", config.chunked, f"an {kind} export's UNet is one file"),
        ("--attention", config.attention != "original", f"an {kind} export has one form of attention"),
        ("--own-scheduler", config.own_scheduler, f"an {kind} export leaves the scheduler to whoever runs it"),
        ("--vae-encoder", config.vae_encoder, f"an {kind} export always has the VAE's encoder"),
        ("--palettize", config.palettize is not None, "give --quantize int8 or int4 instead"),
        ("--mixed", config.mixed is not None, "give --quantize int8 instead, which keeps sensitive layers wide by measurement"),
    ):
        if given:
            raise EdgeSafeError(f"{flag} is for --target coreml: {why}. Leave it out")


def sizes(config: ExportConfig, model: TextToImage, kind: str) -> Sizes:
    """Raises: EdgeSafeError for sizes that the files could not draw."""
    height, width = config.size(model)
    step = _step(model)
    for flag, pixels in (("--height", height), ("--width", width)):
        if pixels % step and not config.static:
            raise EdgeSafeError(f"{flag} {pixels}: {kind} export of this model draws multiples of {step} pixels (VAE x UNet levels)")
    return Sizes(height, width, config.static, config.batch or 2)


def part(name: str, model: TextToImage, sizes: Sizes) -> Part:
    """Where the files take any size, the examples are small: an example's only cost is the time and memory of tracing it."""
    if sizes.fixed:
        return replace(_part(name, model, sizes), axes={})
    side = 2 * _step(model)
    return _part(name, model, replace(sizes, height=side, width=side))


def _step(model: TextToImage) -> int:
    """Pixels: the VAE's factor times that of the UNet's levels."""
    return model.vae_factor * 2 ** (len(model.unet.config.block_out_channels) - 1)


def _part(name: str, model: TextToImage, sizes: Sizes) -> Part:
    f, (c, _, _) = model.vae_factor, model.latent_shape
    h, w, tokens = sizes.height // f, sizes.width // f, model.tokenizer.model_max_length
    vae = _config(model.vae)
    latent = {0: BATCH, 2: "latent_height", 3: "latent_width"}
    if name == "text_encoder":
        ids = torch.full((1 if sizes.fixed else 2, tokens), model.text_encoder.config.eos_token_id)
        text = {0: BATCH, 1: "sequence_length"}
        axes = {"input_ids": text, "last_hidden_state": text, "pooler_output": {0: BATCH}}
        outputs = "last_hidden_state", "pooler_output"
        return Part(wrappers.TextEncoder(model.text_encoder), {"input_ids": ids}, outputs, axes, _config(model.text_encoder.config))
    if name == "unet":
        states = torch.randn(sizes.batch, tokens, model.unet.config.cross_attention_dim)
        example = {"sample": torch.randn(sizes.batch, c, h, w), "timestep": torch.tensor(500.0), "encoder_hidden_states": states}
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


def write_rest(model: TextToImage, folder: Path) -> None:
    """The tokenizer, the scheduler and the index."""
    model.tokenizer.save_pretrained(folder / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", **model.scheduler_config}
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", _index(scheduler["_class_name"]))


class NamedParts:
    """Files of this layout as parity.Parts. `run(part, inputs by name)` gives the outputs in their order.

    `batch`: for each part with a fixed batch, that batch; its calls are cut to it, the last one filled up with copies of its last row.
    """

    def __init__(self, run: Callable[[str, dict[str, Tensor]], list[Tensor]], batch: dict[str, int]) -> None:
        self._run_once, self._batch = run, batch

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, pooled = self._run("text_encoder", {"input_ids": ids})
        return hidden, pooled

    def unet(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return self._run("unet", {"sample": sample, "timestep": timestep.float(), "encoder_hidden_states": states})[0]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return self._run("vae_decoder", {"latent_sample": latents})[0]

    def vae_encoder(self, pixels: Tensor) -> Tensor:
        return self._run("vae_encoder", {"sample": pixels})[0]

    def _run(self, name: str, inputs: dict[str, Tensor]) -> list[Tensor]:
        batch, rows = self._batch.get(name), len(next(iter(inputs.values())))
        if batch is None or batch == rows:
            return self._run_once(name, inputs)
        made = []
        for begin in range(0, rows, batch):
            index = torch.arange(begin, begin + batch).clamp(max=rows - 1)
            made.append(self._run_once(name, {key: value[index] if value.dim() else value for key, value in inputs.items()}))
        return [torch.cat(column)[:rows] for column in zip(*made, strict=True)]


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


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
