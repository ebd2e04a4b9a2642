"""From what `--erase` says to concepts: names of the emoji world, or words, presets and files for any other model."""

import difflib
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EdgeSafeError
from . import rows
from .concept import KINDS, Concept, together, with_prompts
from .words import fold, singular

if TYPE_CHECKING:
    from ..emoji.world import Subject, World

WORLD_TEMPLATES = {
    "style": ("{s} {c} style", "a {s} in the style of {c}", "{c} picture of a {s}"),
    "object": ("{c}", "{c} {s} style", "a {c} in the style of {s}", "{s} picture of a {c}"),
}
PLAIN_STYLE = "emoji"  # the world's picture without a style: the anchor of its styles
GROUP, ARTIST = "group", "artist"
PREFIXES = (*KINDS, ARTIST, GROUP)
ALIKE, ALIKE_SHORT, SHORT = 0.8, 0.9, 6  # likeness from which a word is one misspelt; fewer letters need more: "gorge" is not "gore"


def parse(text: str, world: "World | None", anchor: str | None = None) -> tuple[Concept, ...]:
    """The concepts of comma-separated items, each once; "" and "none" give no concept.

    Of the emoji world: its styles, subjects and groups. Of any other model: "style:NAME", "object:NAME" or only NAME, "artist:NAME" and
    a preset that comes ready. For both: a TOML file of one's own (`rows`). `anchor` takes the place of all of them.

    Raises: EdgeSafeError for a name that the world does not have or that several subjects share, and for an anchor that is erased itself.
    """
    items = list(dict.fromkeys(item for part in text.split(",") if (item := " ".join(part.split()))))
    if [item.lower() for item in items] in ([], ["none"]):
        return ()
    anchor = None if anchor is None else " ".join(anchor.lower().split())
    named = [_in_world(item, world, anchor) if world else _free(item, anchor) for item in items]
    found = [concept for concepts in named for concept in concepts]
    return together(_anchored(found, world) if world and anchor is None else found)


def ready() -> str:
    """What comes ready for models that read English."""
    return ", ".join((f"{ARTIST}:NAME", *rows.names()))


def groups() -> str:
    """Groups of the emoji world, beside its categories."""
    return ", ".join(_of_world()["groups"])


def _split(item: str) -> tuple[str, str]:
    """ "style:van gogh" -> ("style", "van gogh"); without a colon ("", item)."""
    prefix, colon, name = (part.strip() for part in item.lower().partition(":"))
    if not colon:
        return "", prefix
    if prefix not in PREFIXES:
        raise EdgeSafeError(f"--erase {item!r}: unknown kind {prefix!r}; known: {', '.join(PREFIXES)}. Ready: {ready()}")
    if not name:
        known = [c.name for c in rows.ready(rows.ARTISTS)] if prefix == ARTIST else rows.names() if prefix == GROUP else ()
        hint = f". With their works: {', '.join(known)}" if prefix == ARTIST else f". Known: {', '.join(known)}" if known else ""
        raise EdgeSafeError(f"--erase {item!r}: no name after the colon{hint}")
    return prefix, name


def _free(item: str, anchor: str | None) -> tuple[Concept, ...]:
    if item.lower().endswith(".toml"):
        found = rows.own(Path(item))
    else:
        prefix, name = _split(item)
        if prefix == ARTIST:
            found = (rows.artist(name),)
        elif prefix == GROUP or (not prefix and name in rows.names()):
            found = _ready(name)
        else:
            alike = ALIKE if len(name) >= SHORT else ALIKE_SHORT
            if not prefix and (near := difflib.get_close_matches(name, (*rows.names(), ARTIST), 1, alike)):
                meant = f"{ARTIST}:NAME" if near[0] in (ARTIST, rows.ARTISTS) else near[0]
                raise EdgeSafeError(f"--erase {name!r} is nearly {meant!r}, which is ready. If it is not meant, write 'object:{name}'")
            found = (_word(name, prefix or "object"),)
    return found if anchor is None else tuple(concept.with_anchor(anchor) for concept in found)


def _ready(name: str) -> tuple[Concept, ...]:
    if name not in rows.names():
        near = difflib.get_close_matches(name, rows.names(), 3)
        like = f" Like it: {', '.join(near)}." if near else ""
        raise EdgeSafeError(f"--erase 'group:{name}': no such group.{like} Ready: {ready()}; or name a TOML file of your own")
    return rows.ready(name)


def _word(name: str, kind: str) -> Concept:
    one = singular(name) if kind == "object" else name
    return with_prompts(name, kind, (name, one), "", rows.filled(rows.TEMPLATES[kind], [one]))


@cache
def _of_world() -> dict[str, Any]:
    """{"groups": name -> subjects, "anchors": subject -> subjects, the best first}"""
    return tomllib.loads(files(__package__).joinpath("emoji.toml").read_text(encoding="utf-8"))


