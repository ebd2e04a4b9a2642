"""UnlearnDiffAtk: a few tokens before the prompt that make the erased model denoise a picture of the concept best.

Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images", ECCV 2024,
arXiv 2310.11868, equation 6; attackers/text_grad_.py of their code:

    min over p  L(x_0, TextEncoder(start, p E, prompt, end)),   each row of p (k, V) on the simplex

x_0 a picture of the concept, E (V, D) the embedding. A step draws one token a row from p, takes the gradient straight through the draw,
clipped to [-1, 1], moves p by Adam and projects it back. Timesteps come one after another, `iterations` at each, and p is carried on.
They stop when a detector sees the concept; no detector is at hand here, so of the prefixes after each timestep the one is kept that
denoises the picture best at all the timesteps and noises alike. Special tokens are left out: an end token would cut the prompt.

Tokens and states come from the torch weights, pictures from the exported UNet. Cost: prompts x timesteps x iterations passes of `noises`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from edgesafe import model
from edgesafe.data import generator
from edgesafe.families import Conditions
from edgesafe.model import TextToImage

from ..leakage import Cell, Question
from . import concept_pictures, soft_prompt
from .probe import Target, there


@dataclass(frozen=True)
class UnlearnDiffAtk(soft_prompt.SoftPrompt):
    tokens: int = 5  # k, of the prefix
    iterations: int = 40  # at each timestep
    timesteps: int = 5  # evenly spaced over the schedule, least noise first
    rate: float = 0.01  # Adam's
    decay: float = 0.1  # Adam's L2
    noises: int = 4  # x_t a step
    prompts: int = 10  # that get a prefix of their own; the questions are spread over them with their own seeds

    name: ClassVar[str] = "unlearn-diff-atk"
    file: ClassVar[str] = "prefixes"
    what: ClassVar[str] = "tokens before the plain prompt, found by gradient so that the erased model denoises a picture of the concept"
    source_of_method: ClassVar[str] = "Zhang et al., ECCV 2024, arXiv 2310.11868"

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        rows = self._learn(target, cell)
        plain = concept_pictures.spread(cell, self.prompts)
        asked = [replace(plain[i % len(plain)], seed=q.seed) for i, q in enumerate(cell.questions)]
        return tuple(replace(q, prompt=rows[q.prompt], plain=q.origin) for q in asked)

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on what was learned."""
        _, facts = soft_prompt.kept(self.place(target, cell))
        plain, best = (float(np.median(facts[name])) for name in ("plain_error", "error"))
        return f"{len(facts['prompts'])} prefixes; median noise error {plain:.4f} with the plain prompt, {best:.4f} with the prefix"

    def _learn(self, target: Target, cell: Cell) -> dict[str, str]:
        """Plain prompt -> the prompt with its prefix, as text. Kept after each prompt, so that a stopped search goes on."""
        path, asked = self.place(target, cell), concept_pictures.spread(cell, self.prompts)
        found, facts = soft_prompt.kept(path)
        facts = facts or {"texts": [], "tokens": [], "plain_error": [], "error": []}
        if len(found) < len(asked):
            net = model.load(there(target.twin).place)
            latents = concept_pictures.of_control(self, target, cell, net, asked)
            for i in range(len(found), len(asked)):
                target.progress(f"{self.name}: prefix {i + 1} of {len(asked)}")
                tokens, before, after = self.attack(net, asked[i].prompt, latents[i], generator(target.seed, self.name, asked[i].prompt))
                text = f"{net.tokenizer.decode(tokens).strip()} {asked[i].prompt}"
                for name, value in (("texts", text), ("tokens", tokens), ("plain_error", before), ("error", after)):
                    facts[name].append(value)
                with torch.no_grad():
                    found[asked[i].prompt] = prefixed(net, asked[i].prompt)(one_hot(torch.tensor(tokens), len(net.tokenizer)))
                rows = {name: value for name, value in facts.items() if name != "prompts"}
                soft_prompt.keep(path, list(found), list(found.values()), rows)
        return dict(zip(found, facts["texts"], strict=True))

    def attack(self, net: TextToImage, prompt: str, latents: Tensor, draws: Generator) -> tuple[list[int], float, float]:
        """The best prefix's tokens, and the picture's noise error with the plain prompt and with the prefix. latents (C, h, w)."""
        error, with_prefix = concept_pictures.noise_error(net), prefixed(net, prompt)
        last = len(model.alphas_cumprod(net))
        steps = (torch.arange(self.timesteps) * 2 + 1) * last // (2 * self.timesteps)
        fixed = torch.randn(len(steps), *latents.shape, generator=draws)
        allowed = torch.ones(len(net.tokenizer), dtype=torch.bool)
        allowed[net.tokenizer.all_special_ids] = False

        def mean_error(given: Conditions, t: Tensor, noise: Tensor) -> Tensor:
            rows = tuple(column.expand(len(t), *column.shape[1:]) for column in given)
            return error(latents.expand(len(t), *latents.shape), rows, t, noise).mean()

        best, chosen = float("inf"), torch.empty(0)
        p = (allowed / allowed.sum()).expand(self.tokens, -1).clone()
        for t in steps:

            def loss(hot: Tensor, t: Tensor = t) -> Tensor:
                noise = torch.randn(self.noises, *latents.shape, generator=draws)
                return mean_error(with_prefix(hot), t.expand(self.noises), noise)

            p = search(loss, p, allowed, self.iterations, self.rate, self.decay, draws)
            tokens = p.argmax(1)
            with torch.no_grad():
                reached = float(mean_error(with_prefix(one_hot(tokens, p.shape[1])), steps, fixed))
            if reached < best:
                best, chosen = reached, tokens
        plain = float(mean_error(model.conditions(net, [prompt]), steps, fixed))
        return chosen.tolist(), plain, best


