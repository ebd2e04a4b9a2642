import copy
import math
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from edgesafe import model, pruners
from edgesafe.concepts import parse
from edgesafe.data import TextConditions, generator, silent
from edgesafe.emoji.world import World
from edgesafe.erasers import CLOSED_FORM, Edit
from edgesafe.erasers.concept_prune import (
    FILLS,
    ConceptPrune,
    listening,
    refill,
    second_linears,
    serves,
    token_squares,
    union,
    whole_channels,
)  # fmt: skip
from edgesafe.errors import EdgeSafeError

QUICK = {"timesteps": 2, "steps": 10, "pairs": 3, "ratio": 0.05, "object_ratio": 0.05}


def edit_of(net: model.TextToImage, erase: str = "neon", seed: int = 0) -> Edit:
    concepts = parse(erase, World())
    return Edit(copy.deepcopy(net.unet), net, concepts, ("a red apple",), TextConditions(net), seed, silent)


@pytest.fixture(scope="module")
def net(tiny_sd1: Path) -> model.TextToImage:
    return model.load(tiny_sd1)


def test_scores_and_choice_against_loops():
    """S_ij = |W_ij| ||A_j||, the top of each row, above the base: written out for each weight."""
    draws = generator(0, "toy")
    weight = torch.randn(5, 20, generator=draws)
    batches = {side: torch.randn(2, 4, 20, generator=draws) for side in ("target", "base")}  # 2 prompts of 4 tokens
    norms = {}
    for side, a in batches.items():
        rows = [[float(x) for x in row] for prompt in a for row in prompt]
        rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
        norms[side] = [math.sqrt(sum(row[j] ** 2 for row in rows)) for j in range(20)]
    expected = torch.zeros(5, 20, dtype=torch.bool)
    for i in range(5):
        scores = [abs(float(weight[i, j])) * norms["target"][j] for j in range(20)]
        for j in sorted(range(20), key=lambda j: -scores[j])[:3]:  # 0.15 of 20
            expected[i, j] = scores[j] > abs(float(weight[i, j])) * norms["base"][j]
    found = serves(weight, token_squares(batches["target"]).sqrt(), token_squares(batches["base"]).sqrt(), 0.15)
    assert torch.equal(found, expected) and 0 < found.sum() < 15


def test_the_union_is_over_steps():
    draws = generator(1, "toy")
    weight, target, base = torch.randn(4, 30, generator=draws), torch.rand(3, 30, generator=draws), torch.rand(3, 30, generator=draws)
    each = [serves(weight, target[t], base[t], 0.1) for t in range(3)]
    found = union(weight, target, base, 0.1)
    assert torch.equal(found, each[0] | each[1] | each[2]) and found.sum() > each[0].sum()


