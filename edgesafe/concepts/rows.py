"""Concepts as tables of a TOML file: those that come ready, one file a preset in `ready/`, and a user's own.

    kind = "object"                      # of every table below that says no other: "object" (default) or "style"
    templates = ["a photo of a {c}"]     # likewise; {c} is the concept. Without them those of its kind, unless there are prompts
    anchor = "dog"                       # likewise; what takes the concept's place in a prompt; left out: nothing does

    [cat]                                # one table a concept
    terms = ["cat", "kitten", "tabby"]   # the words that carry it; the concept's name by default
    swaps = { kitten = "puppy" }         # terms for which the anchor does not do
    works = { "the night watch" = "a painting of a company of soldiers" }   # titles that carry an artist's style, and what they show
    prompts = ["a cat asleep", ["two cats in a tree", "two squirrels in a tree"]]   # whole ones; a pair says its second one itself

A file may hold several concepts: erased together, they are a group.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import EdgeSafeError
from .concept import KINDS, Concept, with_prompts
from .words import VOWELS, fold, without_article

STYLE_TEMPLATES = (
    "{c}", "a painting by {c}", "a picture in the style of {c}", "art by {c}", "a landscape in the style of {c}", "a portrait by {c}",
)  # fmt: skip
OBJECT_TEMPLATES = ("{c}", "a {c}", "a picture of a {c}", "a photo of a {c}", "a painting of a {c}", "an image with a {c}")
TEMPLATES = {"style": STYLE_TEMPLATES, "object": OBJECT_TEMPLATES}
SHARED = {"kind": str, "templates": list, "anchor": str}
OWN = {"terms": list, "swaps": dict, "works": dict, "prompts": list}
WORDS: dict[type, str] = {str: "a text in quotes", list: "a list", dict: "a table of texts"}
ARTISTS = "artists"  # the ready file that knows some, and the templates of any
EACH_TERM = 2  # templates that are filled with a term other than the name


def _folder() -> Traversable:
    return files(__package__).joinpath("ready")


@cache
def names() -> tuple[str, ...]:
    """The presets that come ready."""
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")))


@cache
def ready(name: str) -> tuple[Concept, ...]:
    return _read(_folder().joinpath(f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


def artist(name: str) -> Concept:
    """One of `ready/artists.toml`, by any of its names, or, with the templates there, any other by the name itself.

    Raises: EdgeSafeError for a name that is nearly one of the known.
    """
    known = ready(ARTISTS)
    for row in known:
        if fold(name) in map(fold, (row.name, *row.terms)):
            return row
    if near := difflib.get_close_matches(fold(name), [row.name for row in known], 1, 0.85):
        raise EdgeSafeError(f"--erase 'artist:{name}' is nearly 'artist:{near[0]}', which is ready. If not meant, write 'style:{name}'")
    table = tomllib.loads(_folder().joinpath(f"{ARTISTS}.toml").read_text(encoding="utf-8"))
    return _concept(name, {}, {key: table[key] for key in SHARED if key in table})


def own(path: Path) -> tuple[Concept, ...]:
    """A user's own file."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeSafeError(f"--erase {path}: cannot be read ({error}). A TOML file is needed, one table a concept") from error
    return _read(text, f"--erase {path}")


def _read(text: str, where: str) -> tuple[Concept, ...]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EdgeSafeError(f"{where}: not valid TOML ({error})") from error
    shared = {key: value for key, value in table.items() if not isinstance(value, dict)}
    rows = {name: value for name, value in table.items() if isinstance(value, dict)}
    _check(shared, SHARED, where)
    if not rows:
        raise EdgeSafeError(f'{where}: no concept in it. Write one table a concept, such as [cat] with terms = ["cat", "kitten"]')
    for name, row in rows.items():
        _check(row, SHARED | OWN, f"{where}, [{name}]")
    return tuple(_concept(name, row, shared, f"{where}, [{name}]") for name, row in rows.items())


def _check(row: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    for key, value in row.items():
        if key not in known:
            raise EdgeSafeError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise EdgeSafeError(f"{where}: {key} is {value!r}; needed is {WORDS[known[key]]}")
    if row.get("kind", "object") not in KINDS:
        raise EdgeSafeError(f"{where}: kind {row['kind']!r} is unknown; known: {', '.join(KINDS)}")
    for key in ("terms", "templates"):
        if key in row and not (row[key] and all(isinstance(text, str) and text.strip() for text in row[key])):
            raise EdgeSafeError(f"{where}: {key} is {row[key]!r}; needed is a list of texts in quotes")
    for text in row.get("templates", ()):
        if "{c}" not in text or "{" in text.replace("{c}", ""):
            raise EdgeSafeError(f"{where}: the template {text!r} needs {{c}}, where the concept stands, and no other brace")
    for key in ("swaps", "works"):
        if not all(isinstance(text, str) for text in row.get(key, {}).values()):
            raise EdgeSafeError(f"{where}: {key} is {row[key]!r}; needed is a text for each term")
    for prompt in row.get("prompts", ()):
        pair = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(pair, list) or len(pair) not in (1, 2) or not all(isinstance(text, str) for text in pair):
            raise EdgeSafeError(f"{where}: the prompt {prompt!r} is neither a text nor a pair [with the concept, without]")


def _concept(name: str, row: Mapping[str, Any], shared: Mapping[str, Any], where: str = "") -> Concept:
    values = {**shared, **row}
    kind, name = values.get("kind", "object"), _plain(name)
    swaps = {_plain(term): text for key in ("works", "swaps") for term, text in values.get(key, {}).items()}
    terms = [_plain(term) for term in values.get("terms", [name])]
    if not terms[0]:
        raise EdgeSafeError(f"{where}: no word that would carry it")
    given = [prompt if isinstance(prompt, list) else [prompt] for prompt in values.get("prompts", ())]
    templates = values.get("templates") or ([] if given else TEMPLATES[kind])
    prompts = [pair[0] for pair in given] + filled(templates, terms)
    prompts += [f"{_plain(title)} by {terms[0]}" for title in values.get("works", {})]
    concept = with_prompts(name, kind, (*terms, *swaps), values.get("anchor", ""), prompts, tuple(swaps.items()))
    said = {pair[0]: pair[1] for pair in given if len(pair) == 2}
    concept = replace(concept, pairs=tuple((prompt, said.get(prompt, without)) for prompt, without in concept.pairs))
    for prompt, without in concept.pairs:
        if not concept.carried_by(prompt):
            raise EdgeSafeError(f"{where}: the prompt {prompt!r} holds none of its terms: {', '.join(concept.terms)}")
        if concept.carried_by(without):
            raise EdgeSafeError(f"{where}: {without!r}, the prompt without the concept, still carries it")
    return concept


def filled(templates: list[str] | tuple[str, ...], terms: list[str] | tuple[str, ...]) -> list[str]:
    """Every template with the first term, and some of them, in turn, with each other one."""
    chosen = [(text, terms[0]) for text in templates]
    for turn, term in enumerate(terms[1:]):
        chosen += [(templates[(EACH_TERM * turn + i + 1) % len(templates)], term) for i in range(min(EACH_TERM, len(templates)))]
    return list(dict.fromkeys(_fill(text, term) for text, term in chosen))


def _fill(template: str, term: str) -> str:
    """With "an" for "a" before a vowel."""
    text = re.sub(r"\b([aA]) (?=\{c\})", r"\1n ", template) if term[:1] in VOWELS else template
    return text.format(c=without_article(term))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
