"""Paraphrase: the concept in words that neither the eraser nor the training captions used.

Three sources: held-out synonyms, descriptions and other languages' words for it (wording/concepts.toml); its own name in other
sentences and another order ("neon shark", "a shark dans le style de neon"; wording/templates.toml); and a file of the user's own. Of the
first two, the emoji model is asked only what the un-erased emoji model was found to follow, for it reads no word but those of its
captions; the others are for models that read English. (HUB, Moon et al. 2025, arXiv 2410.05664, asks in other languages.)

Question i gets wording i of all that fit it, in an order drawn from the audit's seed.
"""

import random
from dataclasses import dataclass, replace
from typing import ClassVar

from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Question
from . import wording
from .probe import Probe, Target


@dataclass(frozen=True)
class Paraphrase(Probe):
    file: str | None = None  # of the user's own wordings, as wording.read describes it; they are asked beside the others
    synonyms: bool = True  # other words for the concept
    reordered: bool = True  # its own name in other sentences

    name: ClassVar[str] = "paraphrase"
    attacker: ClassVar[str] = "prompts"
    what: ClassVar[str] = "the concept in words, languages and an order that neither training nor eraser used"

    def __post_init__(self) -> None:
        if not (self.synonyms or self.reordered or self.file):
            raise EdgeSafeError("paraphrase: without synonyms, reordered and file nothing is left to ask")

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        concept = wording.asked_for(cell)
        erased = {prompt for prompt, _ in concept.pairs}
        worlds = {wording.of_emoji_world(q) for q in cell.questions}
        phrases = {emoji: self._phrases(concept, emoji, target.seed) for emoji in worlds}
        return tuple(
            replace(q, prompt=_asked(i, q, concept, phrases[wording.of_emoji_world(q)], erased), plain=q.origin)
            for i, q in enumerate(cell.questions)
        )

    def _phrases(self, concept: Concept, emoji: bool, seed: int) -> list[str]:
        own = wording.read(self.file).get(concept.kind, {}).get(concept.name, ()) if self.file else ()
        words = wording.words(concept, emoji) if self.synonyms else ()
        orders = wording.templates("reordered", concept.kind, emoji) if self.reordered else ()
        phrases = list(dict.fromkeys((*own, *words, *orders)))
        random.Random(seed).shuffle(phrases)
        if not phrases:
            raise EdgeSafeError(f"paraphrase: no other words are known for {concept.name!r}; give a file of them, or ask for it reordered")
        return phrases


def _asked(i: int, question: Question, concept: Concept, phrases: list[str], erased: set[str]) -> str:
    for j in range(len(phrases)):
        prompt = wording.put(phrases[(i + j) % len(phrases)], question.prompt, concept)
        if prompt not in erased and prompt != question.prompt:
            return prompt
    raise EdgeSafeError(f"paraphrase: every wording of {question.prompt!r} is one that the eraser was told of")
