"""The contract of every probe in PROBES."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import PROBES, Probe, Target, named
from edgesafe.benchmarks.probes.probe import NEEDS
from edgesafe.concepts import parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

QUICK = {"ring-a-bell": {"generations": 2, "population": 6, "length": 4}}  # settings under which a search ends at once
TWINLESS = [name for name, cls in PROBES.items() if "twin" not in cls.needs]  # the others learn on torch, which their own tests try

DRAWN = ["plain", *(name for name in TWINLESS if PROBES[name]().redraws)]  # the others draw as plain does


def quick(name: str) -> Probe:
    return PROBES[name](**QUICK.get(name, {}))


@pytest.mark.parametrize("name", PROBES)
def test_it_says_what_it_is(name: str) -> None:
    probe = PROBES[name]()
    assert probe.name == name
    assert probe.attacker in ("prompts", "files")
    assert probe.control_asked in ("same", "plain")
    assert probe.needs <= set(NEEDS)
    assert len(probe.what) > 20 and not probe.what.endswith(".")
    assert sys.modules[type(probe).__module__].__doc__
    assert json.loads(json.dumps(probe.settings())) is not None
    assert list(probe.settings()) == [field.name for field in fields(probe)]
    with pytest.raises(AttributeError):
        probe.attacker_of_its_own = "x"  # frozen


@pytest.mark.parametrize("name", PROBES)
def test_it_names_what_is_missing(name: str, target: Target) -> None:
    probe = PROBES[name]()
    assert probe.why_not(target) is None
    for need in NEEDS:
        reason = probe.why_not(replace(target, **{need: EdgeSafeError("the folder is gone")}))
        assert reason == (f"it needs {NEEDS[need]}: the folder is gone" if need in probe.needs else None)


@pytest.mark.parametrize("name", TWINLESS)
@pytest.mark.parametrize(("concept", "emoji"), [("neon", True), ("beer mug", True), ("style:van gogh", False), ("gun", False)])
def test_questions_keep_what_else_was_asked(name: str, concept: str, emoji: bool, target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of(concept, 12, emoji)
    target = replace(target, concepts=(cell.concept,))
    asked = quick(name).questions(target, cell)
    assert asked == quick(name).questions(target, cell)
    assert len(asked) == len(cell.questions)
    for question, plain in zip(asked, cell.questions, strict=True):
        assert (question.seed, question.subject, question.style, question.anchor) == (plain.seed, plain.subject, plain.style, plain.anchor)
        assert question.origin == plain.prompt
        assert question.prompt == " ".join(question.prompt.split()) != ""
        assert not re.search(r"\{\w+\}", question.prompt)  # a place of a template


@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_the_same_each_time(name: str, target: Target, cell_of: Callable[..., Cell]) -> None:
    cell, probe = cell_of("neon", 2), quick(name)
    source, runtime = probe.model(target, cell)
    model, asked = runtimes.load(source.place, runtime, 1), probe.questions(target, cell)
    pictures = probe.draw(model, target, cell, asked)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8
    assert (pictures == probe.draw(model, target, cell, asked)).all()
    alone = np.concatenate([probe.draw(model, target, cell, [question]) for question in asked])
    assert abs(pictures.astype(int) - alone).max() <= 1  # rounding of other batch sizes


def test_probes_by_name_and_by_attacker() -> None:
    assert [p.name for p in named("noise, plain")] == ["plain", "noise"]
    assert [p.name for p in named("all")] == list(PROBES)
    assert {p.attacker for p in named("prompts")} == {"prompts"}
    assert {*named("prompts"), *named("files")} == set(named("all"))
    with pytest.raises(EdgeSafeError, match="unknown probe 'plane'; known: plain"):
        named("plane")


def test_every_concept_of_the_emoji_world_can_be_asked_for(target: Target, cell_of: Callable[..., Cell]) -> None:
    world = World()
    for concept in parse(", ".join([*world.styles[1:], *(s.name for s in world.subjects)]), world):
        cell = cell_of(concept.name, 6)
        for name in ("paraphrase", "typos", "composition"):
            asked = PROBES[name]().questions(replace(target, concepts=(concept,)), cell)
            assert all(question.prompt != question.plain for question in asked), (name, concept.name)
