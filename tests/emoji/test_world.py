"""The emoji world: which pairs are held out, and that what it draws is new each time, in range, and the same for the same seed."""

import re
from collections import Counter

import pytest
import torch
from torch import Generator

from edgesafe.emoji.styles import STYLES
from edgesafe.emoji.world import BACKGROUNDS, HELDOUT_SHARE, World, article, prompt

WORLD = World()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_the_shipped_world() -> None:
    assert len(WORLD.subjects) == len({s.name for s in WORLD.subjects}) == 64
    assert len(WORLD.styles) == 6
    assert all(s.core for s in WORLD.subjects)
    assert {"beer mug", "wine glass", "cocktail glass", "bomb", "dagger"} <= {s.name for s in WORLD.subjects if s.category == "unwanted"}


def test_about_the_promised_share_of_pairs_is_held_out_and_no_plain_emoji() -> None:
    heldout = World(138, tuple(STYLES)).heldout
    assert heldout.float().mean() == pytest.approx(HELDOUT_SHARE, abs=0.03)
    assert not heldout[:, list(STYLES).index("emoji")].any()
    assert WORLD.heldout.float().mean() == pytest.approx(HELDOUT_SHARE, abs=0.04)


def test_every_subject_and_every_style_is_trained_somewhere() -> None:
    assert (~WORLD.heldout).any(1).all()
    assert (~WORLD.heldout).sum(0).min() > len(WORLD.subjects) // 2


def test_a_smaller_world_holds_out_the_same_pairs() -> None:
    assert torch.equal(World(20).heldout, WORLD.heldout[:20])


def test_pairs_are_split_without_rest() -> None:
    trained, heldout = WORLD.pairs(heldout=False), WORLD.pairs(heldout=True)
    assert len(trained) + len(heldout) == 64 * 6
    assert not set(map(tuple, trained.tolist())) & set(map(tuple, heldout.tolist()))


def test_training_never_shows_a_heldout_pair() -> None:
    few = World(12, ("emoji", "neon", "mosaic"))
    assert few.heldout.any()
    batch = few.sample(700, seeded())
    assert not few.heldout[batch.subjects, batch.styles].any()
    shown = {(s, t) for s, t in zip(batch.subjects.tolist(), batch.styles.tolist(), strict=True)}
    assert shown == set(map(tuple, few.pairs(heldout=False).tolist())), "and shows all others"


def test_the_same_seed_draws_the_same_pictures_and_captions() -> None:
    a, b, c = WORLD.sample(24, seeded(1)), WORLD.sample(24, seeded(1)), WORLD.sample(24, seeded(2))
    assert torch.equal(a.pixels, b.pixels)
    assert a.captions == b.captions
    assert a.captions != c.captions


def test_pictures_have_the_shape_and_the_range() -> None:
    pixels = WORLD.sample(48, seeded()).pixels
    assert pixels.shape == (48, 3, 64, 64)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < 0.1 and 0.9 < pixels.max() <= 1


@pytest.mark.parametrize("style", range(len(WORLD.styles)), ids=WORLD.styles)
def test_two_pictures_of_one_caption_differ(style: int) -> None:
    n = 16
    x = WORLD.render(torch.arange(n), torch.full((n,), style), seeded(1))
    y = WORLD.render(torch.arange(n), torch.full((n,), style), seeded(2))
    assert (x - y).abs().flatten(1).mean(1).min() > 0.02


def test_a_named_background_is_drawn() -> None:
    n, white = 8, list(BACKGROUNDS).index("white")
    pictures = WORLD.render(torch.arange(n), torch.zeros(n, dtype=torch.long), seeded(), torch.full((n,), white))
    corners = torch.stack([pictures[..., y, x] for y in (0, -1) for x in (0, -1)], 1)  # (N, 4, 3)
    assert (corners > 0.9).all(-1).any(1).all()


def test_captions_are_lower_case_words_and_name_subject_and_style() -> None:
    batch = WORLD.sample(600, seeded(3))
    for text, s, t in zip(batch.captions, batch.subjects.tolist(), batch.styles.tolist(), strict=True):
        subject, style = WORLD.subjects[s], WORLD.styles[t]
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", text), text
        assert any(name in text for name in (subject.name, *subject.synonyms)), text
        assert style == "emoji" or style in text, text
        assert not any(other in text for other in WORLD.styles[1:] if other != style), text


def test_heldout_synonyms_are_not_training_synonyms() -> None:
    for subject in World(138).subjects:
        assert not set(subject.synonyms) & set(subject.heldout_synonyms)
        assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", text) for text in (subject.name, *subject.synonyms, *subject.heldout_synonyms))


def test_captions_come_in_several_templates() -> None:
    neon, generator = WORLD.styles.index("neon"), seeded()
    apple = next(i for i, s in enumerate(WORLD.subjects) if s.name == "red apple")
    found = Counter(WORLD.caption(apple, neon, None, generator) for _ in range(300))
    assert {"red apple neon style", "a red apple in the style of neon", "neon picture of a red apple"} <= set(found)
    plain = {WORLD.caption(apple, 0, None, generator) for _ in range(300)}
    assert {"red apple", "a red apple", "red apple emoji style"} <= plain


def test_the_background_is_named_only_where_it_shows() -> None:
    green, generator = list(BACKGROUNDS).index("green"), seeded()
    for style, named in (("emoji", True), ("mosaic", True), ("neon", False), ("sepia", False)):
        texts = [WORLD.caption(0, WORLD.styles.index(style), green, generator) for _ in range(100)]
        assert any("on a green background" in text for text in texts) == named, style


def test_prompts() -> None:
    assert prompt("shark", "neon") == "shark neon style"
    assert prompt("shark") == "shark"
    assert (article("owl"), article("shark")) == ("an", "a")


@pytest.mark.parametrize(
    ("arguments", "message"), [((64, ("emoji", "cubism")), "unknown style 'cubism'; known: emoji, pencil"), ((500,), "holds 1 to 138")]
)
def test_an_impossible_world_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(*arguments)