def test_whole_channels_are_those_most_often_chosen():
    mask = torch.tensor([[1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    assert whole_channels(mask, 0.2).tolist() == [[True, False, False, False, False]] * 3
    assert whole_channels(mask, 0.8).any(0).tolist() == [True, True, True, False, False]  # none that no row chose


def test_noise_has_the_deviation_of_the_rows_other_weights_and_leaves_these():
    draws = generator(2, "toy")
    scales = torch.tensor([0.01, 1.0, 5.0])[:, None]
    weight = torch.randn(3, 20_000, generator=draws) * scales
    mask = torch.rand(3, 20_000, generator=draws) < 0.5
    weight[mask] *= 10  # what is taken out must not count
    before = weight.clone()
    refill(weight, mask, generator(3, "fill"))
    assert torch.equal(weight[~mask], before[~mask]) and not (weight == 0).any()
    for row, chosen, scale in zip(weight, mask, scales, strict=True):
        assert float(row[chosen].std()) == pytest.approx(float(scale), rel=0.03)
    refill(weight, mask, None)
    assert (weight[mask] == 0).all()


def test_feed_forward_layers_are_found_whatever_the_depth(net: model.TextToImage, tiny_sd2: Path, tiny_sdxl: Path):
    def expected(unet: nn.Module) -> set[str]:
        return {name for name, m in unet.named_modules() if name.endswith(".ff.net.2") and isinstance(m, nn.Linear)}

    nets = [net.unet, model.load(tiny_sd2).unet, model.load(tiny_sdxl).unet, pruners.named("bk-sdm-tiny").prune(net.unet).unet]
    counts = [len(second_linears(unet)) for unet in nets]
    assert all(set(second_linears(unet)) == expected(unet) for unet in nets)
    assert counts[0] == counts[1] == 16 and counts[3] < 16
    without = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, mid_block_type=None,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(EdgeSafeError, match="no feed-forward layer"):
        second_linears(without)


def test_what_is_heard_does_not_depend_on_the_batch(net: model.TextToImage, monkeypatch: pytest.MonkeyPatch):
    work, eraser = edit_of(net), ConceptPrune(**QUICK)
    layers, prompts = second_linears(work.unet), [p for p, _ in work.concepts[0].pairs[:5]]
    together = eraser.norms(work, layers, prompts)
    monkeypatch.setattr("edgesafe.erasers.concept_prune.BATCH", 2)
    apart = eraser.norms(work, layers, prompts)
    for name, norms in together.items():
        assert norms.shape == (2, layers[name].in_features)
        torch.testing.assert_close(norms, apart[name], rtol=1e-4, atol=1e-6)
    rows = 2 * 5 * 64  # both halves of guidance, prompts, tokens of the first level's 8 x 8
    assert float(together["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"][0].square().sum()) == pytest.approx(rows)


def test_listening_ends_with_its_context():
    layer = nn.Linear(3, 2)
    with listening({"a": layer}, 1) as heard:
        layer(torch.ones(1, 3))
    layer(torch.ones(1, 3))
    assert float(heard.squares["a"].sum()) == pytest.approx(1.0)


def test_limits_leave_the_weights(net: model.TextToImage):
    nothing = edit_of(net)
    assert ConceptPrune(**QUICK | {"ratio": 0.0}).edit(nothing)["weights"] == 0
    same = edit_of(net)
    pairs = tuple((a, a) for _, a in same.concepts[0].pairs)
    same.concepts[0].__dict__["pairs"] = pairs  # base and target alike
    assert ConceptPrune(**QUICK).edit(same)["weights"] == 0
    for work in (nothing, same):
        assert all(torch.equal(a, b) for a, b in zip(work.unet.parameters(), net.unet.parameters(), strict=True))


@pytest.mark.parametrize("fill", FILLS)
def test_only_second_linears_change_as_the_fill_says(net: model.TextToImage, fill: str):
    work, again = edit_of(net, "neon, beer"), edit_of(net, "neon, beer")
    eraser = ConceptPrune(**QUICK | {"fill": fill})
    if fill == "zero":
        with pytest.warns(UserWarning, match="where the concept was"):
            numbers = eraser.edit(work)
        with pytest.warns(UserWarning):
            eraser.edit(again)
    else:
        numbers = eraser.edit(work)
        eraser.edit(again)
    before, layers = dict(net.unet.named_parameters()), {f"{name}.weight" for name in second_linears(work.unet)}
    differ = {name: p != before[name] for name, p in work.unet.named_parameters() if not torch.equal(p, before[name])}
    assert set(differ) <= layers and sum(int(d.sum()) for d in differ.values()) == numbers["weights"] > 0
    zeros = sum(int((p == 0).sum()) for name, p in work.unet.named_parameters() if name in layers)
    assert zeros == (numbers["weights"] if fill == "zero" else 0)
    if fill == "channels":
        assert all((d.all(0) == d.any(0)).all() for d in differ.values())
    assert all(torch.equal(a, b) for a, b in zip(work.unet.parameters(), again.unet.parameters(), strict=True))  # by the seed alone


def test_sdxl_and_v_prediction(tiny_sdxl: Path, tiny_sd2: Path):
    for folder in (tiny_sdxl, tiny_sd2):
        assert ConceptPrune(**QUICK).edit(edit_of(model.load(folder)))["weights"] > 0


def test_messages():
    with pytest.raises(EdgeSafeError, match="known: noise, channels, zero"):
        ConceptPrune(fill="zeros")
    with pytest.raises(EdgeSafeError, match="eraser.ratio 1.5"):
        ConceptPrune(ratio=1.5)
    with pytest.raises(EdgeSafeError, match="needs 1 to eraser.steps, 50"):
        ConceptPrune(timesteps=60)
    assert CLOSED_FORM["concept-prune"] is ConceptPrune
