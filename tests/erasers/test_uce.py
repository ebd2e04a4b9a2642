import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from edgesafe import model
from edgesafe.concepts import parse
from edgesafe.data import TextConditions, silent
from edgesafe.emoji.world import World
from edgesafe.erasers import Edit
from edgesafe.erasers.uce import UCE, aligned, edit_map, edit_weight, effect, gram, keys_and_values
from edgesafe.errors import EdgeSafeError
from edgesafe.pruners.bk_sdm import BKSDM

KEEP = ("a dagger", "beer mug mosaic style", "a kitchen knife in the style of sepia", "blueprint picture of a dagger")


def toy(n: int = 5, m: int = 7, width: int = 6) -> tuple[torch.Tensor, ...]:
    """W (4, D), E and A (n, D), P (m, D)."""
    draws = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, width, generator=draws, dtype=torch.float64) for rows in (4, n, n, m))


def work_on(folder: Path, erase: str = "neon", keep: tuple[str, ...] = KEEP) -> Edit:
    """The concepts by six of their prompts each."""
    net = model.load(folder)
    concepts = tuple(replace(c, pairs=c.pairs[:6]) for c in parse(erase, World()))
    return Edit(copy.deepcopy(net.unet), net, concepts, keep, TextConditions(net), 0, silent)


def objective(V, W, E, A, P, lambda_, erase, keep):
    erased, kept = (E @ V.T - A @ W.T).square().sum(), (P @ (V - W).T).square().sum()
    return erase * erased + keep * kept + lambda_ * (V - W).square().sum()


@pytest.mark.parametrize("weights", [(0.5, 1.0, 1.0), (0.1, 3.0, 0.2), (2.0, 0.4, 0.0)])
def test_the_weight_is_where_brute_force_finds_the_least_objective(weights: tuple[float, float, float]):
    W, E, A, P = toy()
    V = W.clone().requires_grad_(True)
    search = torch.optim.LBFGS([V], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = objective(V, W, E, A, P, *weights)
        loss.backward()
        return loss

    search.step(closure)
    assert float((V - W).detach().norm()) > 0.5
    torch.testing.assert_close(edit_weight(W, E, A, P, *weights), V.detach(), rtol=0, atol=1e-6)


def test_the_weight_is_the_least_squares_solution_of_the_stacked_rows():
    W, E, A, P = toy()
    lambda_, erase, keep = 0.3, 2.0, 0.7
    given = torch.cat([lambda_**0.5 * torch.eye(6, dtype=torch.float64), erase**0.5 * E, keep**0.5 * P])
    wanted = torch.cat([lambda_**0.5 * W.T, erase**0.5 * A @ W.T, keep**0.5 * P @ W.T])
    torch.testing.assert_close(edit_weight(W, E, A, P, lambda_, erase, keep), torch.linalg.lstsq(given, wanted).solution.T)


def test_limits():
    W, E, A, P = toy(n=3)
    torch.testing.assert_close(edit_weight(W, E, A, P, 1e12, 1.0, 1.0), W)
    mapped = edit_weight(W, E, A, P, 1e-9, 1.0, 0.0)
    torch.testing.assert_close(E @ mapped.T, A @ W.T, rtol=0, atol=1e-6)
    assert float((E @ W.T - A @ W.T).abs().max()) > 1
    torch.testing.assert_close(edit_weight(W, E, E, P, 0.5, 1.0, 1.0), W)


def test_a_state_orthogonal_to_the_concept_is_untouched_and_a_kept_one_moves_less_the_more_it_is_kept():
    W, E, A, P = toy(n=2)
    away = torch.linalg.svd(E).Vh[2:]  # (4, D), orthogonal to both concept states
    torch.testing.assert_close(away @ edit_weight(W, E, A, P, 0.5, 1.0, 0.0).T, away @ W.T)
    moved = [float((P[:3] @ (edit_weight(W, E, A, P[:3], 0.5, 1.0, keep) - W).T).norm()) for keep in (0.0, 1.0, 100.0, 1e6)]
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-3 * moved[0]


def test_the_numbers_are_those_of_the_weights_themselves():
    W, E, A, P = toy()
    other = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    M = edit_map(E, A, P, 0.5, 1.0, 1.0)
    found = effect(gram([W, other]), M, E, A, P)

    def far(before: torch.Tensor, after: torch.Tensor) -> float:
        return float(sum((after @ w.T - before @ w.T).square().sum() for w in (W, other)) ** 0.5)

    assert found["concept_left"] == pytest.approx(far(A, E @ M.T) / far(A, E))
    assert found["kept_moved"] == pytest.approx(far(P, P @ M.T) / far(0 * P, P))


def test_tokens_face_each_other():
    """Place 0 is the start token; ids 1 to 9 are words; length 8."""
    face = {tokens: aligned([1, 2, 5, 3], [1, 2, 6, 3], tokens, 8) for tokens in ("last", "text", "all")}
    assert face["last"] == [(3, 3)]
    assert face["text"] == [(3, 3), (4, 4), (5, 5)]
    assert face["all"] == [*face["text"], (6, 6), (7, 7)]
    longer = aligned([1, 5, 6, 3], [1, 7, 3], "all", 8)
    assert longer == [(2, 2), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6)], "the surplus faces the anchor's last, the ends each other"
    dropped = aligned([5, 6, 3], [3], "text", 8)
    assert dropped == [(1, 0), (2, 0), (3, 1), (4, 2)], "without an anchor: the token before"
    assert aligned([5, 6, 3], [3], "last", 8) == [(2, 0)]
    assert aligned([5], [7, 6], "last", 8) == [(1, 2)]
    assert aligned([6], [7, 6], "last", 8) == [(1, 2)], "an anchor of more words faces its last, never the start token"
    assert aligned([5, 1, 6], [7, 1, 8], "all", 6) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], "two concepts in one prompt"
    assert aligned([5], [1, 2, 7], "all", 5) == [(1, 1), (2, 4), (3, 4), (4, 4)], "no further than the last place"
    assert aligned([1], [1], "all", 8) == []


