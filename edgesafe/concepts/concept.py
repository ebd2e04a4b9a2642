"""A concept is a row of data: the words that carry it, what takes their place, and pairs of prompts with and without it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import EdgeSafeError
from .words import fold, pattern, tidy, with_article, without_article

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

KINDS = ("style", "object")
LISTED = 8  # terms that a line about a concept names


@dataclass(frozen=True)
class Concept:
    name: str
    kind: str  # "style" | "object"
    terms: tuple[str, ...]  # lower-case words or phrases; a caption that holds one carries the concept
    anchor: str  # what takes its place in a caption; "" drops the words
    pairs: tuple[tuple[str, str], ...]  # (prompt with the concept, the same prompt with the anchor)
    swaps: tuple[tuple[str, str], ...] = ()  # (term, what takes its place): terms for which the anchor does not do

    def carried_by(self, caption: str) -> bool:
        text = fold(caption)
        return any(re.search(pattern(term), text) for term in self.terms)

    def retarget(self, caption: str) -> str:
        """The caption with the anchor in the concept's place: "an egg in the style of neon" -> "a cat in the style of neon"."""
        text, own = fold(caption), dict(self.swaps)
        for term in sorted(self.terms, key=len, reverse=True):
            if place := own.get(term, self.anchor):
                text = re.sub(rf"(?:\b(an?|the)\s+)?{pattern(term)}", lambda found, place=place: _put(place, found[1]), text)
            else:
                lead = r"(?:\b(?:in the style of|by|of|with)\s+)?(?:\b(?:an?|the)\s+)?"
                text, taken = re.subn(rf"{lead}{pattern(term)}(?:['’]s\b)?(?:\s+style\b)?", " ", text)
                text = tidy(text) if taken else text
        return " ".join(text.split())

    def with_anchor(self, anchor: str) -> "Concept":
        """The same words with this anchor for all of them; the pairs are made anew."""
        other = replace(self, anchor=" ".join(anchor.lower().split()), swaps=())
        return replace(other, pairs=tuple((prompt, other.retarget(prompt)) for prompt, _ in self.pairs))

    def __str__(self) -> str:
        """A line for a person."""
        anchor = f"anchor “{self.anchor}”" if self.anchor else "no anchor: its words are left out"
        more = f" and {len(self.terms) - LISTED} more" if len(self.terms) > LISTED else ""
        return f"{self.kind} {self.name}: {len(self.pairs)} prompts, {anchor}, terms: {', '.join(self.terms[:LISTED])}{more}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Concept":
        pairs, swaps = (tuple((str(a), str(b)) for a, b in row.get(key, ())) for key in ("pairs", "swaps"))
        return cls(row["name"], row["kind"], tuple(row["terms"]), row["anchor"], pairs, swaps)


def with_prompts(
    name: str, kind: str, terms: Sequence[str], anchor: str, prompts: Iterable[str], swaps: Sequence[tuple[str, str]] = ()
) -> Concept:
    """The concept with these prompts as its pairs, each beside what `retarget` makes of it."""
    concept = Concept(name, kind, tuple(dict.fromkeys(terms)), " ".join(anchor.lower().split()), (), tuple(swaps))
    return replace(concept, pairs=tuple((prompt, concept.retarget(prompt)) for prompt in dict.fromkeys(prompts)))


def carriers(caption: str, concepts: Iterable[Concept]) -> list[Concept]:
    return [c for c in concepts if c.carried_by(caption)]


def retarget(caption: str, concepts: Iterable[Concept]) -> str:
    """The caption with every carried concept replaced by its anchor."""
    for concept in concepts:
        if concept.carried_by(caption):
            caption = concept.retarget(caption)
    return caption


def together(concepts: Sequence[Concept], earlier: Sequence[Concept] = ()) -> tuple[Concept, ...]:
    """Each concept once, no pair's second prompt carrying any of them or of the `earlier` ones.

    Raises: EdgeSafeError where what should take a concept's place is one of them itself.
    """
    own = tuple({(c.kind, c.name): c for c in concepts}.values())
    absent = (*own, *earlier)
    for concept in own:
        for place in (concept.anchor, *(text for _, text in concept.swaps)):
            if found := carriers(place, absent):
                raise EdgeSafeError(
                    f"{place!r}, which is to take the place of {concept.name!r}, is {found[0].name!r}, which is erased too. "
                    "Name something else: --anchor"
                )
    return tuple(replace(c, pairs=tuple((prompt, retarget(without, absent)) for prompt, without in c.pairs)) for c in own)


def check_visible(concepts: Iterable[Concept], tokenizer: "CLIPTokenizer") -> None:
    """Raises: EdgeSafeError for a concept that the tokenizer turns into nothing, or into unknown tokens only."""
    for concept in concepts:
        ids = tokenizer(concept.name, add_special_tokens=False).input_ids
        if all(i == tokenizer.unk_token_id for i in ids):
            raise EdgeSafeError(f"--erase {concept.name!r}: this model's tokenizer knows no part of it. Name the concept in other words")


def _put(place: str, article: str | None) -> str:
    """In place of a term: with the article that stood before the term, if one did."""
    if article is None:
        return place
    bare = without_article(place)
    return f"the {bare}" if article == "the" else with_article(bare)
