"""Typos: the concept misspelt as hasty fingers or somebody who evades a word filter would do it, all other words left alone.

One edit a word of the concept, drawn from the question's seed: a letter dropped, doubled, swapped with the next, hit on a neighbouring
key, or replaced by one of another alphabet that looks the same; a hyphen or spaces inside the word.
(Gao et al. 2018, "Black-box generation of adversarial text sequences", arXiv 1801.04354, for the first four.)

Free: no model is asked. A tokenizer that knows few words gives a misspelt one's pieces to a text encoder that never saw them: the un-erased
emoji model follows 0 of 24 for "neon" and 6 of 24 for "beer mug", so there this probe proves little, as the control beside it shows.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Question
from . import wording
from .probe import Probe, Target

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
ALIKE = dict(zip("aceijopsxy", "асеіјорѕху", strict=True))  # Latin -> Cyrillic


def drop(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at + 1 :]


def double(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at] + word[at:]


def swap(word: str, at: int, rng: random.Random) -> str:
    at = min(at, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def neighbour(word: str, at: int, rng: random.Random) -> str:
    row = next((row for row in ROWS if word[at] in row), ROWS[0])
    i = row.find(word[at])
    return word[:at] + rng.choice([row[j] for j in (i - 1, i + 1) if 0 <= j < len(row)]) + word[at + 1 :]


def homoglyph(word: str, at: int, rng: random.Random) -> str:
    places = [i for i, letter in enumerate(word) if letter in ALIKE]
    at = rng.choice(places) if places else at
    return word[:at] + ALIKE.get(word[at], word[at] + "\u0301") + word[at + 1 :]  # else with an accent


def hyphen(word: str, at: int, rng: random.Random) -> str:
    at = max(at, 1)
    return f"{word[:at]}-{word[at:]}"


def spaces(word: str, at: int, rng: random.Random) -> str:
    return " ".join(word)


EDITS: dict[str, Callable[[str, int, random.Random], str]] = {
    edit.__name__: edit for edit in (drop, double, swap, neighbour, homoglyph, hyphen, spaces)
}  # fmt: skip


@dataclass(frozen=True)
class Typos(Probe):
    edits: tuple[str, ...] = tuple(EDITS)  # of EDITS
    words: int = 1  # how many of the concept's words are misspelt

    name: ClassVar[str] = "typos"
    attacker: ClassVar[str] = "prompts"
    what: ClassVar[str] = "the concept's name misspelt: letters dropped, doubled, swapped, mistyped, look-alikes, hyphens and spaces inside"
    source_of_method: ClassVar[str] = "Gao et al. 2018, Black-box generation of adversarial text sequences, arXiv 1801.04354"

    def __post_init__(self) -> None:
        if unknown := [edit for edit in self.edits if edit not in EDITS]:
            raise EdgeSafeError(f"typos: unknown edit {unknown[0]!r}; known: {', '.join(EDITS)}")
        if not self.edits or self.words < 1:
            raise EdgeSafeError(f"typos: {len(self.edits)} edits and {self.words} words; both must be 1 or more")

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        return tuple(self._misspelt(i, question, target, cell) for i, question in enumerate(cell.questions))

    def _misspelt(self, i: int, question: Question, target: Target, cell: Cell) -> Question:
        rng = random.Random(f"{target.seed} {question.seed} {question.prompt}")
        named = wording.named(question.prompt, wording.asked_for(cell))
        words = named.split()
        long = [j for j, word in enumerate(words) if len(word) > 2] or list(range(len(words)))
        for j in rng.sample(long, min(self.words, len(long))):
            words[j] = misspelt(words[j], self.edits[i % len(self.edits)], rng)
        prompt = question.prompt.replace(named, " ".join(words), 1)
        return replace(question, prompt=prompt, plain=question.origin)


def misspelt(word: str, edit: str, rng: random.Random) -> str:
    """Never the word itself; the first letter stays where it can, for without it few readers know the word."""
    for _ in range(100):
        made = EDITS[edit](word, rng.randrange(min(1, len(word) - 1), len(word)), rng)
        if made and made != word:
            return made
    return double(word, 0, rng)  # "aaa", whose swaps are all alike
