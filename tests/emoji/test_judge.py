"""The judge's contract, on an untrained network; and what the packaged weights must be able to do, on fresh renders."""

import pytest
import torch
from torch import Generator

from edgesafe.emoji import broken, judge
from edgesafe.emoji.judge import Classes, Judge
from edgesafe.emoji.world import World

WORLD = World()
packaged = pytest.mark.skipif(not judge.FACTS.is_file() or not judge.WEIGHTS.is_file(), reason="the judge is not in this checkout")


@pytest.fixture(scope="module")
def untrained() -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judge(Classes(("apple", "shark", "bomb"), ("emoji", "neon"))).eval()


def test_shapes_and_probabilities(untrained: Judge) -> None:
    scores = untrained.score(torch.rand(5, 3, 64, 64, generator=Generator().manual_seed(0)))
    assert scores.subject_probs.shape == (5, 4), "three subjects and none"
    assert scores.style_probs.shape == (5, 2)
    assert scores.embedding.shape == (5, judge.EMBEDDING)
    assert torch.allclose(scores.subject_probs.sum(1), torch.ones(5))
    assert torch.allclose(scores.style_probs.sum(1), torch.ones(5))


def test_the_last_column_is_none() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    scores = judge.Scores(probs, torch.tensor([[0.4, 0.6], [0.9, 0.1]]), torch.zeros(2, 4))
    assert scores.none.tolist() == [True, False]
    assert scores.subject.tolist() == [2, 0]
    assert scores.style.tolist() == [1, 0]


def test_scores_do_not_depend_on_the_batch(untrained: Judge) -> None:
    pixels = torch.rand(7, 3, 64, 64, generator=Generator().manual_seed(0))
    whole, split = untrained.score(pixels), untrained.score(pixels, batch=3)
    assert torch.allclose(whole.embedding, split.embedding, atol=1e-5)


def test_no_pictures_give_no_scores(untrained: Judge) -> None:
    scores = untrained.score(torch.empty(0, 3, 64, 64))
    assert scores.none.shape == (0,)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 3, 32, 32), "takes pictures (N, 3, 64, 64), not (2, 3, 32, 32)"),
        (torch.zeros(3, 64, 64), "not (3, 64, 64)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "floating-point pictures in [0, 1]"),
        (torch.full((2, 3, 64, 64), 255.0), "in [0, 1]"),
        (torch.full((2, 3, 64, 64), torch.nan), "in [0, 1]"),
    ],
)
def test_what_is_no_picture_is_refused(untrained: Judge, pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        untrained.score(pixels)
    assert message in str(caught.value)


def test_half_precision_pictures_are_taken(untrained: Judge) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=Generator().manual_seed(0))
    assert torch.allclose(untrained.score(pixels.half()).embedding, untrained.score(pixels).embedding, atol=0.05)


def test_it_fits_into_four_megabytes() -> None:
    network = Judge(Classes(tuple(s.name for s in WORLD.subjects), WORLD.styles))
    assert sum(p.numel() for p in network.parameters()) < 2_000_000
    if judge.WEIGHTS.is_file():
        assert judge.WEIGHTS.stat().st_size <= 4 * 2**20


@packaged
def test_the_packaged_judge_knows_this_world() -> None:
    network = judge.load()
    assert network.classes == Classes(tuple(s.name for s in WORLD.subjects), WORLD.styles)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert len(judge.sha256()) == 64


@packaged
def test_its_own_errors_are_on_record() -> None:
    errors = judge.load().facts["errors"]
    for kind, floor in (("subject", 0.95), ("style", 0.98)):
        rate = errors[f"heldout renders: {kind} right"]
        assert rate["denominator"] >= 512
        assert rate["numerator"] / rate["denominator"] >= floor
    for name, rate in errors.items():
        assert 0 <= rate["numerator"] <= rate["denominator"], name


@packaged
def test_it_recognises_fresh_renders_of_heldout_pairs() -> None:
    pairs = WORLD.pairs(heldout=True).repeat(3, 1)
    pixels = WORLD.render(pairs[:, 0], pairs[:, 1], Generator().manual_seed(99))
    scores = judge.load().score(pixels)
    assert (scores.subject == pairs[:, 0]).float().mean() >= 0.95
    assert (scores.style == pairs[:, 1]).float().mean() >= 0.98


@packaged
@pytest.mark.parametrize("kind", broken.BROKEN)
def test_it_calls_broken_pictures_broken(kind: str) -> None:
    pixels = broken.broken(kind, WORLD, 64, Generator().manual_seed(98)).pixels
    assert judge.load().score(pixels).none.float().mean() >= 0.75


@packaged
def test_its_embedding_tells_styles_and_subjects_apart() -> None:
    """Nearer to another picture of the same caption than to any other caption's, nine times in ten."""
    pairs = torch.cartesian_prod(torch.arange(0, 64, 8), torch.arange(6))
    network = judge.load()
    a, b = (network.score(WORLD.render(pairs[:, 0], pairs[:, 1], Generator().manual_seed(seed))).embedding for seed in (96, 97))
    nearest = torch.cdist(a, b).argmin(1)
    assert (nearest == torch.arange(len(pairs))).float().mean() >= 0.9
