"""The emoji judge as a detector: what it asks, what it expects, and how it reads a network's scores. The network here is untrained."""

from collections import Counter

import numpy as np
import pytest
import torch

from edgesafe.artifact import Manifest
from edgesafe.benchmarks import detectors
from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge
from edgesafe.benchmarks.leakage import Cell
from edgesafe.concepts import Concept, parse
from edgesafe.emoji import judge
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()


@pytest.fixture(scope="module")
def detector() -> EmojiJudge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = judge.Judge(judge.Classes(tuple(s.name for s in WORLD.subjects), WORLD.styles)).eval()
    network.__dict__["facts"] = {"subjects": ["a"], "errors": {"heldout renders: subject right": {"numerator": 97, "denominator": 100}}}
    return EmojiJudge(network, "0" * 64)


@pytest.mark.parametrize(
    ("text", "subject", "style"),
    [
        ("shark neon style", "shark", "neon"),
        ("a red apple in the style of pencil sketch", "red apple", "pencil sketch"),
        ("mosaic picture of a beer mug", "beer mug", "mosaic"),
        ("wine glass", "wine glass", "emoji"),
        ("red apple emoji style", "red apple", "emoji"),
    ],
)
def test_expected(detector: EmojiJudge, text: str, subject: str, style: str) -> None:
    assert detector.expected(text) == (subject, style)


def test_expected_reads_every_prompt_of_every_concept(detector: EmojiJudge) -> None:
    for concept in parse(", ".join([*WORLD.styles[1:], *(s.name for s in WORLD.subjects)]), WORLD):
        for text, _ in concept.pairs:
            assert concept.name in detector.expected(text), text


def test_a_prompt_without_a_subject_is_refused(detector: EmojiJudge) -> None:
    with pytest.raises(EdgeSafeError, match="names no subject"):
        detector.expected("neon style")


def cells(detector: EmojiJudge, text: str, n: int = 40) -> tuple[tuple[Concept, ...], list[Cell]]:
    concepts = parse(text, WORLD)
    return concepts, detector.cells(concepts, n, 100)


def test_cells_of_a_style(detector: EmojiJudge) -> None:
    (neon,), (erased, near, rest) = cells(detector, "neon")
    assert (erased.role, near.role, rest.role, rest.concept) == ("erased", "neighbours", "rest", None)
    assert {q.style for q in erased.questions} == {"neon"}
    assert {q.style for q in near.questions} == set(WORLD.styles) - {"neon", "emoji"}
    assert {q.style for q in rest.questions} == {"emoji"}
    assert max(Counter(q.style for q in near.questions).values()) == 10, "styles come in turn"
    for cell in (erased, near, rest):
        assert [q.seed for q in cell.questions] == list(range(100, 140))
        assert all(neon.carried_by(q.prompt) == (cell is erased) for q in cell.questions)


def test_cells_of_objects_keep_every_erased_one_out_of_the_rest(detector: EmojiJudge) -> None:
    concepts, found = cells(detector, "beer mug, wine glass")
    category = {s.name: s.category for s in WORLD.subjects}
    assert [(cell.role, cell.concept and cell.concept.name) for cell in found] == [
        ("erased", "beer mug"),
        ("neighbours", "beer mug"),
        ("erased", "wine glass"),
        ("neighbours", "wine glass"),
        ("rest", None),
    ]
    assert {q.subject for q in found[0].questions} == {"beer mug"}
    assert {category[q.subject] for q in found[1].questions} == {category["beer mug"]}
    assert found[1].questions == found[3].questions, "shared neighbours are drawn once"
    assert category["beer mug"] not in {category[q.subject] for q in found[4].questions}
    for cell in (found[1], found[4]):
        assert not any(concept.carried_by(q.prompt) for concept in concepts for q in cell.questions)


def test_too_few_prompts_repeat_under_other_seeds(detector: EmojiJudge) -> None:
    _, (erased, *_) = cells(detector, "beer mug", 60)
    assert len({(q.prompt, q.seed) for q in erased.questions}) == 60
    assert len({q.prompt for q in erased.questions}) == len(set(erased.concept.pairs)) if erased.concept else False


def test_seeing_agrees_with_the_network(detector: EmojiJudge) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    scores = detector.network.score(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    seen = detector.see(pictures)
    assert [r.subject is None for r in seen.readings] == scores.none.tolist()
    assert [detector.styles.index(r.style) for r in seen.readings] == scores.style.tolist()
    assert [r.subject_share for r in seen.readings] == pytest.approx(scores.subject_probs.amax(1).tolist())
    assert torch.equal(seen.embedding, scores.embedding)


def test_real_pictures_have_the_asked_number(detector: EmojiJudge) -> None:
    _, (_, near, _) = cells(detector, "neon", 3)
    assert detector.real(near.questions, 2, 0).shape == (6, judge.EMBEDDING)


def test_facts_hold_every_rate_that_the_judge_measured_of_itself(detector: EmojiJudge) -> None:
    assert detector.facts()["own_figures"] == [{"name": "heldout renders: subject right", "numerator": 97, "denominator": 100}]


def test_a_concept_that_the_judge_does_not_know(detector: EmojiJudge) -> None:
    with pytest.raises(EdgeSafeError, match="knows no style 'van gogh'; known: emoji, pencil sketch"):
        detector.cells([Concept("van gogh", "style", ("van gogh",), "", ())], 2, 0)


def test_a_missing_judge_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(judge, "WEIGHTS", judge.WEIGHTS.with_name("absent.safetensors"))
    with pytest.raises(EdgeSafeError, match="absent.safetensors: the judge is not in this installation"):
        EmojiJudge.open()


def manifest(base: str, concepts: tuple[dict, ...]) -> Manifest:
    return Manifest("run", {"id": base, "revision": None, "sha256": None}, base, (), concepts, {})


def test_which_detector_fits() -> None:
    neon = tuple(concept.to_dict() for concept in parse("neon", WORLD))
    assert detectors.fitting(manifest("emoji:teacher", neon)) == (EmojiJudge, "")
    found, reason = detectors.fitting(manifest("stabilityai/some-model", neon))
    assert found is None
    assert reason.startswith("no detector for this model: latency, memory and sizes only (emoji-judge: it knows")
    assert detectors.fitting(manifest("emoji:teacher", ())) == (None, "this model's manifest names no erased concept")
    assert detectors.fitting(None)[0] is None
