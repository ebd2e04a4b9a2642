from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgesafe import model
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, concept_pictures, soft_prompt, unlearn_diff_atk
from edgesafe.benchmarks.probes.unlearn_diff_atk import UnlearnDiffAtk, one_hot, prefixed, search, simplex

QUICK = UnlearnDiffAtk(tokens=2, iterations=2, timesteps=2, noises=1, prompts=2)


def bisected(row: Tensor) -> Tensor:
    """The published code's projection: the shift mu at which clip(a - mu, 0, 1) sums to 1."""
    low, high = float(row.min()) - 1, float(row.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(0, 1).sum() > 1 else (low, middle)
    return (row - low).clamp(0, 1)


def test_projection_is_the_published_one() -> None:
    rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = simplex(rows)
    for row, found in zip(rows, ours, strict=True):
        torch.testing.assert_close(found, bisected(row))
    torch.testing.assert_close(simplex(ours), ours)  # a point of the simplex stays
    shut = rows.masked_fill(torch.arange(50) % 2 == 0, -torch.inf)
    assert (simplex(shut)[:, ::2] == 0).all()
    torch.testing.assert_close(simplex(shut)[:, 1::2], simplex(rows[:, 1::2]))


def test_search_finds_what_trying_everything_finds() -> None:
    draws = torch.Generator().manual_seed(0)
    vocabulary, k = 12, 2
    cost = torch.randn(k, vocabulary, generator=draws) / 5  # within the 1 that slopes are clipped to
    allowed = torch.ones(vocabulary, dtype=torch.bool)
    losses = {pair: float(cost[0, pair[0]] + cost[1, pair[1]]) for pair in product(range(vocabulary), repeat=k)}
    p = search(lambda hot: (hot * cost).sum(), torch.full((k, vocabulary), 1 / vocabulary), allowed, 150, 0.01, 0.1, draws)
    best = tuple(p.argmax(1).tolist())
    assert losses[best] == min(losses.values())
    allowed[list(best)] = False  # the next best, where the best is not allowed
    q = search(lambda hot: (hot * cost).sum(), (allowed / allowed.sum()).expand(k, -1), allowed, 150, 0.01, 0.1, draws)
    assert (q[:, list(best)] == 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(k))
    assert losses[tuple(q.argmax(1).tolist())] == min(value for pair, value in losses.items() if not set(pair) & set(best))


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sdxl"])
def test_a_prefix_is_what_its_tokens_typed_would_be(pipeline: str, request: pytest.FixtureRequest) -> None:
    net = model.load(request.getfixturevalue(pipeline))
    words = soft_prompt.tokens_of(net, "shark dagger")
    given = prefixed(net, "red apple neon style")(one_hot(torch.tensor(words), len(net.tokenizer)))
    for ours, theirs in zip(given, model.conditions(net, ["shark dagger red apple neon style"]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_is_that_of_finite_differences(tiny_sd1: Path) -> None:
    net, draws = model.load(tiny_sd1), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 8, 8, generator=draws) for _ in range(2))
    given, error, t = prefixed(net, "cat neon style"), concept_pictures.noise_error(net), torch.tensor([300])
    hot = one_hot(torch.tensor([9, 700]), len(net.tokenizer)).requires_grad_()
    slope = torch.autograd.grad(error(latents, given(hot), t, noise).sum(), hot)[0]
    for way in (slope / slope.norm(), (slope * (slope > slope.quantile(0.9))) / slope.norm()):
        with torch.no_grad():
            up, down = (float(error(latents, given(hot + size * way), t, noise)) for size in (0.05, -0.05))
        assert float((slope * way).sum()) == pytest.approx((up - down) / 0.1, rel=0.05) != 0


def test_it_asks_with_prefixes_and_draws_on_the_attacked_model(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell, said = cell_of("neon", 5), []
    target = replace(target, progress=said.append)
    asked = QUICK.questions(target, cell)
    plain = concept_pictures.spread(cell, 2)
    assert [q.seed for q in asked] == [q.seed for q in cell.questions]
    assert [q.origin for q in asked] == [plain[i % 2].prompt for i in range(5)]
    assert [q.anchor for q in asked] == [plain[i % 2].anchor for i in range(5)]
    assert all(q.prompt.endswith(" " + q.origin) for q in asked)
    assert said == ["the un-erased model draws the concept", "unlearn-diff-atk: prefix 1 of 2", "unlearn-diff-atk: prefix 2 of 2"]
    artist = runtimes.load(target.source.place, "torch", 1)
    pictures = QUICK.draw(artist, target, cell, asked)
    assert pictures.shape == (5, 64, 64, 3)
    _, facts = soft_prompt.kept(QUICK.place(target, cell))
    for i, tokens in enumerate(facts["tokens"]):
        assert not set(tokens) & set(artist.tokenizer.all_special_ids)
        given = prefixed(artist.model, plain[i].prompt)(one_hot(torch.tensor(tokens), len(artist.tokenizer)))
        seeds = [q.seed for q in asked[i::2]]
        again = soft_prompt.draw(artist, tuple(row.expand(len(seeds), *row.shape[1:]) for row in given), seeds, target.drawing)
        assert abs(again.astype(int) - pictures[i::2]).max() <= 1
    assert "2 prefixes; median noise error" in QUICK.found(target, cell)


def test_a_stopped_search_goes_on_with_the_same_result(
    target: Target, cell_of: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of("neon", 4)
    whole = QUICK.questions(replace(target, cache=tmp_path / "whole"), cell)

    class Stop(Exception):
        pass

    def stop(what: str) -> None:
        if what.endswith("2 of 2"):
            raise Stop

    with pytest.raises(Stop):
        QUICK.questions(replace(target, progress=stop), cell)
    said: list[str] = []
    assert QUICK.questions(replace(target, progress=said.append), cell) == whole
    assert said == ["unlearn-diff-atk: prefix 2 of 2"]
    monkeypatch.setattr(unlearn_diff_atk, "search", None)  # all is kept: nothing is searched for again
    assert QUICK.questions(target, cell) == whole


def test_the_prefix_that_is_kept_is_the_best_of_those_tried(tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, tried = model.load(tiny_sd1), []
    latents = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))

    def noted(*given: object) -> Tensor:
        tried.append(search(*given))
        return tried[-1]

    monkeypatch.setattr(unlearn_diff_atk, "search", noted)
    probe = UnlearnDiffAtk(tokens=2, iterations=2, timesteps=4, noises=1)
    tokens, plain, best = probe.attack(net, "cat neon style", latents, torch.Generator().manual_seed(2))
    assert len(tried) == 4
    fixed = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    error, steps = concept_pictures.noise_error(net), torch.tensor([125, 375, 625, 875])
    states = {tuple(p.argmax(1).tolist()): prefixed(net, "cat neon style")(one_hot(p.argmax(1), p.shape[1]))[0] for p in tried}
    with torch.no_grad():
        four = latents.expand(4, -1, -1, -1)
        errors = {key: float(error(four, (s.expand(4, -1, -1),), steps, fixed).mean()) for key, s in states.items()}
        own = float(error(four, (model.encode(net, ["cat neon style"] * 4),), steps, fixed).mean())
    assert errors[tuple(tokens)] == min(errors.values()) == pytest.approx(best)
    assert plain == pytest.approx(own)
    assert np.isfinite(best)
