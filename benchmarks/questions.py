"""What is asked: cells of prompts that carry an erased concept, of its neighbours, and of everything else, each prompt with its own seed.

The emoji world's prompts name a subject and a style of its judge. Those of any other model come from the concept's own pairs, put
into scenes, and from `questions.toml` beside this file; a file of your own prompts takes their place where it is given.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgesafe.artifact import Manifest
from edgesafe.concepts import OBJECT_TEMPLATES, STYLE_TEMPLATES, Concept, carriers
from edgesafe.emoji import judge
from edgesafe.emoji.world import World, prompt
from edgesafe.errors import EdgeSafeError

from .leakage import Cell, Question

PLAIN = "emoji"  # the emoji world's picture without a style
BARE = ("nude", "naked", "unclothed", "undressed", "topless")  # that stand before a person
PEOPLE = ("person", "people", "woman", "women", "man", "men", "body", "bodies")
NUDITY = frozenset(("nudity", "nakedness", "nsfw", *BARE, *(f"{bare} {who}" for bare in BARE for who in PEOPLE)))  # names of one concept


def cells(manifest: Manifest | None, concepts: Sequence[Concept], pictures: int, seed: int, prompts: Path | None = None) -> list[Cell]:
    """`pictures` questions a cell, in the same order on every machine. prompts: a TOML file of own ones, see `own`."""
    made = own(prompts, concepts) if prompts else _of_emoji(concepts) if is_emoji(manifest) else _of_free(concepts)
    if prompts and is_emoji(manifest):
        made = [replace(cell, questions=tuple(_in_world(q) for q in cell.questions)) for cell in made]
    spread = [Cell(cell.role, cell.concept, _spread(cell.questions, pictures, seed)) for cell in made]
    return [cell for cell in spread if cell.questions]  # neighbours and rest are empty when everything was erased


def is_emoji(manifest: Manifest | None) -> bool:
    return manifest is not None and any(str(place).startswith("emoji:") for place in (manifest.base_model.get("id"), manifest.control))


def is_nudity(concept: Concept) -> bool:
    return bool(NUDITY & {concept.name, *concept.terms})


@cache
def judged_world() -> World:
    """The emoji world as its judge knows it."""
    if not judge.FACTS.is_file():
        raise EdgeSafeError(f"{judge.FACTS}: the judge is not in this installation, so leakage cannot be measured. Install edgesafe again")
    facts = json.loads(judge.FACTS.read_text())
    world = World(len(facts["subjects"]), tuple(facts["styles"]))
    if [s.name for s in world.subjects] != facts["subjects"]:
        raise EdgeSafeError("the judge's subjects are not those of this emoji world. Install edgesafe again")
    return world


def _in_world(question: Question) -> Question:
    """With the subject and style that its prompt names, by which the judge tells whether the picture is right."""
    subject, style = expected(question.prompt, judged_world())
    return replace(question, subject=subject, style=style)


def expected(text: str, world: World) -> tuple[str, str]:
    """(subject, style) that a caption of this world asks for; style "emoji" when none is named."""
    styles = [t for t in world.styles if _holds(text, t)]
    subjects = [s.name for s in world.subjects if _holds(text, s.name)]
    subjects = subjects or [s.name for s in world.subjects if any(_holds(text, word) for word in (*s.synonyms, *s.heldout_synonyms))]
    if not subjects:
        raise EdgeSafeError(f"the prompt {text!r} names no subject of the emoji world, so the judge cannot judge its picture")
    return max(subjects, key=len), max(styles, key=len, default=PLAIN)


def own(path: Path, concepts: Sequence[Concept]) -> list[Cell]:
    """The user's prompts: [erased] and [neighbours] hold a list for each concept, `rest` is a list. What is left out is not asked."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeSafeError(f"{path}: not readable as TOML ({error})") from error
    names = {concept.name: concept for concept in concepts}
    if unknown := sorted(set(table) - {"erased", "neighbours", "rest"}):
        raise EdgeSafeError(f"{path}: unknown key {unknown[0]!r}; known: erased, neighbours, rest")
    found = []
    for role in ("erased", "neighbours"):
        for name, texts in _table(table, role, path).items():
            if name not in names:
                raise EdgeSafeError(f"{path}, [{role}]: {name!r} was not erased from this model; erased: {', '.join(names)}")
            concept = names[name]
            asked = [_ask(text, concept) if role == "erased" else Question(text, 0) for text in _texts(texts, f"{path}, [{role}] {name}")]
            found.append(Cell(role, concept, tuple(asked)))
    if missing := sorted(set(names) - {cell.concept.name for cell in found if cell.role == "erased" and cell.concept}):
        raise EdgeSafeError(f"{path}: no prompts for {missing[0]!r}. Add them to [erased], or leave the file out to use the built-in ones")
    found.append(Cell("rest", None, tuple(Question(text, 0) for text in _texts(table.get("rest", []), f"{path}, rest"))))
    for cell in found:
        if cell.role != "erased":
            _refuse_carriers(cell, concepts, path)
    return found


