"""MMA-Diffusion's text attack: words that say none of the concept's, but give the text encoder the state of the concept's prompt.

Yang et al., "MMA-Diffusion: MultiModal Attack on Diffusion Models", CVPR 2024, arXiv 2311.17516, section 3.2: greedy coordinate gradient
(Zou 2023, arXiv 2307.15043) on

    L = 1 - cos(pooled(words), pooled(plain prompt)),   pooled (P,) of the last text encoder

At each step the gradient at every word's one-hot vector names the `top` words whose exchange should lower L most; `candidates` exchanges
of one word each are tried, and the best is kept if it is better. Words are whole tokens of the letters a-z, so that the text is read
back as the same tokens, and no text may carry a term of the concept. match "states", the default, compares in place of the pooled state
the hidden states of all tokens and of two of padding, which are what the UNet reads. It attacks the text encoder alone: a model erased
in its UNet reads such a prompt as it reads the plain one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from edgesafe import families, model
from edgesafe.concepts import Concept, carriers
from edgesafe.data import generator
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from ..leakage import Cell, Question
from . import concept_pictures, learned, soft_prompt
from .probe import Probe, Target, there

MATCHES = ("pooled", "states")


@dataclass(frozen=True)
class MMA(Probe):
    words: int = 0  # of a found prompt; 0: as many as the plain prompt has tokens
    steps: int = 40
    top: int = 64  # words a place that the gradient proposes
    candidates: int = 128  # exchanges tried a step
    match: str = "states"  # "states" | "pooled", as in the paper
    prompts: int = 10  # that get words of their own; the questions are spread over them with their own seeds

    name: ClassVar[str] = "mma"
    attacker: ClassVar[str] = "files"  # the search needs the text encoder's gradient; what it finds anybody can type
    needs: ClassVar[frozenset[str]] = frozenset({"twin"})
    what: ClassVar[str] = "words other than the concept's that give the text encoder the same state, found by coordinate gradient"
    source_of_method: ClassVar[str] = "Yang et al., CVPR 2024, arXiv 2311.17516"

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise EdgeSafeError(f"mma.match {self.match!r} is unknown; known: {', '.join(MATCHES)}")

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        texts = self._learn(target, cell)["texts"]
        plain = concept_pictures.spread(cell, self.prompts)
        asked = [replace(plain[i % len(plain)], seed=q.seed) for i, q in enumerate(cell.questions)]
        return tuple(replace(q, prompt=texts[q.prompt], plain=q.origin) for q in asked)

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on what was learned."""
        rows = self._learn(target, cell)
        reached = float(np.median(rows["similarity"]))
        return f"{len(rows['texts'])} prompts without the concept's words; median cosine similarity to the plain prompts {reached:.3f}"

    def _learn(self, target: Target, cell: Cell) -> dict:
        """{"texts": {plain prompt: found}, "similarity": [...]}, kept after each prompt."""
        path = learned.place(self, target, "words", ".json", cell)
        rows = learned.read(path) or {"texts": {}, "similarity": []}
        asked = [q.prompt for q in concept_pictures.spread(cell, self.prompts)]
        if len(rows["texts"]) < len(asked):
            net = model.load(there(target.twin).place)
            allowed = [word for word in soft_prompt.words(net) if not carriers(net.tokenizer.decode([word]), target.concepts)]
            for i in range(len(rows["texts"]), len(asked)):
                target.progress(f"{self.name}: words {i + 1} of {len(asked)}")
                draws = generator(target.seed, self.name, asked[i])
                text, similarity = self.search(net, asked[i], torch.stack(allowed), target.concepts, draws)
                rows["texts"][asked[i]] = text
                rows["similarity"].append(similarity)
                learned.write(path, rows)
        return rows

    def search(self, net: TextToImage, prompt: str, allowed: Tensor, concepts: Sequence[Concept], draws: Generator) -> tuple[str, float]:
        """The words found, and the cosine similarity they reach. allowed (W,): ids of single words."""
        count = min(self.words or len(soft_prompt.tokens_of(net, prompt)), net.tokenizer.model_max_length - 2)
        length = count + (4 if self.match == "states" else 2)  # the encoder looks back only
        tables, goal = soft_prompt.tables(net), features(net, prompt, self.match, length)
        encoder = list(tables)[-1]

        def clean(tokens: Tensor) -> bool:
            return not carriers(net.tokenizer.decode(tokens.tolist()), concepts)

        def similarity(rows: Tensor) -> Tensor:
            """(N, k, D) rows of the last text encoder -> (N,)"""
            ids = soft_prompt.padded(net, [int(allowed[0])] * rows.shape[1])[encoder][:length]
            whole = tables[encoder][ids].expand(len(rows), -1, -1)
            whole = torch.cat([whole[:, :1], rows, whole[:, rows.shape[1] + 1 :]], 1)
            return F.cosine_similarity(feature(net, encoder, ids.expand(len(rows), -1), whole, self.match), goal, dim=-1)

        return coordinate_search(
            similarity, tables[encoder], allowed, clean, count, self.steps, self.top, self.candidates, draws, net.tokenizer.decode
        )


def feature(net: TextToImage, encoder: str, ids: Tensor, rows: Tensor, match: str) -> Tensor:
    """(N, P) or (N, S D): what one text encoder makes of rows (N, S, D)."""
    hook = getattr(net, encoder).get_input_embeddings().register_forward_hook(lambda *_: rows)
    try:
        states, pooled = families.encode(net.family, getattr(net, encoder), ids)
    finally:
        hook.remove()
    return pooled if match == "pooled" else states.flatten(1)


@torch.no_grad()
def features(net: TextToImage, prompt: str, match: str, length: int | None = None) -> Tensor:
    """(1, P), or (1, length D) of the first states, of the last text encoder."""
    encoder = list(net.family.tokenizers)[-1]
    ids = soft_prompt.padded(net, soft_prompt.tokens_of(net, prompt))[encoder][None]
    ids = ids[:, :length] if match == "states" else ids
    return feature(net, encoder, ids, soft_prompt.tables(net)[encoder][ids], match)


def coordinate_search(
    similarity: Callable[[Tensor], Tensor],
    table: Tensor,
    allowed: Tensor,
    clean: Callable[[Tensor], bool],
    length: int,
    steps: int,
    top: int,
    candidates: int,
    draws: Generator,
    decode: Callable[[list[int]], str],
) -> tuple[str, float]:
    """Greedy coordinate gradient for the largest similarity; table (V, D), allowed (W,) ids, `clean` refuses whole texts."""
    tokens = allowed[torch.randint(len(allowed), (length,), generator=draws)]
    while not clean(tokens):
        tokens = allowed[torch.randint(len(allowed), (length,), generator=draws)]
    with torch.no_grad():
        best = float(similarity(table[tokens][None])[0])
    for _ in range(steps):
        rows = table[tokens][None].requires_grad_()
        slope = torch.autograd.grad(similarity(rows).sum(), rows)[0][0]  # (k, D)
        proposed = (slope @ table[allowed].T).topk(min(top, len(allowed)), dim=1).indices  # (k, top)
        where = torch.arange(candidates) % length
        which = torch.randint(proposed.shape[1], (candidates,), generator=draws)
        tried = tokens.repeat(candidates, 1)
        tried[torch.arange(candidates), where] = allowed[proposed[where, which]]
        with torch.no_grad():
            reached = similarity(table[tried])
        for i in reached.argsort(descending=True).tolist():
            if reached[i] <= best:
                break
            if clean(tried[i]):
                best, tokens = float(reached[i]), tried[i]
                break
    return decode(tokens.tolist()).strip(), best
