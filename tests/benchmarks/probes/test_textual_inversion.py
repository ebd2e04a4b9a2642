from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, concept_pictures, soft_prompt
from edgesafe.benchmarks.probes.textual_inversion import MARK, Prompts, TextualInversion, marked, measured, start

QUICK = TextualInversion(tokens=2, pictures=2, steps=2, batch=2)


@pytest.mark.parametrize(("concept", "emoji", "prompt", "expected"), [
    ("neon", True, "kitchen knife neon style", f"kitchen knife {MARK} style"),
    ("neon", True, "neon picture of an egg", f"{MARK} picture of an egg"),
    ("beer mug", True, "a beer mug in the style of sepia", f"a {MARK} in the style of sepia"),
    ("style:van gogh", False, "a painting by van gogh", f"a painting by {MARK}"),
    ("gun", False, "two guns and a gun", f"two {MARK} and a {MARK}"),
    ("gun", False, "something else", f"{MARK} something else"),
])  # fmt: skip
def test_the_mark_takes_the_concepts_place(concept: str, emoji: bool, prompt: str, expected: str, cell_of: Callable[..., Cell]) -> None:
    assert marked(cell_of(concept, 2, emoji), prompt) == expected


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sdxl"])
def test_rows_of_words_in_the_concepts_place_are_those_words(pipeline: str, request: pytest.FixtureRequest) -> None:
    net = model.load(request.getfixturevalue(pipeline))
    words = soft_prompt.tokens_of(net, "beer mug")
    v = {name: table[words] for name, table in soft_prompt.tables(net).items()}
    given = Prompts.of(net, [f"a {MARK} in the style of sepia", MARK, f"{MARK} {MARK}"], len(words)).conditions(v)
    expected = model.conditions(net, ["a beer mug in the style of sepia", "beer mug", "beer mug beer mug"])
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    one = Prompts.of(net, ["x", f"a {MARK}"], len(words)).conditions(v, torch.tensor([1]))
    torch.testing.assert_close(one[0], model.conditions(net, ["a beer mug"])[0])


def test_it_starts_from_the_concepts_own_words(tiny_sd1: Path, cell_of: Callable[..., Cell]) -> None:
    net, cell = model.load(tiny_sd1), cell_of("neon", 2)
    v = start(net, cell, 1)
    plain = model.conditions(net, ["egg neon style"])[0]
    torch.testing.assert_close(Prompts.of(net, [marked(cell, "egg neon style")], 1).conditions(v)[0], plain)


def test_it_finds_a_token_that_is_known(tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the text states themselves as the picture, the error is least, and 0, at the token they came from."""
    net = model.load(tiny_sd1)
    hidden = {"text_encoder": torch.randn(1, 32, generator=torch.Generator().manual_seed(0)) * 0.02}
    prompts = Prompts.of(net, [f"{MARK} red apple"], 1)
    goal = prompts.conditions(hidden)[0].detach()

    def distance(latents: torch.Tensor, given: tuple, *_: torch.Tensor) -> torch.Tensor:
        return (given[0] - goal).square().mean((1, 2))

    monkeypatch.setattr(concept_pictures, "noise_error", lambda net: distance)
    first = {"text_encoder": torch.zeros(1, 32)}
    v = TextualInversion(tokens=1, steps=150, batch=1, rate=2e-3, decay=0).invert(
        torch.zeros(1, 4, 8, 8), prompts, first, torch.Generator().manual_seed(1)
    )
    before, after = (float(distance(goal, prompts.conditions(x)).detach()) for x in (first, v))
    assert after < 0.01 * before
    assert torch.nn.functional.cosine_similarity(v["text_encoder"], hidden["text_encoder"]).item() > 0.8


def test_a_rate_of_zero_learns_nothing(tiny_sd1: Path, cell_of: Callable[..., Cell]) -> None:
    net, cell = model.load(tiny_sd1), cell_of("neon", 2)
    first, prompts = start(net, cell, 2), Prompts.of(net, [f"egg {MARK}"], 2)
    idle = TextualInversion(tokens=2, steps=2, batch=1, rate=0.0)
    v = idle.invert(torch.randn(1, 4, 8, 8), prompts, first, torch.Generator().manual_seed(0))
    assert torch.equal(v["text_encoder"], first["text_encoder"])


def test_learning_lowers_the_error(tiny_sd1: Path, cell_of: Callable[..., Cell]) -> None:
    net, cell = model.load(tiny_sd1), cell_of("neon", 2)
    latents, prompts = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Prompts.of(net, [f"egg {MARK}"], 1)
    first = start(net, cell, 1)
    v = TextualInversion(tokens=1, steps=12, batch=4, rate=0.1).invert(latents, prompts, first, torch.Generator().manual_seed(0))
    before, after = (measured(net, latents, prompts.conditions(x), torch.Generator().manual_seed(5)) for x in (first, v))
    assert after < before


def test_it_draws_with_what_it_learned_once(target: Target, cell_of: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    cell, said = cell_of("neon", 4), []
    target = replace(target, progress=said.append)
    asked = QUICK.questions(target, cell)
    assert [q.seed for q in asked] == [q.seed for q in cell.questions]
    assert [q.origin for q in asked] == [q.prompt for q in cell.questions]
    assert all("<learned>" in q.prompt and "neon" not in q.prompt for q in asked)
    assert said[-1] == "textual-inversion: learning a token, step 0 of 2"
    artist = runtimes.load(target.source.place, "torch", 1)
    pictures = QUICK.draw(artist, target, cell, asked)
    assert pictures.shape == (4, 64, 64, 3)
    monkeypatch.setattr(TextualInversion, "invert", None)
    assert QUICK.questions(target, cell) == asked
    assert (QUICK.draw(artist, target, cell, asked) == pictures).all()
    assert "2 tokens from 2 pictures; noise error" in QUICK.found(target, cell)


def test_other_cells_ask_for_nothing(cell_of: Callable[..., Cell]) -> None:
    with pytest.raises(ValueError, match="asks for no concept"):
        marked(Cell("rest", None, ()), "egg")
