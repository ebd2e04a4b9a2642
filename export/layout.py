"""The diffusers layout, shared by the targets that write it: a folder a part with its config.json, and what a pipeline needs beside them.

    model_index.json  scheduler/  tokenizer/  {text_encoder,unet,vae_encoder,vae_decoder}/{config.json, the target's file}
    Stable Diffusion XL: also tokenizer_2/ and text_encoder_2/

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

from edgesafe import batches
from edgesafe.families import ZERO_EMPTY, Family, StableDiffusion, StableDiffusionXL
from edgesafe.model import TextToImage

from . import wrappers

BATCH = "batch_size"
Call = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # inputs and outputs, as parity.Recording has them
Axes = dict[str, dict[int, str]]  # input or output -> position of a dynamic size -> its name


@dataclass(frozen=True)
class Part:
    name: str
    module: nn.Module
    example: dict[str, Tensor]  # an example of each input, in the order of the module's arguments
    outputs: tuple[str, ...]
    axes: Axes
    config: dict[str, Any]  # its config.json

    def cut(self, call: Call) -> Call:
        """A recorded call as these files take it: where sizes are fixed, with as many rows as the example has."""
        if self.axes:
            return call
        batch = len(next(iter(self.example.values())))
        inputs, outputs = (tuple(_rows(value, batch) for value in side) for side in call)
        return inputs, outputs

    def feeds(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """A call's inputs by name, in the types that these files take."""
        return {name: value.to(self.example[name].dtype) for name, value in zip(self.example, inputs, strict=True)}


@dataclass(frozen=True)
class Sizes:
    """Of the examples; with `fixed` the only ones that the files take."""

    height: int  # pixels
    width: int
    fixed: bool = False
    batch: int = 2  # of the UNet: with and without the prompt

    def facts(self) -> dict[str, Any]:
        """For the manifest's `target`."""
        dynamic = {"batch": self.batch, "dynamic": []} if self.fixed else {"dynamic": [BATCH, "height", "width"]}
        return {"height": self.height, "width": self.width, **dynamic}


def part(name: str, model: TextToImage, sizes: Sizes) -> Part:
    """Where the files take any size, the examples are small: an example's only cost is the time and memory of tracing it."""
    if sizes.fixed:
        return replace(_part(name, model, sizes), axes={})
    side = 2 * step(model)
    return _part(name, model, replace(sizes, height=side, width=side))


def compared(name: str, model: TextToImage, sizes: Sizes) -> Part:
    """The part with those outputs alone that parity.py records: of Stable Diffusion XL's text encoders one layer's states."""
    written = part(name, model, sizes)
    if not isinstance(written.module, wrappers.AllStates):
        return written
    encoder = getattr(model, name)
    outputs = model.family.outputs(name, encoder.config.num_hidden_layers)
    return replace(written, module=wrappers.TextEncoder(encoder, model.family), outputs=outputs)


def step(model: TextToImage) -> int:
    """Pixels: the VAE's factor times that of the UNet's levels."""
    return model.vae_factor * 2 ** (len(model.unet.config.block_out_channels) - 1)


def _part(name: str, model: TextToImage, sizes: Sizes) -> Part:
    f, (c, _, _) = model.vae_factor, model.latent_shape
    h, w, tokens = sizes.height // f, sizes.width // f, model.tokenizer.model_max_length
    vae = _config(model.vae)
    latent = {0: BATCH, 2: "latent_height", 3: "latent_width"}
    if name in model.family.tokenizers:
        return _text_encoder(name, getattr(model, name), model.family, torch.zeros(1 if sizes.fixed else 2, tokens, dtype=torch.int64))
    if name == "unet":
        states = torch.randn(sizes.batch, tokens, model.unet.config.cross_attention_dim)
        example = {"sample": torch.randn(sizes.batch, c, h, w), "timestep": torch.tensor(500.0), "encoder_hidden_states": states}
        size = {0: BATCH, 2: "height", 3: "width"}
        axes = {"sample": size, "encoder_hidden_states": {0: BATCH, 1: "sequence_length"}, "out_sample": size}
        if model.text_encoder_2 is not None:
            example["text_embeds"] = torch.randn(sizes.batch, model.text_encoder_2.config.projection_dim)
            example["time_ids"] = torch.tensor([sizes.height, sizes.width, 0, 0, sizes.height, sizes.width]).float().repeat(sizes.batch, 1)
            axes |= {"text_embeds": {0: BATCH}, "time_ids": {0: BATCH}}
        return Part(name, wrappers.Unet(model.unet), example, ("out_sample",), axes, _config(model.unet))
    if name == "vae_decoder":
        axes = {"latent_sample": latent, "sample": {0: BATCH, 2: f"latent_height * {f}", 3: f"latent_width * {f}"}}
        return Part(name, wrappers.VAEDecoder(model.vae), {"latent_sample": torch.randn(1, c, h, w)}, ("sample",), axes, vae)
    axes = {
        "sample": {0: BATCH, 2: "sample_height", 3: "sample_width"},
        "latent_parameters": {0: BATCH, 2: f"sample_height / {f}", 3: f"sample_width / {f}"},
    }
    return Part(name, wrappers.VAEEncoder(model.vae), {"sample": torch.randn(1, 3, h * f, w * f)}, ("latent_parameters",), axes, vae)