def test_the_states_are_those_that_the_unet_reads():
    work = work_on(Path("emoji:student"), keep=("a dagger",))
    E, A, P = UCE("last", "name").states(work)
    torch.testing.assert_close(E, work.texts(["neon"])[0][:, 1].double())
    torch.testing.assert_close(A, work.texts(["emoji"])[0][:, 1].double())
    start = model.encode(work.net, ["a dagger", "emoji", ""]).double()
    torch.testing.assert_close(P, torch.cat([start[0, :4], start[1, :3], start[2, :2]]))
    every, anchors, kept = UCE("all", "pairs").states(work)
    assert len(every) == len(anchors) > 6 * 60 and len(kept) == 77 * (1 + 6 + 1)


@pytest.mark.parametrize("family", ["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
@pytest.mark.parametrize("tokens", ["last", "text", "all"])
def test_contract_keys_and_values_change_and_nothing_else(family: str, tokens: str, request: pytest.FixtureRequest):
    work = work_on(request.getfixturevalue(family))
    before = copy.deepcopy(work.unet.state_dict())
    numbers = UCE(tokens).edit(work)
    changed = {name for name, weight in work.unet.state_dict().items() if not weight.equal(before[name])}
    assert changed == {name for name in before if ".attn2.to_k.weight" in name or ".attn2.to_v.weight" in name}
    assert numbers["weights_edited"] == len(changed)
    assert numbers["concept_left"] < 1 and numbers["kept_moved"] < 0.2


def test_every_pruned_unet_has_its_keys_and_values_edited(tiny_sd1: Path):
    work = work_on(tiny_sd1)
    student = BKSDM("tiny").prune(work.net.unet).unet
    narrower = student.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    kept = torch.nn.Linear(32, 8, bias=False).requires_grad_(False)
    kept.weight.copy_(narrower.to_k.weight[:8])
    narrower.to_k = kept  # as of two heads of four
    before = [w.clone() for w in keys_and_values(student)]
    assert UCE().edit(replace(work, unet=student))["weights_edited"] == len(before) == 2 * (3 + 6)
    E, A, P = UCE().states(work)
    edited = [edit_weight(w.double(), E, A, P, 0.5, 1 / len(E), 1 / len(P)).float() for w in before]
    for now, alone in zip(keys_and_values(student), edited, strict=True):
        torch.testing.assert_close(now.detach(), alone)


def test_two_concepts_at_once_take_each_other_out_of_their_anchors():
    work = work_on(Path("emoji:student"), "neon, beer mug")
    both = (("beer mug neon style", ""), ("a beer mug in the style of neon", ""))
    neon, mug = work.concepts
    concepts = (replace(neon, pairs=both, anchor="emoji"), replace(mug, pairs=both, anchor=""))
    E, A, _ = UCE("last").states(replace(work, concepts=concepts))
    asked, anchors = (work.texts(list(prompts))[0].double() for prompts in (dict(both), ("emoji style", "in the style of emoji")))
    torch.testing.assert_close(E, torch.stack([asked[0, 3], asked[1, 3], asked[1, 8]]))  # neon; mug, neon
    torch.testing.assert_close(A, torch.stack([anchors[0, 1], anchors[1, 0], anchors[1, 5]]))  # emoji; the start, emoji


def test_messages(tiny_sd1: Path):
    with pytest.raises(EdgeSafeError, match="eraser.tokens 'first' is unknown; known: all, text, last"):
        UCE(tokens="first")
    with pytest.raises(EdgeSafeError, match="eraser.prompts 'words' is unknown; known: pairs, name"):
        UCE(prompts="words")
    with pytest.raises(EdgeSafeError, match="eraser.lambda 0: needs more than 0"):
        UCE(lambda_=0)
    with pytest.raises(EdgeSafeError, match="eraser.keep -1: needs 0 or more"):
        UCE(keep=-1)
    work = work_on(tiny_sd1)
    same = tuple(replace(c, anchor=c.name) for c in work.concepts)
    with pytest.raises(EdgeSafeError, match="--erase neon: the anchor's prompts read as the concept's do"):
        UCE().edit(replace(work, concepts=same))
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}
    without = UNet2DConditionModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    with pytest.raises(EdgeSafeError, match="no cross-attention"):
        keys_and_values(without)
