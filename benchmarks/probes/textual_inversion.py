"""Concept inversion: one new token, learned from a few pictures of the concept on the frozen erased model, stands for it in the prompts.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", ICLR 2024, arXiv 2308.01508, equation 5:

    v* = argmin over v  E  L(x_0, TextEncoder(prompt with v in the concept's place)),   v (D,) a row that no vocabulary has

x_0 pictures that the un-erased model draws of the plain prompts, each with its own prompt; a batch draws picture, timestep and noise anew.
v starts as the mean of the concept's own rows. A text encoder each where a model has two. An export's text encoder takes ids only, so
the states come from the torch weights, and the exported UNet draws from them. Cost: `steps` passes of `batch`, forward and backward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from edgesafe import model
from edgesafe.concepts import Concept
from edgesafe.data import generator
from edgesafe.families import Conditions
from edgesafe.model import TextToImage

from ..leakage import Cell, Question
from ..runtimes.runtime import Runtime
from . import concept_pictures, learned, soft_prompt
from .probe import Probe, Target, there

MARK = "\ue000"  # in the concept's place; of Unicode's private use, so no caption holds it
Given = Callable[[dict[str, Tensor]], Conditions]


@dataclass(frozen=True)
class TextualInversion(Probe):
    pictures: int = 16  # of the concept, to learn from
    steps: int = 300
    batch: int = 8
    rate: float = 5e-3  # AdamW's, constant
    decay: float = 1e-2  # AdamW's

    name: ClassVar[str] = "textual-inversion"
    attacker: ClassVar[str] = "files"
    needs: ClassVar[frozenset[str]] = frozenset({"twin", "control"})
    control_asked: ClassVar[str] = "plain"  # the token is learned on the erased weights
    what: ClassVar[str] = "a new token, learned from pictures of the concept, in the place of the concept's words"
    source_of_method: ClassVar[str] = "Pham et al., ICLR 2024, arXiv 2308.01508"

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        self._learn(target, cell)
        return tuple(replace(q, prompt=marked(cell, q.prompt).replace(MARK, "<learned>"), plain=q.origin) for q in cell.questions)

    def draw(self, model: Runtime, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:
        found, _ = soft_prompt.kept(self._place(target, cell))
        return soft_prompt.draw(
            model, soft_prompt.stacked(found, [q.origin for q in questions]), [q.seed for q in questions], target.drawing
        )  # fmt: skip

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on what was learned."""
        _, facts = soft_prompt.kept(self._place(target, cell))
        before, after = facts["error"]
        return f"a token from {facts['pictures']} pictures; noise error {before:.4f} with the concept's own words, {after:.4f} with the token"

    def _place(self, target: Target, cell: Cell) -> Path:
        return learned.place(self, target, "token", ".safetensors", cell)

    def _learn(self, target: Target, cell: Cell) -> None:
        path = self._place(target, cell)
        if path.is_file():
            return
        net = model.load(there(target.twin).place)
        asked = concept_pictures.spread(cell, self.pictures)
        latents = concept_pictures.of_control(self, target, cell, net, asked)
        prompts = [with_token(net, marked(cell, q.prompt)) for q in asked]
        draws = generator(target.seed, self.name, cell.title)
        first = start(net, cell.concept)
        said = f"{self.name}: learning a token"
        vector = self.invert(net, latents, prompts, first, draws, lambda i: target.progress(f"{said}, step {i} of {self.steps}"))
        errors = [measured(net, latents, prompts, v, generator(target.seed, "error")) for v in (first, vector)]
        every = list(dict.fromkeys(q.prompt for q in cell.questions))
        with torch.no_grad():
            given = [with_token(net, marked(cell, prompt))(vector) for prompt in every]
        soft_prompt.keep(path, every, given, {"error": errors, "pictures": len(asked)})

    def invert(
        self,
        net: TextToImage,
        latents: Tensor,
        prompts: Sequence[Given],
        first: dict[str, Tensor],
        draws: Generator,
        progress: Callable[[int], None] = lambda step: None,
    ) -> dict[str, Tensor]:
        """latents (N, C, h, w) of N prompts -> text encoder -> v (D,)."""
        vector = {name: value.clone().requires_grad_() for name, value in first.items()}
        optimizer = torch.optim.AdamW(vector.values(), self.rate, weight_decay=self.decay)
        error, last = concept_pictures.noise_error(net), len(model.alphas_cumprod(net))
        for step in range(self.steps):
            if step % 20 == 0:
                progress(step)
            rows = torch.randint(len(prompts), (self.batch,), generator=draws)
            timesteps = torch.randint(last, (self.batch,), generator=draws)
            noise = torch.randn(self.batch, *latents.shape[1:], generator=draws)
            given = tuple(torch.cat(column) for column in zip(*(prompts[i](vector) for i in rows.tolist()), strict=True))
            optimizer.zero_grad()
            error(latents[rows], given, timesteps, noise).mean().backward()
            optimizer.step()
        return {name: value.detach() for name, value in vector.items()}


def marked(cell: Cell, prompt: str) -> str:
    """The prompt with MARK where the concept's words stood; before it where they do not stand in it."""
    if cell.concept is None:
        raise ValueError(f"a cell of role {cell.role!r} asks for no concept")
    text = replace(cell.concept, anchor=MARK).retarget(prompt)
    return text if MARK in text else f"{MARK} {text}"


def start(net: TextToImage, concept: Concept | None) -> dict[str, Tensor]:
    """The mean of the rows of the concept's name."""
    tokens = soft_prompt.tokens_of(net, concept.name if concept else "")
    return {name: table[tokens].mean(0) for name, table in soft_prompt.tables(net).items()}


def with_token(net: TextToImage, text: str) -> Given:
    """{text encoder: v (D,)} -> the conditions of a text with MARKs, v at each of them, one row."""
    tables, tokens, places = soft_prompt.tables(net), [], []
    for i, part in enumerate(text.split(MARK)):
        if i:
            places.append(len(tokens) + 1)  # 1: the start token
            tokens.append(0)  # holds the place: any token but the end
        tokens += soft_prompt.tokens_of(net, part)
    ids = {name: row[None] for name, row in soft_prompt.padded(net, tokens).items()}

    def given(vector: dict[str, Tensor]) -> Conditions:
        rows = {}
        for name, table in tables.items():
            here = torch.zeros(ids[name].shape[1], 1)
            here[[p for p in places if p < len(here) - 1]] = 1
            rows[name] = (table[ids[name][0]] * (1 - here) + here * vector[name])[None]
        return soft_prompt.conditions(net, ids, rows)

    return given


@torch.no_grad()
def measured(net: TextToImage, latents: Tensor, prompts: Sequence[Given], vector: dict[str, Tensor], draws: Generator) -> float:
    """The mean noise error over all pictures, the same timesteps and noises for every vector."""
    error, last = concept_pictures.noise_error(net), len(model.alphas_cumprod(net))
    given = tuple(torch.cat(column) for column in zip(*(prompt(vector) for prompt in prompts), strict=True))
    errors = []
    for t in range(last // 20, last, last // 10):
        noise = torch.randn(latents.shape, generator=draws)
        errors.append(error(latents, given, torch.full((len(latents),), t), noise))
    return float(torch.cat(errors).mean())
