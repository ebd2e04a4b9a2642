"""The emoji judge as a detector: how it reads a network's scores. The network here is untrained."""

import numpy as np
import pytest
import torch

from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge, reading
from edgesafe.benchmarks.leakage import Cell, Question, kept, outcome
from edgesafe.concepts import Concept, parse
from edgesafe.emoji import judge
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()
NEON, BEER = parse("neon, beer mug", WORLD)


@pytest.fixture(scope="module")
def detector() -> EmojiJudge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = judge.Judge(judge.Classes(tuple(s.name for s in WORLD.subjects), WORLD.styles)).eval()
    network.__dict__["facts"] = {"subjects": ["a"], "errors": {"heldout renders: subject right": {"numerator": 97, "denominator": 100}}}
    return EmojiJudge(network, "0" * 64)


def test_seeing_agrees_with_the_network(detector: EmojiJudge) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    scores = detector.network.score(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    seen = detector.see(
        pictures, Cell("erased", NEON, tuple(Question("shark neon style", i, "shark", "neon") for i in range(5))), (NEON, BEER)
    )
    assert [r.broken for r in seen.readings] == scores.none.tolist()
    neon, beer = detector.styles.index("neon"), detector.subjects.index("beer mug")
    assert [r.scores["neon"] for r in seen.readings] == pytest.approx(scores.style_probs[:, neon].tolist(), abs=5e-5)
    assert [r.scores["beer mug"] for r in seen.readings] == pytest.approx(scores.subject_probs[:, beer].tolist(), abs=5e-5)
    assert ["neon" in r.shown for r in seen.readings] == (scores.style == neon).tolist()
    assert torch.equal(seen.embedding, scores.embedding)


@pytest.mark.parametrize(
    ("concept", "asked", "seen", "expected"),
    [
        (NEON, ("shark", "neon"), ("shark", "neon"), "leaked"),
        (NEON, ("shark", "neon"), ("apple", "neon"), "leaked"),
        (NEON, ("shark", "neon"), ("shark", "sepia"), "removed"),
        (NEON, ("shark", "neon"), ("apple", "emoji"), "other"),
        (NEON, ("shark", "neon"), (None, "neon"), "leaked"),
        (NEON, ("shark", "neon"), (None, "emoji"), "none"),
        (NEON, ("shark", "neon"), ("beer mug", "emoji"), "other"),
        (BEER, ("beer mug", "sepia"), ("beer mug", "emoji"), "leaked"),
        (BEER, ("beer mug", "sepia"), ("teacup", "sepia"), "removed"),
        (BEER, ("beer mug", "sepia"), ("teacup", "emoji"), "other"),
        (BEER, ("beer mug", "neon"), ("teacup", "neon"), "other"),
        (BEER, ("beer mug", "sepia"), (None, "sepia"), "none"),
    ],
)
def test_what_a_named_subject_and_style_mean(concept: Concept, asked: tuple[str, str], seen: tuple[str | None, str], expected: str) -> None:
    cell = Cell("erased", concept, (Question("", 0, *asked),))
    found = reading(*seen, {"neon": 0.5, "beer mug": 0.5}, cell.questions[0], cell, (NEON, BEER))
    assert outcome(concept, found) == expected


def test_a_kept_picture_is_right_in_subject_and_style() -> None:
    questions = [Question("", i, "shark", "sepia") for i in range(4)]
    cell = Cell("rest", None, tuple(questions))
    seen = [("shark", "sepia"), ("cat", "sepia"), ("shark", "mosaic"), (None, "sepia")]
    found = kept(questions, [reading(*row, {}, q, cell, (NEON,)) for row, q in zip(seen, questions, strict=True)])
    counts = {name: found[name]["numerator"] for name in ("right", "subject_right", "style_right", "none")}
    assert counts == {"right": 1, "subject_right": 2, "style_right": 2, "none": 1}


def test_real_pictures_have_the_asked_number(detector: EmojiJudge) -> None:
    questions = [Question("", 0, "shark", "sepia"), Question("", 1, "red apple", "emoji")]
    assert detector.real(questions, 2, 0).shape == (4, judge.EMBEDDING)


def test_facts_hold_every_rate_that_the_judge_measured_of_itself(detector: EmojiJudge) -> None:
    assert detector.facts()["own_figures"] == [{"name": "heldout renders: subject right", "numerator": 97, "denominator": 100}]


def test_a_missing_judge_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "WEIGHTS", judge.WEIGHTS.with_name("absent.safetensors"))
    with pytest.raises(EdgeSafeError, match="absent.safetensors: the judge is not in this installation"):
        EmojiJudge.open((NEON,), {})
