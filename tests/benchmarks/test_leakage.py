"""Counting against brute force on synthetic readings, and what a detector that cannot tell leaves out."""

import random

import pytest

from edgesafe.benchmarks.leakage import OUTCOMES, Cell, Question, Reading, kept, leakage, outcome
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError
from edgesafe.metrics import bootstrap

NEON = Concept("neon", "style", ("neon",), "emoji", ())


def reading(*shown: str, broken: bool | None = False, right: bool | None = True, **parts: bool) -> Reading:
    return Reading("", {"neon": 0.5, "mosaic": 0.5}, frozenset(shown), broken, right, parts)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (reading("neon"), "leaked"),
        (reading("neon", right=False), "leaked"),
        (reading("neon", "mosaic"), "leaked"),
        (reading("neon", right=None, broken=None), "leaked"),
        (reading(), "removed"),
        (reading(right=None), "gone"),
        (reading(right=False), "other"),
        (reading("mosaic"), "other"),
        (reading("mosaic", right=None), "other"),
        (reading(broken=True), "none"),
        (reading("neon", broken=True, right=None), "leaked"),
    ],
)
def test_outcomes(seen: Reading, expected: str) -> None:
    assert outcome(NEON, seen) == expected


def synthetic(n: int, seed: int) -> tuple[Cell, list[Reading]]:
    draw = random.Random(seed)
    questions = tuple(Question(f"p{i} typo", i, plain=f"p{i % 20}") for i in range(n))
    choices = [(), ("neon",), ("mosaic",), ("neon", "mosaic")]
    rows = [reading(*draw.choice(choices), broken=draw.random() < 0.2, right=draw.choice([True, False, None])) for _ in questions]
    return Cell("erased", NEON, questions), rows


def test_leakage_equals_brute_force_and_outcomes_sum_to_all() -> None:
    cell, rows = synthetic(200, 0)
    found = leakage(cell, rows)
    whole = [r for r in rows if not r.broken]
    assert found["leaked"]["numerator"] == sum("neon" in r.shown for r in rows)
    assert found["removed"]["numerator"] == sum(not r.shown and r.right is True for r in whole)
    assert found["gone"]["numerator"] == sum(not r.shown and r.right is None for r in whole)
    assert found["none"]["numerator"] == sum("neon" not in r.shown for r in rows if r.broken)
    assert found["broken"]["numerator"] == len(rows) - len(whole)
    assert sum(found[name]["numerator"] for name in OUTCOMES) == found["asked"] == 200
    assert all(found[name]["denominator"] == 200 for name in OUTCOMES)


def test_intervals_cluster_by_the_plain_prompt_and_learn_from_the_control() -> None:
    cell, rows = synthetic(60, 1)
    origins = [f"p{i % 20}" for i in range(60)]
    none_leaked = [reading() for _ in rows]
    assert leakage(cell, rows)["leaked"] == bootstrap.rate([outcome(NEON, r) == "leaked" for r in rows], origins)
    alone, beside = leakage(cell, none_leaked)["leaked"], leakage(cell, none_leaked, rows)["leaked"]
    flags = [outcome(NEON, r) == "leaked" for r in rows]
    assert beside == bootstrap.rate([False] * 60, origins, flags, origins)
    assert beside["upper95"] < alone["upper95"], "the control shows that pictures of one prompt differ"


def test_what_a_detector_cannot_tell_was_asked_of_no_picture() -> None:
    cell = Cell("erased", NEON, tuple(Question("p", i) for i in range(4)))
    found = leakage(cell, [reading("neon", broken=None, right=None), *[reading(broken=None, right=None)] * 3])
    assert {name: (found[name]["numerator"], found[name]["denominator"]) for name in OUTCOMES} == {
        "leaked": (1, 4), "removed": (0, 0), "gone": (3, 4), "other": (0, 4), "none": (0, 0),
    }  # fmt: skip
    rows = kept([Question("p", 0)], [reading(broken=None, right=None)])
    assert rows == {"asked": 1, "right": None, "subject_right": None, "style_right": None, "none": None}


def test_a_detector_without_a_score_for_the_concept_is_refused() -> None:
    """Its silence would read as a removal."""
    blind = Reading("", {"mosaic": 0.1}, frozenset(), False, True)
    with pytest.raises(EdgeSafeError, match="cannot tell whether “neon” is in a picture: it scores mosaic"):
        leakage(Cell("erased", NEON, (Question("p", 0),)), [blind])


def test_kept_counts_a_broken_picture_as_wrong() -> None:
    rows = [
        reading(right=True, subject=True, style=True),
        reading(right=False, subject=False, style=True),
        reading("neon", right=False, subject=True, style=False),
        reading(right=False, broken=True, subject=False, style=False),
    ]
    found = kept([Question("", i) for i in range(4)], rows)
    counts = {name: found[name]["numerator"] for name in ("right", "subject_right", "style_right", "none")}
    assert counts == {"right": 1, "subject_right": 2, "style_right": 2, "none": 1}
    assert found["right"]["denominator"] == 4


def test_a_cell_without_a_concept_cannot_leak() -> None:
    with pytest.raises(ValueError, match="asks for no concept"):
        leakage(Cell("rest", None, ()), [])
