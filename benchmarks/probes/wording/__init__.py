"""How else a concept can be asked for: other words for it (concepts.toml) and its own name in other company (templates.toml).

A phrase with {rest} is a whole prompt; any other takes the concept's place in the prompt that it is asked by.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from edgesafe.concepts import KINDS, Concept, fold, pattern
from edgesafe.errors import EdgeSafeError

from ...leakage import Cell, Question

REST = "{rest}"
HEARD, OTHER = "heard", "other"


def asked_for(cell: Cell) -> Concept:
    if cell.concept is None:
        raise ValueError(f"a cell of role {cell.role!r} asks for no concept")
    return cell.concept


def rest(prompt: str, concept: Concept) -> str:
    """What a prompt asks for beside the concept: "neon picture of a shark" -> "shark", "dagger mosaic style" -> "mosaic style"."""
    return re.sub(r"^(an? |the )?(picture of )?(an? |the )?", "", replace(concept, anchor="", swaps=()).retarget(prompt))


def named(prompt: str, concept: Concept) -> str:
    """The words of the prompt that name the concept, as they stand there. Raises: EdgeSafeError where none do."""
    for term in sorted(concept.terms, key=len, reverse=True):
        if found := re.search(pattern(term), fold(prompt)):
            return prompt[slice(*found.span())]
    known = ", ".join(map(repr, concept.terms))
    raise EdgeSafeError(f"the prompt {prompt!r} does not name {concept.name!r}, so it cannot be reworded; names known: {known}")


def of_emoji_world(question: Question) -> bool:
    """Whether its model learned to read from the emoji world's captions alone."""
    return question.subject != ""


def put(phrase: str, prompt: str, concept: Concept, **others: str) -> str:
    """The prompt in other words; `others` fill {look} and {other}."""
    words = named(prompt, concept)
    if REST not in phrase:
        article = "an" if phrase[0] in "aeiou" else "a"
        return re.sub(rf"(?:\b(an?)\s+)?(?<!\w){re.escape(words)}(?!\w)", lambda m: f"{article} {phrase}" if m[1] else phrase, prompt)
    text = phrase.format(rest=rest(prompt, concept), c=concept.name, **others)
    return " ".join(text.replace(" ,", ",").split()).strip(" ,")


def templates(group: str, kind: str, emoji: bool) -> tuple[str, ...]:
    """Of the "reordered" or the "composed" ones; emoji: only those that the emoji model follows."""
    return _chosen(_packaged("templates.toml")[group][kind], emoji)


def words(concept: Concept, emoji: bool) -> tuple[str, ...]:
    """By its name, else by any other of its terms."""
    table = _packaged("concepts.toml")[concept.kind]
    return _chosen(next((table[term] for term in (concept.name, *concept.terms) if term in table), {}), emoji)


def companions() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Subjects and styles that any model that reads English knows."""
    row = _packaged("templates.toml")["companions"]
    return tuple(row["subjects"]), tuple(row["styles"])


def read(path: str | Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """A user's own wordings, kind -> concept -> phrases, as in:

        [style]
        "van gogh" = ["the painter of the Sunflowers", "{rest} with swirling brush strokes, Arles 1888"]

    Raises: EdgeSafeError, naming what is wrong.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdgeSafeError(f"{path}: no such file of wordings") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeSafeError(f"{path}: not valid TOML ({error})") from error
    for kind, concepts in found.items():
        if kind not in KINDS or not isinstance(concepts, dict):
            raise EdgeSafeError(f"{path}: unknown table [{kind}]; known: {', '.join(KINDS)}")
        for name, phrases in concepts.items():
            if not isinstance(phrases, list) or not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
                raise EdgeSafeError(f"{path}: [{kind}] {name!r} is {phrases!r}; it needs a list of phrases")
            for phrase in phrases:
                _check(phrase, f"{path}: [{kind}] {name!r}")
    return {kind: {name.lower(): tuple(phrases) for name, phrases in rows.items()} for kind, rows in found.items()}


def _check(phrase: str, place: str) -> None:
    try:
        fields = {name for _, name, _, _ in Formatter().parse(phrase) if name is not None}
    except ValueError as error:
        raise EdgeSafeError(f"{place}: {phrase!r} has braces that do not match ({error})") from error
    if fields - {"rest"}:
        raise EdgeSafeError(f"{place}: {phrase!r} holds {{{sorted(fields - {'rest'})[0]}}}; only {REST} is filled in")


def _chosen(row: Mapping[str, Sequence[str]], emoji: bool) -> tuple[str, ...]:
    return (*row.get(HEARD, ()), *(() if emoji else row.get(OTHER, ())))


@cache
def _packaged(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))
