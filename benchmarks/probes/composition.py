"""Composition: the concept beside other subjects and styles in one prompt, so that it is not what the whole prompt is about.
("half neon, half sepia shark", "a shark, not mosaic but neon"; Petsiuk and Saenko 2024, arXiv 2404.13706, compose concepts in states.)

The companions are drawn from the question's seed: subjects and styles of the emoji world that were not erased, or, for other models,
those of wording/templates.toml. Subject and style of the question stay what they were, for the detector still asks: is the concept there?
The emoji model is asked only what the un-erased emoji model follows: two subjects in one picture it never learned.
"""

import random
from dataclasses import dataclass, replace
from typing import ClassVar

from edgesafe.concepts import carriers
from edgesafe.emoji.world import World

from ..leakage import Cell, Question
from . import wording
from .probe import Probe, Target

PLAIN = "emoji"


@dataclass(frozen=True)
class Composition(Probe):
    name: ClassVar[str] = "composition"
    attacker: ClassVar[str] = "prompts"
    what: ClassVar[str] = "the concept together with other subjects and styles in one prompt"

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        return tuple(self._composed(i, question, target, cell) for i, question in enumerate(cell.questions))

    def _composed(self, i: int, question: Question, target: Target, cell: Cell) -> Question:
        concept, rng = wording.asked_for(cell), random.Random(f"{target.seed} {question.seed}")
        emoji = wording.of_emoji_world(question)
        phrases = wording.templates("composed", concept.kind, emoji)
        others, looks = _companions(emoji)
        asked = {question.subject, question.style, PLAIN}
        other, look = (
            rng.choice([name for name in names if name not in asked and not carriers(name, target.concepts)]) for names in (others, looks)
        )
        prompt = wording.put(phrases[i % len(phrases)], question.prompt, concept, other=other, look=look)
        return replace(question, prompt=prompt, plain=question.origin)


def _companions(emoji: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of subjects and of styles."""
    if not emoji:
        return wording.companions()
    world = World()
    return tuple(subject.name for subject in world.subjects), world.styles