def _text_encoder(name: str, encoder: Any, family: Family, ids: Tensor) -> Part:
    text, config = {0: BATCH, 1: "sequence_length"}, _config(encoder.config)
    axes = {"input_ids": text, "last_hidden_state": text}
    if family is StableDiffusion:
        axes["pooler_output"] = {0: BATCH}
        return Part(name, wrappers.TextEncoder(encoder), {"input_ids": ids}, ("last_hidden_state", "pooler_output"), axes, config)
    layers = tuple(f"hidden_states.{i}" for i in range(encoder.config.num_hidden_layers + 1))
    first = ("text_embeds", "last_hidden_state") if hasattr(encoder, "text_projection") else ("last_hidden_state", "pooler_output")
    axes |= dict.fromkeys(layers, text) | {name: {0: BATCH} for name in first if name != "last_hidden_state"}
    config["output_hidden_states"] = True
    return Part(name, wrappers.AllStates(encoder, family), {"input_ids": ids}, (*first, *layers), axes, config)


def write_rest(model: TextToImage, folder: Path) -> None:
    """The tokenizers, the scheduler and the index."""
    for name in model.family.tokenizers.values():
        getattr(model, name).save_pretrained(folder / name)
    scheduler = {"_class_name": "DDIMScheduler", **model.scheduler_config}
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", _index(model, scheduler["_class_name"]))


class NamedParts:
    """Files of this layout as parity.Parts. `run(part, inputs by name)` gives the outputs in their order.

    `batch`: for each part with a fixed batch, that batch; its calls are cut to it, the last one filled up with copies of its last row.
    """

    def __init__(self, run: Callable[[str, dict[str, Tensor]], list[Tensor]], batch: dict[str, int]) -> None:
        self._run_once, self._batch = run, batch

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._text("text_encoder", ids)

    def text_encoder_2(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._text("text_encoder_2", ids)

    def unet(self, sample: Tensor, timestep: Tensor, states: Tensor, *added: Tensor) -> Tensor:
        inputs = {"sample": sample, "timestep": timestep.float(), "encoder_hidden_states": states}
        return self._run("unet", inputs | dict(zip(StableDiffusionXL.added, added, strict=False)))[0]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return self._run("vae_decoder", {"latent_sample": latents})[0]

    def vae_encoder(self, pixels: Tensor) -> Tensor:
        return self._run("vae_encoder", {"sample": pixels})[0]

    def _text(self, name: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        made = self._run(name, {"input_ids": ids})
        pooled = next(output for output in made if output.dim() == 2)
        return made[0] if len(made) == 2 else made[-2], pooled  # of every layer's states, those before the last layer

    def _run(self, name: str, inputs: dict[str, Tensor]) -> list[Tensor]:
        return batches.cut(lambda cut: self._run_once(name, cut), inputs, self._batch.get(name))


def _rows(value: Tensor, batch: int) -> Tensor:
    return value[torch.arange(batch) % len(value)] if value.dim() else value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _config(part: Any) -> dict[str, Any]:
    """What `save_pretrained` would write as config.json, without the place that the part was loaded from."""
    return {key: value for key, value in json.loads(part.to_json_string()).items() if key != "_name_or_path"}


def _index(model: TextToImage, scheduler: str) -> dict[str, Any]:
    """What `save_pretrained` would write as model_index.json."""
    family = model.family
    if family is StableDiffusion:
        others = {"safety_checker": [None, None], "requires_safety_checker": False}
    else:
        others = {ZERO_EMPTY: model.zero_empty, "add_watermarker": False}
    return {
        "_class_name": family.pipeline,
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        **others,
        "scheduler": ["diffusers", scheduler],
        **{name: ["transformers", "CLIPTokenizer"] for name in family.tokenizers.values()},
        **family.parts,
    }
