from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import model as models
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.probes.ring_a_bell import Reader, RingABell, crossed, mutated
from edgesafe.benchmarks.sources import Source
from edgesafe.concepts import Concept, parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

PROMPTS = ["shark", "red apple"]


@pytest.fixture
def neon() -> Concept:
    concept = parse("neon", World())[0]
    return replace(concept, pairs=concept.pairs[:8])


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
def test_distance_is_that_of_the_prompts_as_they_are_typed_in(pipeline: str, request: pytest.FixtureRequest, neon: Concept) -> None:
    net = models.load(request.getfixturevalue(pipeline))
    reader = Reader(net, PROMPTS, 4)
    people = np.random.default_rng(3).choice(reader.vocabulary(()), (5, 4))
    found = reader.distance(neon, 3.0)(people)

    def states(prompts: list[str]) -> torch.Tensor:
        return models.encode(net, prompts)[:, : reader.positions]

    vector = (states([with_it for with_it, _ in neon.pairs]) - states([without for _, without in neon.pairs])).mean(0)
    for row, distance in zip(people, found, strict=True):
        goals = states(PROMPTS) + 3 * vector
        written = states([f"{prompt} {reader.written(row)}" for prompt in PROMPTS])
        assert distance == pytest.approx(float((written - goals).square().sum() / 2), rel=1e-4)


def test_a_search_of_one_word_finds_the_best_of_all(tiny_sd1: Path, target: Target, neon: Concept) -> None:
    reader = Reader(models.load(tiny_sd1), PROMPTS, 1)
    vocabulary = reader.vocabulary(())
    every = reader.distance(neon, 3.0)(vocabulary[:, None])
    probe = RingABell(length=1, population=120, generations=40, mutation=1, crossover=0.9)
    assert probe.words(target, neon, PROMPTS) == reader.written([int(vocabulary[every.argmin()])])


def test_every_word_is_read_as_it_was_found(tiny_sd1: Path) -> None:
    reader = Reader(models.load(tiny_sd1), PROMPTS, 4)
    words = reader.vocabulary(())
    assert len(words) > 400
    text = reader.written(words[:60])
    assert reader.tokenizer(text, add_special_tokens=False).input_ids == words[:60].tolist()


def test_children_have_the_tails_of_their_parents() -> None:
    parents = np.arange(24).reshape(6, 4)
    family = crossed(parents, 1.0, np.random.default_rng(0))
    assert len(family) == 18
    for parent, first, second in family.reshape(6, 3, 4):
        assert sorted([*first, *second]) == sorted([*parent, *next(p for p in parents if p[3] == first[3])])
    assert (crossed(parents, 0.0, np.random.default_rng(0)) == parents).all()


def test_the_best_is_never_mutated() -> None:
    people, vocabulary = np.zeros((200, 5), int), np.array([7])
    changed = mutated(people, vocabulary, 0.25, np.random.default_rng(0))
    assert not people.any() and not changed[0].any()
    assert set(changed.sum(1)) == {0, 7} and 30 < (changed.sum(1) > 0).sum() < 70


def test_a_stopped_search_goes_on_to_the_same_words(target: Target, neon: Concept) -> None:
    probe = RingABell(length=4, population=12, generations=30)
    whole = probe.words(replace(target, cache=target.cache / "whole"), neon, PROMPTS)
    seen: list[str] = []

    def stop(what: str) -> None:
        seen.append(what)
        if "generation 20" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe.words(replace(target, progress=stop), neon, PROMPTS)
    assert probe.words(replace(target, progress=seen.append), neon, PROMPTS) == whole
    assert [what.split(",")[0] for what in seen] == [f"generation {n} of 30" for n in (10, 20, 20, 30)]
    count = len(seen)
    assert probe.words(replace(target, progress=seen.append), neon, PROMPTS) == whole and len(seen) == count  # from the cache


def test_the_distance_falls(target: Target, neon: Concept) -> None:
    seen: list[str] = []
    RingABell(length=6, population=30, generations=60).words(replace(target, progress=seen.append), neon, PROMPTS)
    far = [float(what.split()[-1]) for what in seen]
    assert far == sorted(far, reverse=True) and far[-1] < far[0]


def test_own_words_may_be_left_out(tiny_sd1: Path, target: Target, cell_of: Callable[..., Cell]) -> None:
    reader = Reader(models.load(tiny_sd1), PROMPTS, 4)
    whole, without = (set(reader.vocabulary(banned).tolist()) for banned in ((), ("neon", "crossed swords")))
    assert {reader.written([i]) for i in whole - without} == {"neon", "crossed", "swords"}
    cell = cell_of("neon", 8)
    for question in RingABell(length=8, population=8, generations=1, own_words=False).questions(target, cell):
        assert not cell.concept.carried_by(question.prompt)


def test_what_does_not_fit(target: Target, neon: Concept, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="74 words do not fit behind the prompts; the text encoder leaves room for 73"):
        RingABell(length=74).words(target, neon, PROMPTS)
    with pytest.raises(EdgeSafeError, match="mutation 2 must be from 0 to 1"):
        RingABell(mutation=2)
    with pytest.raises(EdgeSafeError, match="population 1 must be from 4"):
        RingABell(population=1)
    reason = RingABell().why_not(replace(target, control=Source(str(tmp_path), None)))
    assert reason is not None and "no model_index.json" in reason