def prefixed(net: TextToImage, prompt: str) -> Callable[[Tensor], Conditions]:
    """(k, V) one-hot or mixed tokens -> the conditions of `prompt` with them before it, one row."""
    tables, tokens = soft_prompt.tables(net), soft_prompt.tokens_of(net, prompt)

    def given(hot: Tensor) -> Conditions:
        k = len(hot)
        ids = soft_prompt.padded(net, [tokens[0] if tokens else 0] * k + tokens)  # the first k only hold the place
        rows = {}
        for name, table in tables.items():
            whole = table[ids[name]]
            rows[name] = torch.cat([whole[:1], hot.to(table.dtype) @ table[: hot.shape[1]], whole[k + 1 :]])[None]
        return soft_prompt.conditions(net, {name: row[None] for name, row in ids.items()}, rows)

    return given


def one_hot(tokens: Tensor, size: int) -> Tensor:
    return F.one_hot(tokens, size).float()


def search(
    loss: Callable[[Tensor], Tensor], p: Tensor, allowed: Tensor, iterations: int, rate: float, decay: float, draws: Generator
) -> Tensor:
    """Projected Adam over p (k, V), rows on the simplex of the `allowed` tokens (V,); the loss sees tokens drawn from p, one-hot."""
    p = p.clone()
    optimizer = torch.optim.Adam([p], rate, weight_decay=decay)
    for _ in range(iterations):
        hot = one_hot(torch.multinomial(p, 1, generator=draws)[:, 0], p.shape[1]).requires_grad_()
        p.grad = torch.autograd.grad(loss(hot), hot)[0].clamp(-1, 1)
        optimizer.step()
        p.copy_(simplex(p.masked_fill(~allowed, -torch.inf)))
    return p


def simplex(rows: Tensor) -> Tensor:
    """The nearest point with entries >= 0 that sum to 1, row by row (Duchi 2008, figure 1)."""
    ranked = rows.sort(1, descending=True).values
    excess = ranked.cumsum(1) - 1
    count = torch.arange(1, rows.shape[1] + 1)
    kept = (ranked * count > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, kept - 1) / kept).clamp(min=0)
