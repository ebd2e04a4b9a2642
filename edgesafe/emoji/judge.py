"""The emoji world's judge: names the subject and the style of a picture, or calls it broken, and embeds it.

A small convolutional network that shares nothing with the generator, its text encoder least of all. It answers three questions:
which of the S subjects, or "none", a broken picture (so that a destroyed picture is not mistaken for an erased concept); which of
the T styles; and where the picture lies in an embedding of D dimensions, for style similarity, FID and KID.

Trained by `judge_training.py` on renders, VAE reconstructions and broken pictures of *all* subject x style pairs: it is the generator
that never sees the held-out ones. Tried without them (2,300 steps): 732/1024 = 71 % of held-out renders named right, 23 % called
broken, against 99.7 % of trained pairs; such a judge would confound what the generator cannot compose with what the judge cannot.
Its errors, on fresh pictures, are in `judge.json` beside the weights.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WIDTHS = (24, 48, 80, 128, 160)
EMBEDDING = 128
WEIGHTS = Path(str(files(__package__).joinpath("judge.safetensors")))
FACTS = WEIGHTS.with_suffix(".json")


@dataclass(frozen=True)
class Classes:
    subjects: tuple[str, ...]
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """The judge's answer on N pictures."""

    subject_probs: Tensor  # (N, S+1), last column "none": a broken picture
    style_probs: Tensor  # (N, T)
    embedding: Tensor  # (N, D)

    @property
    def subject(self) -> Tensor:
        """(N,) index of the likeliest subject; S means none."""
        return self.subject_probs.argmax(1)

    @property
    def style(self) -> Tensor:
        """(N,)"""
        return self.style_probs.argmax(1)

    @property
    def none(self) -> Tensor:
        """(N,) bool: a broken picture."""
        return self.subject == self.subject_probs.shape[1] - 1


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, the first of stride 2."""

    def layer(c_in: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]

    return nn.Sequential(*layer(inputs, 2), *layer(outputs, 1))


class Judge(nn.Module):
    """Pictures (N, 3, 64, 64) in [0, 1] -> `Scores`."""

    def __init__(self, classes: Classes, widths: tuple[int, ...] = WIDTHS, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.classes, self.widths = classes, widths
        self.stages = nn.Sequential(*(_stage(a, b) for a, b in zip((3, *widths), widths, strict=False)))
        self.embed = nn.Linear(widths[-1], embedding)
        self.subject_head = nn.Linear(embedding, len(classes.subjects) + 1)
        self.style_head = nn.Linear(embedding, len(classes.styles))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, S+1), (N, T) and the embedding (N, D)."""
        embedding = self.embed(self.stages(pixels * 2 - 1).mean((2, 3)))
        hidden = nn.functional.silu(embedding)
        return self.subject_head(hidden), self.style_head(hidden), embedding

    @torch.no_grad()
    def score(self, pixels: Tensor, batch: int = 256) -> Scores:
        """pixels (N, 3, 64, 64) in [0, 1], any floating dtype."""
        size = tuple(pixels.shape[1:])
        if pixels.ndim != 4 or size != (3, 64, 64):
            raise ValueError(f"the judge takes pictures (N, 3, 64, 64), not {tuple(pixels.shape)}")
        if not pixels.is_floating_point() or (len(pixels) and not 0 <= float(pixels.min()) <= float(pixels.max()) <= 1):
            raise ValueError("the judge takes floating-point pictures in [0, 1]")
        device = self.embed.weight.device
        rows = [self(x.to(device, torch.float32)) for x in pixels.split(batch)] if len(pixels) else [self(pixels.float())]
        subject, style, embedding = (torch.cat(column) for column in zip(*rows, strict=True))
        return Scores(subject.softmax(1), style.softmax(1), embedding)

    @cached_property
    def facts(self) -> dict:
        """judge.json: how the packaged judge was made and its own measured errors, for reports."""
        return json.loads(FACTS.read_text())


def sha256() -> str:
    """Of the packaged weight file: what a report names the detector by."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def load() -> Judge:
    """The packaged judge, ready to score."""
    facts = json.loads(FACTS.read_text())
    classes = Classes(tuple(facts["subjects"]), tuple(facts["styles"]))
    judge = Judge(classes, tuple(facts["widths"]), facts["embedding"])
    judge.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in load_file(WEIGHTS).items()})
    return judge.eval().requires_grad_(False)
