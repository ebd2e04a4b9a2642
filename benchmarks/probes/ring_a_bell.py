"""Ring-A-Bell: a prompt of odd words whose text states lie where the concept is, found with the un-erased text encoder alone.
(Tsai et al. 2024, arXiv 2310.10012, equations 1 to 3; the population, rates and genetic operators of its published code.)

    v = mean over pairs of  E(prompt with the concept) - E(the same prompt with the anchor)
    g = E(p) + eta v,                                              p a prompt that does not name the concept
    w = argmin over words w_1 .. w_K  of  mean over p of || E(p w_1 .. w_K) - g ||^2

E: token ids -> states (S, D). The search is genetic: the better half of the population lives; each of it has two children with
probability `crossover`, by exchanging tails with another; every one but the best then gets a random word in a random place with
probability `mutation`.

Ours: the paper searches anew for each prompt, in 3000 generations, and its K words are the whole prompt. Here they follow what else was
asked, so that a detector can still tell whether that is there, and one search over a few prompts serves all questions of the concept.
Words are whole tokens that the tokenizer gives back unchanged, so what was found survives being written down and typed in. States past
the third end token follow from the others (the encoder looks back only) and are left out.

Costs generations x prompts x population runs of the text encoder: about half a minute for the emoji model, an hour for Stable Diffusion 1
on two cores. Kept, and resumed, in the target's cache.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgesafe import families, model
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from ..leakage import Cell, Question
from . import control, learned, wording
from .probe import Probe, Target, there

BATCH = 200  # prompts that the text encoder reads at once
KEEP_EVERY = 10  # generations


@dataclass(frozen=True)
class RingABell(Probe):
    strength: float = 3.0  # eta, of the concept vector
    length: int = 16  # K, words
    population: int = 200
    generations: int = 150
    mutation: float = 0.25  # share of the population
    crossover: float = 0.5  # share of the parents
    prompts: int = 3  # p, what else is asked, that the words are found for together
    own_words: bool = True  # the concept's own words may be among those found, as in the paper

    name: ClassVar[str] = "ring-a-bell"
    attacker: ClassVar[str] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({"control"})
    what: ClassVar[str] = "odd words, found with the un-erased text encoder alone, whose text states lie where the concept is"
    source_of_method: ClassVar[str] = "Tsai et al. 2024, Ring-A-Bell!, arXiv 2310.10012"

    def __post_init__(self) -> None:
        limits = {"strength": (0, 100), "length": (1, 75), "population": (4, 100_000), "generations": (1, 1_000_000), "prompts": (1, 1000)}
        for field, (low, high) in (limits | {"mutation": (0, 1), "crossover": (0, 1)}).items():
            if not low <= getattr(self, field) <= high:
                raise EdgeSafeError(f"ring-a-bell: {field} {getattr(self, field)} must be from {low} to {high}")

    def why_not(self, target: Target) -> str | None:
        return super().why_not(target) or control.why_not(target)

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        concept = wording.asked_for(cell)
        rests = [wording.rest(q.prompt, concept) for q in cell.questions]
        words = self.words(target, concept, self._searched(rests))
        return tuple(replace(q, prompt=f"{rest} {words}".strip(), plain=q.origin) for q, rest in zip(cell.questions, rests, strict=True))

    def found(self, target: Target, cell: Cell) -> str:
        concept = wording.asked_for(cell)
        return self.words(target, concept, self._searched(wording.rest(q.prompt, concept) for q in cell.questions))

    def _searched(self, rests: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(rests))[: self.prompts]

    def words(self, target: Target, concept: Concept, prompts: Sequence[str]) -> str:
        """The best words, from the cache if they are there. Raises: EdgeSafeError where there is no control, or no room for the words."""
        path = self._place(target, concept, prompts)
        state = learned.read(path) or {"generation": 0}
        if state["generation"] < self.generations:
            state = self._search(target, concept, prompts, path, state)
        return state["words"]

    def _search(self, target: Target, concept: Concept, prompts: Sequence[str], path: Path, state: dict[str, Any]) -> dict[str, Any]:
        reader = Reader(model.load(there(target.control).place), prompts, self.length)
        vocabulary = reader.vocabulary(() if self.own_words else concept.terms)
        distance = reader.distance(concept, self.strength)
        rng = np.random.default_rng(target.seed)
        people = np.array(state["population"]) if "population" in state else rng.choice(vocabulary, (self.population, self.length))
        for generation in range(state["generation"] + 1, self.generations + 1):
            rng = np.random.default_rng([target.seed, generation])
            far = distance(people)
            people, far = (column[np.argsort(far, kind="stable")] for column in (people, far))
            best, parents = people[0].tolist(), people[: max(2, self.population // 2)]
            people = mutated(crossed(parents, self.crossover, rng), vocabulary, self.mutation, rng)
            if generation % KEEP_EVERY == 0 or generation == self.generations:
                target.progress(f"generation {generation} of {self.generations}, squared distance {far[0]:.0f}")
                state = {"generation": generation, "words": reader.written(best), "distance": float(far[0]), "population": people.tolist()}
                learned.write(path, {"concept": concept.name, "prompts": list(prompts), "settings": self.settings(), **state})
        return state

    def _place(self, target: Target, concept: Concept, prompts: Sequence[str]) -> Path:
        control_id = there(target.control).sha256 or there(target.control).place
        facts = [control_id, concept.to_dict(), list(prompts), target.seed, self.settings()]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return target.cache / f"search-{digest}.json"


def crossed(parents: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(P, K) -> the parents, each followed by its two children, if it has any."""
    family = []
    for parent in parents:
        family.append(parent)
        if rng.random() < probability:
            other, cut = parents[rng.integers(len(parents))], rng.integers(parents.shape[1])
            family += [np.concatenate([parent[:cut], other[cut:]]), np.concatenate([other[:cut], parent[cut:]])]
    return np.stack(family)