def _in_world(item: str, world: "World", anchor: str | None) -> list[Concept]:
    if item.lower().endswith(".toml"):
        return [_from_row(row, world, anchor) for row in rows.own(Path(item))]
    prefix, name = _split(item)
    if prefix == ARTIST:
        raise EdgeSafeError(f"--erase {item!r}: the emoji world has no artists. Styles: {', '.join(world.styles)}")
    if prefix in ("", "style") and name in world.styles:
        return [_style(name, world, anchor)]
    named = _subjects(name, world) if prefix in ("", "object") else []
    if len(named) > 1:
        raise EdgeSafeError(f"--erase {name!r} fits {' and '.join(repr(s.name) for s in named)}: name one of them, or both with a comma")
    if named:
        return [_subject(named[0], world, anchor, name)]
    if prefix in ("", GROUP) and (members := _members(name, world)):
        return [_subject(s, world, anchor, s.name) for s in members]
    raise EdgeSafeError(_unknown(name, prefix, world))


def _from_row(row: Concept, world: "World", anchor: str | None) -> Concept:
    """A user's row: a style or subject of the world, with the row's anchor, where --anchor names no other, and its other words.

    The prompts are the world's.
    """
    (found,) = _in_world(row.name, world, row.anchor or None if anchor is None else anchor)
    if found.kind != row.kind:
        raise EdgeSafeError(f"{row.name!r} is called an {row.kind}; in the emoji world it is a {found.kind}".replace("an style", "a style"))
    return with_prompts(found.name, found.kind, (*found.terms, *row.terms), found.anchor, [prompt for prompt, _ in found.pairs])


def _style(name: str, world: "World", anchor: str | None) -> Concept:
    chosen = anchor if anchor is not None else PLAIN_STYLE
    if chosen == name:
        raise EdgeSafeError(f"--anchor {chosen!r} is the concept itself; name another style")
    if chosen and chosen not in world.styles:
        raise EdgeSafeError(f"--anchor {chosen!r} is no style, so it cannot take the place of {name!r}. Styles: {', '.join(world.styles)}")
    prompts = [t.format(c=name, s=s.name) for s in world.subjects for t in WORLD_TEMPLATES["style"]]
    return with_prompts(name, "style", (name,), chosen, prompts)


def _subject(subject: "Subject", world: "World", anchor: str | None, name: str) -> Concept:
    terms = (subject.name, *subject.synonyms, *subject.heldout_synonyms, name)
    prompts = [t.format(c=subject.name, s=style) for style in world.styles for t in WORLD_TEMPLATES["object"]]
    chosen = ""
    if anchor:
        found = _subjects(anchor, world)
        if len(found) != 1:
            what = f"fits {' and '.join(s.name for s in found)}" if found else f"is no subject of the emoji world.{_like(anchor, world)}"
            raise EdgeSafeError(f"--anchor {anchor!r} {what}")
        if found[0] == subject:
            raise EdgeSafeError(f"--anchor {anchor!r} is the concept itself; name another subject")
        chosen = found[0].name
    return with_prompts(subject.name, "object", terms, chosen, prompts)


def _anchored(concepts: Sequence[Concept], world: "World") -> list[Concept]:
    """Subjects without an anchor with one: that of `emoji.toml`, else the next of their category; none that is erased as well."""
    erased = {c.name for c in concepts}
    found = []
    for concept in concepts:
        if concept.kind == "object" and not concept.anchor:
            category = next(s.category for s in world.subjects if s.name == concept.name)
            beside = [s.name for s in world.subjects if s.category == category]
            start = beside.index(concept.name) + 1
            listed = _of_world()["anchors"].get(concept.name, (*beside[start:], *beside[:start]))
            free = [name for name in (*listed, *(s.name for s in world.subjects if s.category != "unwanted")) if name not in erased]
            concept = concept.with_anchor(free[0] if free else "")
        found.append(concept)
    return found


def _subjects(name: str, world: "World") -> list["Subject"]:
    """By its name or its emoji, else by a synonym, else by a word of its name."""
    found = [s for s in world.subjects if name in (s.name, s.emoji)]
    found = found or [s for s in world.subjects if name in (*s.synonyms, *s.heldout_synonyms)]
    return found or [s for s in world.subjects if name in s.name.split()]


def _members(name: str, world: "World") -> list["Subject"]:
    chosen = _of_world()["groups"].get(name, ())
    return [s for s in world.subjects if s.name in chosen or s.category == name]


def _all_groups(world: "World") -> list[str]:
    return [*_of_world()["groups"], *dict.fromkeys(s.category for s in world.subjects)]


def _like(name: str, world: "World") -> str:
    known = [s.name for s in world.subjects]
    near = difflib.get_close_matches(fold(name), known, 3) or [s for s in known if s[0] == name[0]][:3]
    return f" Subjects like it: {', '.join(near)}." if near else ""


def _unknown(name: str, prefix: str, world: "World") -> str:
    known = _all_groups(world)
    if prefix == GROUP:
        near = ", ".join(difflib.get_close_matches(name, known, 3))
        return f"--erase 'group:{name}': no such group.{f' Like it: {near}.' if near else ''} Groups: {', '.join(known)}"
    other = " It comes ready for models other than the emoji world's." if name in rows.names() else ""
    what = prefix or "style or subject"
    return (
        f"--erase {name!r}: the emoji world has no such {what}. Styles: {', '.join(world.styles)}.{_like(name, world)} "
        f"Groups: {', '.join(known)}.{other}"
    )
