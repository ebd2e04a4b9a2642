"""Pictures stand under what they were asked, beside those of the same prompt and seed."""

import numpy as np
import pytest

from edgesafe.benchmarks import grid
from edgesafe.benchmarks.leakage import Cell, Question, Reading, Sitting
from edgesafe.concepts import Concept

NEON = Concept("neon", "style", ("neon",), "emoji", ())
COLOURS = {"base": 10, "control": 20, "export": 30}


def sitting(probe: str, role: str, model: str, questions: list[Question]) -> Sitting:
    """A picture's colour tells its model and seed."""
    cell = Cell(role, None if role == "rest" else NEON, tuple(questions))
    pictures = np.stack([np.full((8, 8, 3), COLOURS[model] + 5 * q.seed, np.uint8) for q in questions])
    readings = tuple(Reading(f"{model} {q.seed}", {"neon": 0.0}, frozenset()) for q in questions)
    return Sitting(probe, cell, model, pictures, readings, ("removed" if role == "erased" else "right",) * len(questions))


PLAIN = [Question(f"apple {i} neon style", i) for i in range(12)]
NOISY = [Question(f"aple {q.seed} neno style", q.seed, plain=q.prompt) for q in PLAIN]


@pytest.fixture
def sittings() -> list[Sitting]:
    return [
        sitting("plain", "erased", "export", PLAIN),
        sitting("plain", "erased", "control", PLAIN[::-1]),  # in another order
        sitting("plain", "erased", "base", PLAIN[:5]),
        sitting("plain", "rest", "export", [Question("apple", 0)]),
        sitting("typos", "erased", "export", NOISY),
    ]


def test_a_column_is_a_prompt_and_a_seed(sittings: list[Sitting]) -> None:
    plain = grid.panels(sittings)[0]
    assert plain.questions == grid.asked(sittings[0].cell) == tuple(PLAIN[: grid.SHOWN["erased"]])
    assert [row.model for row in plain.rows] == ["base", "control", "export"]
    for row in plain.rows:
        for question, place in zip(plain.questions, row.places, strict=True):
            if row.model == "base" and question.seed >= 5:
                assert place is None
            else:
                assert grid.picture(place)[0, 0, 0] == COLOURS[row.model] + 5 * question.seed


def test_a_model_that_was_not_asked_the_same_shows_the_plain_prompt(sittings: list[Sitting]) -> None:
    typos = next(panel for panel in grid.panels(sittings) if panel.probe == "typos")
    assert [(row.model, row.asked) for row in typos.rows] == [
        ("base", "plain prompts"), ("control", "plain prompts"), ("export", "same prompts")
    ]  # fmt: skip
    assert [grid.picture(place)[0, 0, 0] for place in typos.rows[1].places] == [20 + 5 * q.seed for q in typos.questions]


def test_an_export_never_stands_in_for_itself(sittings: list[Sitting]) -> None:
    typos = [sitting("typos", "erased", "control", NOISY)]
    rows = grid.panels([*sittings[:2], *typos])[1].rows
    assert [(row.model, row.asked) for row in rows] == [("control", "same prompts")]


def test_the_record_says_what_was_seen(sittings: list[Sitting]) -> None:
    panels = grid.build(sittings)["panels"]
    assert [(p["probe"], p["cell"], p["concept"]) for p in panels] == [
        ("plain", "erased", "neon"), ("plain", "rest", None), ("typos", "erased", "neon")
    ]  # fmt: skip
    assert panels[0]["rows"][1]["readings"][3] == {"seen": "control 3", "outcome": "removed"}
    assert panels[0]["rows"][0]["readings"][7] is None
    assert panels[2]["questions"][1] == {"prompt": "aple 1 neno style", "plain": "apple 1 neon style", "seed": 1}
    assert grid.build([]) == {"panels": []}


def test_the_sheet_has_a_row_a_model_and_a_column_a_prompt(sittings: list[Sitting]) -> None:
    sheet = np.asarray(grid.sheet(sittings, side=20))
    columns = grid.ON_SHEET["erased"] + 1  # of the rest there is one
    assert sheet.shape == (46 + 3 * 24, 150 + columns * 24, 3)
    for r, model in enumerate(grid.MODELS):
        for c in range(4):
            assert (sheet[46 + 24 * r + 10, 150 + 24 * c + 10] == COLOURS[model] + 5 * c).all()