def mutated(people: np.ndarray, vocabulary: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(P, K): a random word in one place, but never in the first, the best of its generation."""
    people, chosen = people.copy(), np.flatnonzero(rng.random(len(people)) < probability)
    chosen = chosen[chosen > 0]
    people[chosen, rng.integers(people.shape[1], size=len(chosen))] = rng.choice(vocabulary, len(chosen))
    return people


class Reader:
    """The un-erased text encoders as functions of token ids; `prompts` stand before the words that are searched."""

    def __init__(self, net: TextToImage, prompts: Sequence[str], length: int) -> None:
        self.net, self.tokenizer = net, net.tokenizer
        self.prompts = [self._ids(prompt) for prompt in prompts]
        self.positions = 1 + max(map(len, self.prompts)) + length + 3  # start, prompt, words, end and what follows it
        if self.positions - 2 > self.tokenizer.model_max_length:
            room = self.tokenizer.model_max_length - 2 - max(map(len, self.prompts))
            raise EdgeSafeError(f"ring-a-bell: {length} words do not fit behind the prompts; the text encoder leaves room for {room}")
        self.positions = min(self.positions, self.tokenizer.model_max_length)

    def vocabulary(self, banned: Sequence[str]) -> np.ndarray:
        """(V,) ids of the tokens that are whole words, or signs, and come back as themselves when they are typed in."""
        avoid = {word for term in banned for word in term.split()}
        special, ids = set(self.tokenizer.all_special_ids), []
        for i in range(len(self.tokenizer)):
            word = self.written([i])
            if i not in special and word and word not in avoid and self._ids(word) == [i]:
                ids.append(i)
        if not ids:
            raise EdgeSafeError("ring-a-bell: no token of this tokenizer is a word of its own, so no prompt can be written from tokens")
        return np.array(ids)

    def written(self, ids: Sequence[int]) -> str:
        tokens = self.tokenizer.convert_ids_to_tokens([int(i) for i in ids])
        return " ".join(self.tokenizer.convert_tokens_to_string([token]).strip() for token in tokens)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Token ids without start and end -> (N, positions, D), side by side where there are two text encoders."""
        columns = []
        for name, tokenizer in self.net.tokenizers().items():
            ids = torch.full((len(rows), self.positions), tokenizer.pad_token_id)
            for i, row in enumerate(rows):
                filled = torch.tensor([tokenizer.bos_token_id, *row, tokenizer.eos_token_id])[: self.positions]
                ids[i, : len(filled)] = filled
            encoder = getattr(self.net, name)
            columns.append(torch.cat([families.encode(self.net.family, encoder, part)[0] for part in ids.split(BATCH)]))
        return torch.cat(columns, -1)

    def vector(self, concept: Concept) -> Tensor:
        """v (positions, D)"""
        with_it, without = (self.states([self._ids(pair[side]) for pair in concept.pairs]) for side in (0, 1))
        return (with_it - without).mean(0)

    def distance(self, concept: Concept, strength: float) -> Callable[[np.ndarray], np.ndarray]:
        """Ids (P, K) -> (P,): the mean over the prompts of the squared distance to g; survivors are not computed again."""
        goals = self.states(self.prompts) + strength * self.vector(concept)
        known: dict[tuple[int, ...], float] = {}

        def far(people: np.ndarray) -> np.ndarray:
            rows = [tuple(row) for row in people.tolist()]
            if new := [row for row in dict.fromkeys(rows) if row not in known]:
                found = torch.zeros(len(new))
                for prompt, goal in zip(self.prompts, goals, strict=True):
                    found += (self.states([[*prompt, *row] for row in new]) - goal).square().sum((1, 2))
                known.update(zip(new, (found / len(self.prompts)).tolist(), strict=True))
            for row in known.keys() - set(rows):
                del known[row]  # did not live
            return np.array([known[row] for row in rows])

        return far

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
