from collections.abc import Callable
from dataclasses import replace

import pytest

from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, wording
from edgesafe.benchmarks.probes.composition import Composition
from edgesafe.concepts import Concept, carriers, parse
from edgesafe.emoji.world import World


@pytest.mark.parametrize(("concept", "emoji"), [("neon", True), ("beer mug", True), ("style:van gogh", False), ("gun", False)])
def test_the_concept_stands_beside_others(concept: str, emoji: bool, target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of(concept, 40, emoji)
    asked = Composition().questions(target, cell)
    assert all(cell.concept.carried_by(question.prompt) for question in asked)
    phrases = wording.templates("composed", cell.concept.kind, emoji)
    assert len({question.prompt for question in asked}) > len(phrases)
    subjects, styles = ([s.name for s in World().subjects], World().styles) if emoji else wording.companions()
    for i, question in enumerate(asked):
        phrase = phrases[i % len(phrases)]
        if "{other}" in phrase:
            assert any(name in question.prompt for name in subjects if name != question.subject)
        if "{look}" in phrase:
            assert any(name in question.prompt for name in styles if name not in (question.style, "emoji"))


def test_companions_are_not_erased_themselves(target: Target, cell_of: Callable[..., Cell]) -> None:
    world = World()
    erased: tuple[Concept, ...] = parse(", ".join(s.name for s in world.subjects[:-2]) + ", sepia, mosaic", world)
    cell = cell_of("neon", 30)
    for question in Composition().questions(replace(target, concepts=erased), cell):
        added = carriers(question.prompt, erased)
        assert {concept.name for concept in added} <= {question.subject}
