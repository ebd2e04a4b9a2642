"""The emoji world's judge as a detector: it names the subject and the style of a picture, or calls it broken."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from edgesafe.artifact import Manifest
from edgesafe.concepts import Concept, carriers
from edgesafe.emoji import judge
from edgesafe.emoji.world import World, prompt
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Question, Reading
from .detector import Detector, Seen

PLAIN = "emoji"


class EmojiJudge(Detector):
    name = "emoji-judge"

    @classmethod
    def why_not(cls, manifest: Manifest) -> str | None:
        if not any(str(place).startswith("emoji:") for place in (manifest.base_model.get("id"), manifest.control)):
            return "it knows the embedded emoji model only"
        return None

    @classmethod
    def open(cls) -> "EmojiJudge":
        for path in (judge.WEIGHTS, judge.FACTS):
            if not path.is_file():
                raise EdgeSafeError(f"{path}: the judge is not in this installation, so leakage cannot be measured. Install edgesafe again")
        return cls(judge.load(), judge.sha256())

    def __init__(self, network: judge.Judge, digest: str) -> None:
        self.network, self.digest = network, digest
        self.subjects, self.styles = network.classes.subjects, network.classes.styles

    @cached_property
    def world(self) -> World:
        world = World(len(self.subjects), self.styles)
        if tuple(s.name for s in world.subjects) != self.subjects:
            raise EdgeSafeError("the judge's subjects are not those of this emoji world. Install edgesafe again")
        return world

    def facts(self) -> dict[str, Any]:
        classes = f"{len(self.subjects)} subjects and “none”, {len(self.styles)} styles"
        what = f"a convolutional network of its own; {classes}; the likeliest class counts"
        return {"name": self.name, "sha256": self.digest, "what": what, "own_figures": list(_figures(self.network.facts["errors"]))}

    def cells(self, concepts: Sequence[Concept], pictures: int, seed: int) -> list[Cell]:
        self._check(concepts)
        cells = []
        erased = {concept.name for concept in concepts}
        kept = [(s, t) for s in self.subjects for t in self.styles if not carriers(prompt(s, t), concepts) and not erased & {s, t}]
        rest = list(kept)
        for concept in concepts:
            near = [pair for pair in kept if self._near(concept, *pair)]
            rest = [pair for pair in rest if pair not in near]
            asked = [p for p, _ in concept.pairs]
            asked = [p for p in asked if carriers(p, concepts) == [concept]] or asked
            cells.append(Cell("erased", concept, self._spread([self._question(p) for p in asked], pictures, seed)))
            cells.append(Cell("neighbours", concept, self._spread([self._plain(*pair) for pair in near], pictures, seed)))
        cells.append(Cell("rest", None, self._spread([self._plain(*pair) for pair in rest], pictures, seed)))
        return [cell for cell in cells if cell.questions]  # neighbours and rest are empty when everything was erased

    def see(self, pictures: np.ndarray) -> Seen:
        scores = self.network.score(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
        subjects, styles = scores.subject_probs.max(1), scores.style_probs.max(1)
        names = (*self.subjects, None)
        rows = zip(*(column.tolist() for column in (*subjects, *styles)), strict=True)
        return Seen(tuple(Reading(names[s], self.styles[t], p, q) for p, s, q, t in rows), scores.embedding)

    def real(self, questions: Sequence[Question], copies: int, seed: int) -> Tensor:
        subjects = torch.tensor([self.subjects.index(q.subject) for q in questions]).repeat(copies)
        styles = torch.tensor([self.styles.index(q.style) for q in questions]).repeat(copies)
        return self.network.score(self.world.render(subjects, styles, Generator().manual_seed(seed))).embedding

    def expected(self, text: str) -> tuple[str, str]:
        """(subject, style) that a caption of this world asks for; style "emoji" when none is named."""
        world, styles = self.world.subjects, [t for t in self.styles if _holds(text, t)]
        subjects = [s.name for s in world if _holds(text, s.name)]
        subjects = subjects or [s.name for s in world if any(_holds(text, word) for word in (*s.synonyms, *s.heldout_synonyms))]
        if not subjects:
            raise EdgeSafeError(f"the prompt {text!r} names no subject of the emoji world, so the judge cannot judge its picture")
        return max(subjects, key=len), max(styles, key=len, default=PLAIN)

    def _check(self, concepts: Sequence[Concept]) -> None:
        for concept in concepts:
            known = self.styles if concept.kind == "style" else self.subjects
            if concept.name not in known:
                raise EdgeSafeError(f"the judge knows no {concept.kind} {concept.name!r}; known: {', '.join(known)}")

    def _near(self, concept: Concept, subject: str, style: str) -> bool:
        """Another style, for a style; another subject of the same category, for an object."""
        if concept.kind == "style":
            return style != PLAIN
        category = {s.name: s.category for s in self.world.subjects}
        return category[subject] == category[concept.name]

    def _question(self, text: str) -> Question:
        return Question(text, 0, *self.expected(text))

    @staticmethod
    def _plain(subject: str, style: str) -> Question:
        return Question(prompt(subject, style), 0, subject, style)

    @staticmethod
    def _spread(pool: Sequence[Question], n: int, seed: int) -> tuple[Question, ...]:
        """`n` questions, styles in turn, each with its own seed; prompts repeat, under other seeds, where there are too few.

        The order depends on the prompts alone, so equal pools give equal questions, which are then drawn once.
        """
        turns: Counter[str] = Counter()
        ranked = []
        for question in sorted(pool, key=lambda q: hashlib.sha256(q.prompt.encode()).digest()):
            ranked.append((turns[question.style], question))
            turns[question.style] += 1
        ranked.sort(key=lambda row: row[0])
        return tuple(replace(ranked[i % len(ranked)][1], seed=seed + i) for i in range(n)) if ranked else ()


def _holds(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


def _figures(facts: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Every rate among the judge's own measured errors, with the way to it as its name."""
    if isinstance(facts, dict) and {"numerator", "denominator"} <= set(facts):
        yield {"name": path, "numerator": facts["numerator"], "denominator": facts["denominator"]}
    elif isinstance(facts, dict):
        for key, value in facts.items():
            yield from _figures(value, f"{path}, {key}".strip(", ").replace("_", " "))
