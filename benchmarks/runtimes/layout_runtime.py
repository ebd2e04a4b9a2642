"""Exports in the diffusers layout, whatever runs their files: a folder a component, each a function of named tensors."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgesafe import batches, bpe
from edgesafe.errors import EdgeSafeError
from edgesafe.families import ZERO_EMPTY, Conditions, Encoded, Family, StableDiffusion, StableDiffusionXL

from .runtime import Runtime, latent_shape, read_json

COMPONENTS = ("text_encoder", "unet", "vae_decoder")
Shape = tuple[int, ...]


class Component(ABC):
    """One file. A subclass's __init__(path, names of the outputs wanted, threads) opens it and fills these."""

    path: Path
    inputs: tuple[str, ...]
    batch: int | None  # where the file fixes it

    @abstractmethod
    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        """The outputs in fp32, of these shapes, in new memory at each call because schedulers keep what they were given."""

    def __call__(self, *shapes: Shape, **feeds: Tensor) -> list[Tensor]:
        """Calls are cut to a fixed batch, the last one filled up with copies."""
        if missing := set(self.inputs) - set(feeds):
            raise EdgeSafeError(f"{self.path}: it needs {', '.join(sorted(missing))}, and this runtime gives only {', '.join(feeds)}")
        batch = self.batch or shapes[0][0]
        return batches.cut(lambda cut: self.run([(batch, *shape[1:]) for shape in shapes], cut), feeds, self.batch)


class Words:
    """A tokenizer's folder as a function from prompts to ids (N, S), filled up; transformers is imported only for what is not PLAIN."""

    PLAIN: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z0-9 ,.'!?-]*")  # where bpe.py and CLIPTokenizer, with or without ftfy, agree

    def __init__(self, folder: Path) -> None:
        self.folder, config = folder, read_json(folder / "tokenizer_config.json")
        pad = config.get("pad_token") or bpe.END
        pad = pad if isinstance(pad, str) else pad["content"]
        self.length, self.plain = min(config.get("model_max_length", bpe.LENGTH), bpe.LENGTH), bpe.Tokenizer.read(folder, pad)
        self.pad = self.plain.vocab[pad]

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder)

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        if all(self.PLAIN.fullmatch(prompt) for prompt in prompts):
            rows = [self.plain.ids(prompt, self.length) for prompt in prompts]
            return torch.tensor([row + [self.pad] * (self.length - len(row)) for row in rows])
        return self.tokenizer(list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt").input_ids


class TextEncoder:
    """A text encoder and its tokenizer as a function of prompts: (N, S, D), (N, P)"""

    def __init__(self, folder: Path, name: str, family: Family, runtime: "type[LayoutRuntime]", threads: int | None) -> None:
        config = read_json(folder / name / "config.json")
        outputs = family.outputs(name, config["num_hidden_layers"])
        self.widths = config["hidden_size"], config["projection_dim" if "text_embeds" in outputs else "hidden_size"]
        self.component = runtime.component(folder / name / runtime.file, outputs, threads)
        self.words = Words(folder / family.tokenizers[name])

    def __call__(self, prompts: Sequence[str]) -> Encoded:
        return self.encode_ids(self.words(prompts))

    def encode_ids(self, ids: Tensor) -> Encoded:
        """ids (N, S)"""
        states, pooled = self.component((*ids.shape, self.widths[0]), (len(ids), self.widths[1]), input_ids=ids)
        return states, pooled


class LayoutRuntime(Runtime):
    kind: ClassVar[str]  # as in "is no ONNX export"
    file: ClassVar[str]  # in each component's folder
    component: ClassVar[type[Component]]
    unet_component: ClassVar[type[Component]]

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        folder = Path(source)
        missing = [f"{part}/{cls.file}" for part in COMPONENTS if not (folder / part / cls.file).is_file()]
        return f"{source} is no {cls.kind} export (no {', '.join(missing)})" if missing else None

    @classmethod
    def import_libraries(cls) -> None:
        """None beside those that are imported with this file."""

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "LayoutRuntime":
        return cls(Path(source), threads)

    def __init__(self, folder: Path, threads: int | None) -> None:
        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae_decoder"))
        self.latent_shape = latent_shape(unet)
        self.scaling_factor = vae["scaling_factor"]
        self.upscale = 2 ** (len(vae["block_out_channels"]) - 1)  # px a latent
        self.unet = self.unet_component(folder / "unet" / self.file, ["out_sample"], threads)
        self.vae_decoder = self.component(folder / "vae_decoder" / self.file, ["sample"], threads)
        self.family = StableDiffusionXL if "text_embeds" in self.unet.inputs else StableDiffusion
        self.zero_empty = len(self.family.added) > 0 and read_json(folder / "model_index.json").get(ZERO_EMPTY, True)
        self.texts = [TextEncoder(folder, name, self.family, type(self), threads) for name in self.family.tokenizers]

    @property
    def tokenizer(self) -> Any:
        return self.texts[0].words.tokenizer

    def encode(self, prompts: Sequence[str]) -> Conditions:
        height, width = (side * self.upscale for side in self.latent_shape[1:])
        return self.family.conditions([encoder(prompts) for encoder in self.texts], prompts, (height, width), self.zero_empty)

    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        inputs = dict(zip(("encoder_hidden_states", *self.family.added), given, strict=True))
        return self.unet(tuple(sample.shape), sample=sample, timestep=timestep, **inputs)[0]

    def decode(self, latents: Tensor) -> Tensor:
        n, _, h, w = latents.shape
        return self.vae_decoder((n, 3, h * self.upscale, w * self.upscale), latent_sample=latents / self.scaling_factor)[0]
