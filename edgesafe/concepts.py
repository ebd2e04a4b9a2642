"""What to erase: a concept is a row of data, never a class. Captions are compared in lower case, by whole words.

`parse("beer, wine", World())` resolves names against the emoji world; without a world, `parse("style:van gogh, gun", None)` takes
the words as they are ("style:" or "object:" says the kind; object by default).
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from transformers import CLIPTokenizer

from .errors import EdgeSafeError

if TYPE_CHECKING:
    from .emoji.world import World

KINDS = ("style", "object")
STYLE_TEMPLATES = (
    "{c}", "a painting by {c}", "a picture in the style of {c}", "art by {c}", "a landscape in the style of {c}", "a portrait by {c}",
)  # fmt: skip
OBJECT_TEMPLATES = ("{c}", "a {c}", "a picture of a {c}", "a photo of a {c}", "a painting of a {c}", "an image with a {c}")
WORLD_TEMPLATES = {
    "style": ("{s} {c} style", "a {s} in the style of {c}", "{c} picture of a {s}"),
    "object": ("{c}", "{c} {s} style", "a {c} in the style of {s}", "{s} picture of a {c}"),
}
PLAIN_STYLE = "emoji"  # the world's picture without a style: the anchor of its styles


@dataclass(frozen=True)
class Concept:
    name: str
    kind: str  # "style" | "object"
    terms: tuple[str, ...]  # lower-case words or phrases; a caption that holds one carries the concept
    anchor: str  # what takes its place in a caption; "" drops the words
    pairs: tuple[tuple[str, str], ...]  # (prompt with the concept, the same prompt with the anchor)

    def carried_by(self, caption: str) -> bool:
        return any(re.search(_words(term), caption.lower()) for term in self.terms)

    def retarget(self, caption: str) -> str:
        """The caption with the anchor in the concept's place: "an egg in the style of neon" -> "a cat in the style of neon"."""
        text = caption.lower()
        for term in sorted(self.terms, key=len, reverse=True):
            if self.anchor:
                text = re.sub(rf"(?:\b(an?)\s+)?{_words(term)}", self._with_article, text)
            else:
                lead = r"(?:\b(?:in the style of|by|of|with)\s+)?(?:\b(?:an?|the)\s+)?"
                text = re.sub(lead + _words(term) + r"(?:\s+style\b)?", " ", text)
        return " ".join(text.split())

    def _with_article(self, match: re.Match) -> str:
        article = ("an " if self.anchor[0] in "aeiou" else "a ") if match.group(1) else ""
        return article + self.anchor

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Concept":
        pairs = tuple((str(a), str(b)) for a, b in row["pairs"])
        return cls(row["name"], row["kind"], tuple(row["terms"]), row["anchor"], pairs)


def parse(text: str, world: "World | None", anchor: str | None = None) -> tuple[Concept, ...]:
    """One concept for each comma-separated item; "" and "none" give no concept.

    Raises: EdgeSafeError for a name that the world does not have or that several subjects share.
    """
    items = list(dict.fromkeys(item for part in text.split(",") if (item := " ".join(part.lower().split()))))
    if items in ([], ["none"]):
        return ()
    return tuple(_in_world(item, world, anchor) if world else _free(item, anchor) for item in items)


def carriers(caption: str, concepts: Iterable[Concept]) -> list[Concept]:
    return [c for c in concepts if c.carried_by(caption)]


def retarget(caption: str, concepts: Iterable[Concept]) -> str:
    """The caption with every carried concept replaced by its anchor."""
    for concept in concepts:
        if concept.carried_by(caption):
            caption = concept.retarget(caption)
    return caption


def check_visible(concepts: Iterable[Concept], tokenizer: CLIPTokenizer) -> None:
    """Raises: EdgeSafeError for a concept that the tokenizer turns into nothing, or into unknown tokens only."""
    for concept in concepts:
        ids = tokenizer(concept.name, add_special_tokens=False).input_ids
        if all(i == tokenizer.unk_token_id for i in ids):
            raise EdgeSafeError(f"--erase {concept.name!r}: this model's tokenizer knows no part of it. Name the concept in other words")


def _words(term: str) -> str:
    """A pattern for the whole words of `term`, a plural s allowed."""
    return r"(?<!\w)" + r"\s+".join(re.escape(w) for w in term.split()) + r"s?(?!\w)"


def _free(item: str, anchor: str | None) -> Concept:
    kind, colon, name = item.rpartition(":")
    if colon and kind not in KINDS:
        raise EdgeSafeError(f"--erase {item!r}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if not name.strip():
        raise EdgeSafeError(f"--erase {item!r}: no name after the colon")
    name, kind = name.strip(), kind or "object"
    templates = STYLE_TEMPLATES if kind == "style" else OBJECT_TEMPLATES
    return _with_pairs(name, kind, (name,), anchor or "", [t.format(c=name) for t in templates])


def _in_world(item: str, world: "World", anchor: str | None) -> Concept:
    name = item.rpartition(":")[2].strip()
    templates, subjects = WORLD_TEMPLATES, world.subjects
    if name in world.styles:
        chosen = anchor if anchor is not None else PLAIN_STYLE
        if chosen == name:
            raise EdgeSafeError(f"--anchor {chosen!r} is the concept itself; name another style")
        prompts = [t.format(c=name, s=s.name) for s in subjects for t in templates["style"]]
        return _with_pairs(name, "style", (name,), chosen, prompts)
    named = [s for s in subjects if name == s.name]
    named = named or [s for s in subjects if name in (*s.synonyms, *s.heldout_synonyms)]
    named = named or [s for s in subjects if name in s.name.split()]
    if len(named) > 1:
        raise EdgeSafeError(f"--erase {name!r} fits {' and '.join(repr(s.name) for s in named)}: name one of them, or both with a comma")
    if not named:
        known = [s.name for s in subjects]
        near = difflib.get_close_matches(name, known, 3) or [s for s in known if s[0] == name[0]][:3]
        hint = f" Subjects like it: {', '.join(near)}." if near else ""
        raise EdgeSafeError(f"--erase {name!r}: the emoji world has no such style or subject. Styles: {', '.join(world.styles)}.{hint}")
    subject = named[0]
    terms = tuple(dict.fromkeys((subject.name, *subject.synonyms, *subject.heldout_synonyms, name)))
    prompts = [t.format(c=subject.name, s=style) for style in world.styles for t in templates["object"]]
    return _with_pairs(subject.name, "object", terms, anchor or "", list(dict.fromkeys(prompts)))


def _with_pairs(name: str, kind: str, terms: tuple[str, ...], anchor: str, prompts: list[str]) -> Concept:
    concept = Concept(name, kind, terms, " ".join(anchor.lower().split()), ())
    return Concept(name, kind, terms, concept.anchor, tuple((p, concept.retarget(p)) for p in prompts))
