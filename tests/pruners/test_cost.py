"""Against torch's own counter of operations, the published sizes of Stable Diffusion 1.4, what a cut really takes out, and brute force."""

from itertools import product

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from edgesafe.errors import EdgeSafeError
from edgesafe.pruners import named
from edgesafe.pruners.cost import Cost, Size, Unit, cost, count, solve
from edgesafe.pruners.units import KINDS, Group, groups
from edgesafe.pruners.width import cut

TOKENS = 7
SHAPES = {
    "sd1": {"attention_head_dim": 4},
    "sd2": {"attention_head_dim": (2, 4, 6, 6), "use_linear_projection": True},
    "sdxl": {
        "attention_head_dim": (2, 4, 6, 6),
        "transformer_layers_per_block": (1, 2, 1, 1),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
}


def toy(**changes) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"sample_size": 8, "block_out_channels": (16, 32, 48, 48), "layers_per_block": 2, "norm_num_groups": 8}
        return UNet2DConditionModel(**settings | {"cross_attention_dim": 32} | changes)


@pytest.mark.parametrize("name", SHAPES)
def test_macs_are_half_of_the_operations_that_torch_counts(name: str):
    unet = toy(**SHAPES[name])
    given = {"added_cond_kwargs": {"text_embeds": torch.ones(1, 20), "time_ids": torch.ones(1, 6)}} if name == "sdxl" else {}
    with FlopCounterMode(display=False) as operations, torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        unet(torch.ones(1, 4, 8, 8), torch.tensor([3]), torch.ones(1, TOKENS, 32), **given)
    spent = cost(unet, (4, 8, 8), TOKENS)
    assert 2 * spent.total.macs == operations.get_total_flops()
    assert spent.total.params == sum(p.numel() for p in unet.parameters())
    assert unet.conv_in.weight.device.type == "cpu"
    sides = [f"{side}.{i}" for side in ("down", "up") for i in range(4)]
    assert list(spent.blocks) == ["conv_in", "time embedding", *sides, "mid", "out"]


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_a_cut_takes_out_what_its_units_cost(name: str):
    unet, draws = toy(**SHAPES[name]), torch.Generator().manual_seed(1)
    found = groups(unet)
    before = cost(unet, (4, 8, 8), TOKENS, found)
    sizes = {g.name: int(torch.randint(1, g.count + 1, (1,), generator=draws)) for g in found}
    keep = {name: torch.arange(n) for name, n in sizes.items()}
    gone = [(g.count - sizes[g.name], before.units[g.name]) for g in found]
    after = cost(cut(unet, keep).unet, (4, 8, 8), TOKENS).total
    assert after.macs == before.total.macs - sum(n * unit.macs for n, unit in gone)
    assert after.params == before.total.params - sum(n * unit.params for n, unit in gone)