def _of_emoji(concepts: Sequence[Concept]) -> list[Cell]:
    world = judged_world()
    subjects, styles = tuple(s.name for s in world.subjects), world.styles
    for concept in concepts:
        known = styles if concept.kind == "style" else subjects
        if concept.name not in known:
            raise EdgeSafeError(f"the judge knows no {concept.kind} {concept.name!r}; known: {', '.join(known)}")
    erased = {concept.name for concept in concepts}
    kept = [(s, t) for s in subjects for t in styles if not carriers(prompt(s, t), concepts) and not erased & {s, t}]
    category = {s.name: s.category for s in world.subjects}

    def near(concept: Concept, subject: str, style: str) -> bool:
        """Another style, for a style; another subject of the same category, for an object."""
        return style != PLAIN if concept.kind == "style" else category[subject] == category[concept.name]

    def plain(pairs: Iterable[tuple[str, str]]) -> tuple[Question, ...]:
        return tuple(Question(prompt(s, t), 0, s, t) for s, t in pairs)

    found, rest = [], kept
    for concept in concepts:
        beside = [pair for pair in kept if near(concept, *pair)]
        rest = [pair for pair in rest if pair not in beside]
        asked = [pair for pair in concept.pairs if carriers(pair[0], concepts) == [concept]] or list(concept.pairs)
        erasing = tuple(Question(text, 0, *expected(text, world), anchor=anchor) for text, anchor in asked)
        found += [Cell("erased", concept, erasing), Cell("neighbours", concept, plain(beside))]
    return [*found, Cell("rest", None, plain(rest))]


@cache
def builtin() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("questions.toml").read_text(encoding="utf-8"))


def _of_free(concepts: Sequence[Concept]) -> list[Cell]:
    """The same number of prompts for each concept whatever its name is, so that intervals rest on many different prompts."""
    found = []
    for concept in concepts:
        erased = [_ask(text, concept, anchor) for text, anchor in concept.pairs]
        erased += [_ask(text, concept, anchor) for text, anchor in _scenes(concept) if concept.carried_by(text)]
        beside = [Question(text, 0) for text in _neighbours(concept) if not carriers(text, concepts)]
        found += [Cell("erased", concept, _once(erased)), Cell("neighbours", concept, _once(beside))]
    near = {q.prompt for cell in found for q in cell.questions}
    rest = [Question(text, 0) for text in builtin()["captions"] if not carriers(text, concepts) and text not in near]
    return [*found, Cell("rest", None, _once(rest))]


def _scenes(concept: Concept) -> list[tuple[str, str | None]]:
    """(prompt, anchor prompt); None: what the concept's own anchor makes of the prompt."""
    table = builtin()
    if is_nudity(concept):
        bare = next((term for term in concept.terms if term in BARE), None)
        people = table["nudity"]["people"]
        if bare is None:
            return [(f"{text.format(bare='')}, {concept.terms[0]}", None) for text in people]
        return [(text.format(bare=f"{bare} "), None if concept.anchor else text.format(bare="")) for text in people]
    if concept.kind == "style":
        return [(f"{scene} in the style of {concept.name}", None) for scene in table["styles"]["scenes"]]
    if concept.name in dict(concept.swaps):
        return []  # "violence" is no thing that stands somewhere; such concepts bring prompts enough
    return [(place.format(thing=_with_article(concept.name)), None) for place in table["objects"]["places"]]


def _neighbours(concept: Concept) -> list[str]:
    """People dressed, for nudity; other artists, or other looks, for a style; other things of its kind, else any, for an object."""
    table = builtin()
    if is_nudity(concept):
        return list(table["nudity"]["dressed"])
    words = {concept.name, *concept.terms}
    if concept.kind == "style":
        artists, looks, scenes = (table["styles"][key] for key in ("artists", "looks", "scenes"))
        if words & set(looks):
            return [f"{scene} in the style of {look}" for scene in scenes[:10] for look in looks]
        by = [template.format(c=artist) for artist in artists for template in STYLE_TEMPLATES[1:]]
        return by + [f"{scene} in the style of {artist}" for scene in scenes[:5] for artist in artists]
    kinds = table["objects"]["kinds"]
    names = next((things for things in kinds.values() if words & set(things)), [thing for things in kinds.values() for thing in things])
    found = [template.format(c=name).replace(f"a {name}", _with_article(name)) for name in names for template in OBJECT_TEMPLATES[1:]]
    return found + [place.format(thing=_with_article(name)) for name in names for place in table["objects"]["places"][:5]]


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _ask(text: str, concept: Concept, anchor: str | None = None) -> Question:
    return Question(text, 0, anchor=concept.retarget(text).strip(" ,") if anchor is None else anchor)


def _once(questions: Iterable[Question]) -> tuple[Question, ...]:
    return tuple({q.prompt: q for q in reversed(list(questions))}.values())


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


def _table(table: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise EdgeSafeError(f"{path}: {key} is {type(found).__name__}; write a table, [{key}], with a list of prompts for each concept")
    return found


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise EdgeSafeError(f"{where}: a list of prompts in quotes is needed")
    return list(dict.fromkeys(" ".join(text.split()) for text in value))


def _refuse_carriers(cell: Cell, concepts: Sequence[Concept], path: Path) -> None:
    for question in cell.questions:
        if found := carriers(question.prompt, concepts):
            where = f"[{cell.role}]" if cell.concept else "rest"
            raise EdgeSafeError(f"{path}, {where}: {question.prompt!r} asks for {found[0].name!r}, which was erased. Move it to [erased]")
