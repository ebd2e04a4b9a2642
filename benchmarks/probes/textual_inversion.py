"""Concept inversion: a new token, learned from a few pictures of the concept on the frozen erased model, stands for it in the prompts.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", ICLR 2024, arXiv 2308.01508, equation 5:

    v* = argmin over v  E  L(x_0, TextEncoder(prompt with v in the concept's place)),   v (k, D) rows that no vocabulary has

x_0 pictures that the un-erased model draws of the plain prompts, each with its own prompt; a batch draws picture, timestep and noise anew.
Each row of v starts as the mean of the concept's own. A v each where a model has two text encoders. An export's text encoder takes ids
only, so the states come from the torch weights, and the exported UNet draws from them. Cost: `steps` passes of `batch`, with gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from edgesafe import model
from edgesafe.data import generator
from edgesafe.families import Conditions
from edgesafe.model import TextToImage

from ..leakage import Cell, Question
from . import concept_pictures, soft_prompt
from .probe import Target, there

MARK = "\ue000"  # in the concept's place; of Unicode's private use, so no caption holds it


@dataclass(frozen=True)
class Prompts:
    """N prompts with k free tokens where the concept's words stood."""

    net: TextToImage
    ids: dict[str, Tensor]  # text encoder -> (N, S)
    slots: Tensor  # (N, S, k): 1 where the prompt's token is the k-th row of v

    @classmethod
    def of(cls, net: TextToImage, texts: Sequence[str], k: int) -> "Prompts":
        """`texts` with MARKs, each of which k tokens take the place of."""
        ids, slots = [], []
        for text in texts:
            tokens, places = [], []
            for i, part in enumerate(text.split(MARK)):
                if i:
                    places += [(len(tokens) + 1 + j, j) for j in range(k)]  # 1: the start token
                    tokens += [0] * k  # hold the places: any token but the end
                tokens += soft_prompt.tokens_of(net, part)
            ids.append(soft_prompt.padded(net, tokens))
            slot = torch.zeros(net.tokenizer.model_max_length, k)
            for place, j in places:
                if place < len(slot) - 1:
                    slot[place, j] = 1
            slots.append(slot)
        return cls(net, {name: torch.stack([row[name] for row in ids]) for name in ids[0]}, torch.stack(slots))

    def conditions(self, v: Mapping[str, Tensor], rows: Tensor | None = None) -> Conditions:
        """v: text encoder -> (k, D); of these rows, or of all."""
        chosen = slice(None) if rows is None else rows
        ids, slots = {name: whole[chosen] for name, whole in self.ids.items()}, self.slots[chosen]
        own = 1 - slots.sum(2, keepdim=True)
        tables = soft_prompt.tables(self.net)
        return soft_prompt.conditions(self.net, ids, {name: tables[name][ids[name]] * own + slots @ v[name] for name in ids})


@dataclass(frozen=True)
class TextualInversion(soft_prompt.SoftPrompt):
    tokens: int = 4  # k; the paper learns 1, which this model of 6.5 M weights shows to be too few
    pictures: int = 16  # of the concept, to learn from
    steps: int = 300
    batch: int = 8
    rate: float = 0.02  # AdamW's, constant
    decay: float = 1e-2  # AdamW's

    name: ClassVar[str] = "textual-inversion"
    file: ClassVar[str] = "token"
    what: ClassVar[str] = "a new token, learned from pictures of the concept, in the place of the concept's words"
    source_of_method: ClassVar[str] = "Pham et al., ICLR 2024, arXiv 2308.01508"

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        self._learn(target, cell)
        return tuple(replace(q, prompt=marked(cell, q.prompt).replace(MARK, "<learned>"), plain=q.origin) for q in cell.questions)

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on what was learned."""
        _, facts = soft_prompt.kept(self.place(target, cell))
        before, after = facts["error"]
        said = f"noise error {before:.4f} with the concept's own words, {after:.4f} with what was learned"
        return f"{self.tokens} token{'s' * (self.tokens > 1)} from {facts['pictures']} pictures; {said}"

    def _learn(self, target: Target, cell: Cell) -> None:
        path = self.place(target, cell)
        if path.is_file():
            return
        net = model.load(there(target.twin).place)
        asked = concept_pictures.spread(cell, self.pictures)
        latents = concept_pictures.of_control(self, target, cell, net, asked)
        prompts = Prompts.of(net, [marked(cell, q.prompt) for q in asked], self.tokens)
        first, draws = start(net, cell, self.tokens), generator(target.seed, self.name, cell.title)
        said = f"{self.name}: learning a token"
        v = self.invert(latents, prompts, first, draws, lambda i: target.progress(f"{said}, step {i} of {self.steps}"))
        plain = model.conditions(net, [q.prompt for q in asked])
        with torch.no_grad():
            errors = [measured(net, latents, given, generator(target.seed, "error")) for given in (plain, prompts.conditions(v))]
            every = list(dict.fromkeys(q.prompt for q in cell.questions))
            given = [Prompts.of(net, [marked(cell, prompt)], self.tokens).conditions(v) for prompt in every]
        soft_prompt.keep(path, every, given, {"error": errors, "pictures": len(asked)})

    def invert(
        self,
        latents: Tensor,
        prompts: Prompts,
        first: Mapping[str, Tensor],
        draws: Generator,
        progress: Callable[[int], None] = lambda step: None,
    ) -> dict[str, Tensor]:
        """latents (N, C, h, w) of N prompts, where v starts -> v: text encoder -> (k, D)."""
        v = {name: rows.clone().requires_grad_() for name, rows in first.items()}
        optimizer = torch.optim.AdamW(v.values(), self.rate, weight_decay=self.decay)
        error, last = concept_pictures.noise_error(prompts.net), len(model.alphas_cumprod(prompts.net))
        for step in range(self.steps):
            if step % 20 == 0:
                progress(step)
            rows = torch.randint(len(latents), (self.batch,), generator=draws)
            timesteps = torch.randint(last, (self.batch,), generator=draws)
            noise = torch.randn(self.batch, *latents.shape[1:], generator=draws)
            optimizer.zero_grad()
            error(latents[rows], prompts.conditions(v, rows), timesteps, noise).mean().backward()
            optimizer.step()
        return {name: rows.detach() for name, rows in v.items()}


def marked(cell: Cell, prompt: str) -> str:
    """The prompt with MARK where the concept's words stood; before it where they do not stand in it."""
    if cell.concept is None:
        raise ValueError(f"a cell of role {cell.role!r} asks for no concept")
    text = replace(cell.concept, anchor=MARK, swaps=()).retarget(prompt)
    return text if MARK in text else f"{MARK} {text}"


def start(net: TextToImage, cell: Cell, k: int) -> dict[str, Tensor]:
    """Text encoder -> (k, D), each row the mean of those of the concept's name."""
    tokens = soft_prompt.tokens_of(net, cell.concept.name if cell.concept else "")
    return {name: table[tokens].mean(0).expand(k, -1) for name, table in soft_prompt.tables(net).items()}


def measured(net: TextToImage, latents: Tensor, given: Conditions, draws: Generator) -> float:
    """The mean noise error over all pictures, the same timesteps and noises for every prompt."""
    error, last = concept_pictures.noise_error(net), len(model.alphas_cumprod(net))
    errors = []
    for t in range(last // 20, last, last // 10):
        noise = torch.randn(latents.shape, generator=draws)
        errors.append(error(latents, given, torch.full((len(latents),), t), noise))
    return float(torch.cat(errors).mean())
