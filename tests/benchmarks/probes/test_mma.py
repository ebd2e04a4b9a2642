from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesafe import model
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, concept_pictures, mma, soft_prompt
from edgesafe.benchmarks.probes.mma import MMA, coordinate_search, features
from edgesafe.concepts import carriers, parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

QUICK = MMA(words=3, steps=2, top=8, candidates=12, prompts=2)


@pytest.mark.parametrize("seed", range(4))
def test_coordinate_search_finds_what_trying_everything_finds(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    table, goal, length = F.normalize(torch.randn(10, 12, generator=draws)), torch.randn(12, generator=draws), 2
    allowed = torch.arange(1, 9)

    def similarity(rows: Tensor) -> Tensor:
        return F.cosine_similarity(rows.sum(1), goal, dim=-1)

    def clean(tokens: Tensor) -> bool:
        return tokens.tolist() != [3, 4]

    every = torch.tensor(list(product(allowed.tolist(), repeat=length)))
    every = every[[clean(row) for row in every]]
    text, best = coordinate_search(similarity, table, allowed, clean, length, 30, 8, 64, draws, str)
    assert best == pytest.approx(float(similarity(table[every]).max()))
    assert [float(similarity(table[torch.tensor(eval(text))][None])[0])] == [pytest.approx(best)]  # a list of two numbers


def test_it_gets_nearer_with_every_step_and_never_says_the_concept(tiny_sd1: Path) -> None:
    net, concepts = model.load(tiny_sd1), parse("neon", World())
    allowed = soft_prompt.words(net)
    draws = [torch.Generator().manual_seed(3) for _ in range(3)]
    found = [
        replace(QUICK, steps=steps, candidates=48, match="pooled").search(net, "egg neon style", allowed, concepts, d)
        for steps, d in zip((0, 2, 6), draws, strict=True)
    ]
    similarities = [similarity for _, similarity in found]
    assert similarities == sorted(similarities) and similarities[0] < similarities[2]
    for text, similarity in found:
        assert not carriers(text, concepts) and len(soft_prompt.tokens_of(net, text)) == 3
        ours, theirs = features(net, text, "pooled"), features(net, "egg neon style", "pooled")
        assert float(F.cosine_similarity(ours, theirs)) == pytest.approx(similarity, abs=1e-5)


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sdxl"])
@pytest.mark.parametrize("match", ["pooled", "states"])
def test_what_is_reached_is_what_the_text_reaches(pipeline: str, match: str, request: pytest.FixtureRequest) -> None:
    net, concepts = model.load(request.getfixturevalue(pipeline)), parse("neon", World())
    draws = torch.Generator().manual_seed(0)
    text, similarity = replace(QUICK, steps=1, match=match).search(net, "egg neon style", soft_prompt.words(net), concepts, draws)
    own, goal = (model.conditions(net, [prompt]) for prompt in (text, "egg neon style"))
    if pipeline == "tiny_sdxl" and match == "pooled":
        assert float(F.cosine_similarity(own[1], goal[1])) == pytest.approx(similarity, abs=1e-5)
    elif pipeline == "tiny_sd1":
        pooled = [features(net, prompt, "pooled") for prompt in (text, "egg neon style")]
        ours = pooled if match == "pooled" else [own[0][:, :7].flatten(1), goal[0][:, :7].flatten(1)]  # start, 3 words, end, 2 of padding
        assert float(F.cosine_similarity(*ours)) == pytest.approx(similarity, abs=1e-5)
    else:
        ours, theirs = (states[0][:, :7, -net.text_encoder_2.config.hidden_size :].flatten(1) for states in (own, goal))
        assert float(F.cosine_similarity(ours, theirs)) == pytest.approx(similarity, abs=1e-5)


def test_found_words_are_asked_as_text(target: Target, cell_of: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    cell, said = cell_of("neon", 5), []
    target = replace(target, progress=said.append)
    asked = QUICK.questions(target, cell)
    plain = concept_pictures.spread(cell, 2)
    assert [q.seed for q in asked] == [q.seed for q in cell.questions]
    assert [q.origin for q in asked] == [plain[i % 2].prompt for i in range(5)]
    assert not any(carriers(q.prompt, target.concepts) for q in asked)
    assert said == ["mma: words 1 of 2", "mma: words 2 of 2"]
    assert not QUICK.redraws and QUICK.control_asked == "same"
    monkeypatch.setattr(mma, "coordinate_search", None)  # all is kept: nothing is searched for again
    assert QUICK.questions(target, cell) == asked
    assert "2 prompts without the concept's words; median cosine similarity" in QUICK.found(target, cell)


def test_an_unknown_match_is_named() -> None:
    with pytest.raises(EdgeSafeError, match="mma.match 'mean' is unknown; known: pooled, states"):
        MMA(match="mean")