def test_stable_diffusion_1_4():
    """860 M parameters and, without the attentions' products, as its 339 GMACs are usually counted, 339 GMACs; BK-SDM 580, 483, 324 M."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    assert round(cost(unet, (4, 64, 64), 77).total.params / 1e6) == 860
    macs = count(unet, (4, 64, 64), 77)
    layers = sum(n for name, n in macs.items() if not name.endswith(("attn1", "attn2")))
    assert round(layers / 1e9) == 339
    assert round(sum(macs.values()) / 1e9) == 402
    students = [named(f"bk-sdm-{variant}").prune(unet).unet for variant in ("base", "small", "tiny")]
    assert [cost(s, (4, 64, 64), 77).total.params / 1e6 for s in students] == pytest.approx([580, 483, 324], abs=1)


def world(units: dict[str, tuple[int, int, int]], fixed: int = 0, width: int = 1) -> tuple[list[Group], Cost]:
    """Groups of (count, least, MACs of a unit)."""
    found = [Group(name, name, KINDS[0], count, least) for name, (count, least, _) in units.items()]
    spent = {"all": Size(fixed + sum(count * macs for count, _, macs in units.values()), 1)}
    return found, Cost(spent, {name: Unit(macs, 1, width) for name, (_, _, macs) in units.items()})


def kept_macs(spent: Cost, found: list[Group], keep: dict[str, torch.Tensor]) -> int:
    return spent.total.macs - sum((g.count - len(keep[g.name])) * spent.units[g.name].macs for g in found)


@pytest.mark.parametrize("seed", range(5))
def test_solve_is_the_best_choice_where_units_cost_alike(seed: int):
    found, spent = world({"a": (4, 1, 3), "b": (3, 2, 3)}, fixed=4)
    draws = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.rand(g.count, generator=draws) for g in found}
    for share in (0.6, 0.75, 1.0):
        keep = solve(found, scores, spent, share)
        choices = []
        for bits in product((0, 1), repeat=7):
            a, b = torch.tensor(bits[:4]), torch.tensor(bits[4:])
            if a.sum() >= 1 and b.sum() >= 2 and 4 + 3 * sum(bits) <= share * spent.total.macs:
                choices.append(float((scores["a"] * a).sum() + (scores["b"] * b).sum()))
        assert sum(float(scores[name][rows].sum()) for name, rows in keep.items()) == pytest.approx(max(choices))


@pytest.mark.parametrize("seed", range(5))
def test_solve_is_within_one_unit_of_the_best_choice(seed: int):
    """The greedy choice for a knapsack loses at most the score of the one unit that does not fit."""
    found, spent = world({"a": (4, 1, 7), "b": (3, 1, 2), "c": (3, 1, 4)}, fixed=5)
    draws = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.rand(g.count, generator=draws) * spent.units[g.name].macs for g in found}
    for share in (0.5, 0.7, 0.9):
        keep = solve(found, scores, spent, share)
        left = kept_macs(spent, found, keep)
        assert share * spent.total.macs - 7 < left <= share * spent.total.macs
        best = 0.0
        for sizes in product(*(range(g.least, g.count + 1) for g in found)):
            if 5 + sum(n * spent.units[g.name].macs for n, g in zip(sizes, found, strict=True)) <= share * spent.total.macs:
                best = max(best, sum(float(scores[g.name].topk(n).values.sum()) for n, g in zip(sizes, found, strict=True)))
        assert sum(float(scores[name][rows].sum()) for name, rows in keep.items()) >= best - max(float(s.max()) for s in scores.values())


def test_solve_keeps_the_best_units_of_a_group_and_the_least_that_must_stay():
    found, spent = world({"a": (5, 2, 1), "b": (5, 1, 1)})
    scores = {"a": torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3]), "b": torch.tensor([5.0, 9.0, 7.0, 6.0, 8.0])}
    assert {name: rows.tolist() for name, rows in solve(found, scores, spent, 0.5).items()} == {"a": [1, 3], "b": [1, 2, 4]}
    assert {name: len(rows) for name, rows in solve(found, scores, spent, 1.0).items()} == {"a": 5, "b": 5}


def test_parameters_are_a_target_too():
    unet = toy()
    found = groups(unet)
    spent = cost(unet, (4, 8, 8), TOKENS, found)
    keep = solve(found, {g.name: torch.ones(g.count) for g in found}, spent, 0.6, of="params")
    left = cost(cut(unet, keep).unet, (4, 8, 8), TOKENS).total.params / spent.total.params
    assert 0.6 - max(unit.params for unit in spent.units.values()) / spent.total.params < left <= 0.6


def test_widths_are_multiples_where_they_were():
    found, spent = world({"even": (12, 1, 1), "odd": (5, 1, 1)}, width=2)
    keep = solve(found, {"even": torch.rand(12), "odd": torch.rand(5)}, spent, 0.7, multiple=8)
    assert len(keep["even"]) % 4 == 0
    assert len(keep["even"]) + len(keep["odd"]) <= 0.7 * 17


def test_messages():
    found, spent = world({"a": (4, 1, 1)}, fixed=4)
    with pytest.raises(EdgeSafeError, match=r"--macs 0\.5: inner widths alone cannot go that low.*62% is left.*bk-sdm-tiny"):
        solve(found, {"a": torch.ones(4)}, spent, 0.5)
    with pytest.raises(EdgeSafeError, match=r"--params 1\.2: needs a share"):
        solve(found, {"a": torch.ones(4)}, spent, 1.2, of="params")
    with pytest.raises(EdgeSafeError, match="known: macs, params"):
        solve(found, {"a": torch.ones(4)}, spent, 0.5, of="watts")
