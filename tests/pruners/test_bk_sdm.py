"""Against BK-SDM's own block lists (Nota-NetsPresso/BK-SDM, README and unet_config), written out here."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from edgesafe.errors import EdgeSafeError
from edgesafe.losses import tapped
from edgesafe.pruners import PRUNERS, matched_features, named
from edgesafe.pruners.bk_sdm import BKSDM

SD2 = {"attention_head_dim": (2, 4, 6, 6), "use_linear_projection": True}
EMOJI = {"attention_head_dim": 4, "in_channels": 8, "out_channels": 8}
# What each variant keeps of the teacher: modules of (resnets, attentions) by student place -> teacher place.
DOWN = {f"down_blocks.{i}.resnets.0": f"down_blocks.{i}.resnets.0" for i in range(4)}
UP = {f"up_blocks.{i}.resnets.{a}": f"up_blocks.{i}.resnets.{b}" for i in range(4) for a, b in ((0, 0), (1, 2))}
UP_TINY = {f"up_blocks.{i}.resnets.{a}": f"up_blocks.{i + 1}.resnets.{b}" for i in range(3) for a, b in ((0, 0), (1, 2))}


def toy(**changes) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"sample_size": 8, "block_out_channels": (16, 32, 48, 48), "layers_per_block": 2, "norm_num_groups": 8}
        return UNet2DConditionModel(**settings | {"cross_attention_dim": 32} | changes)


@pytest.mark.parametrize("shape", [SD2, EMOJI], ids=["sd2", "emoji"])
@pytest.mark.parametrize("variant", ["base", "small", "tiny"])
def test_blocks_are_those_of_bk_sdm(variant: str, shape: dict):
    teacher = toy(**shape)
    pruned = BKSDM(variant).prune(teacher)
    resnets = {name for name, module in pruned.unet.named_modules() if type(module).__name__ == "ResnetBlock2D"}
    kept = {**DOWN, **UP} if variant != "tiny" else {**{k: v for k, v in DOWN.items() if "3" not in k}, **UP_TINY}
    mid = {f"mid_block.resnets.{i}" for i in (0, 1)} if variant == "base" else set()
    assert resnets == set(kept) | mid
    for student_name, teacher_name in kept.items():
        mine, theirs = pruned.unet.get_submodule(student_name), teacher.get_submodule(teacher_name)
        assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))
    skipped = teacher.get_submodule("up_blocks.1.resnets.1.conv1").weight
    assert not any(w.shape == skipped.shape and torch.equal(w, skipped) for w in pruned.unet.parameters())


@pytest.mark.parametrize("shape", [SD2, EMOJI], ids=["sd2", "emoji"])
@pytest.mark.parametrize("name", [name for name, pruner in PRUNERS.items() if isinstance(pruner, BKSDM)])
def test_students_are_stock_run_and_match_their_teachers_features(name: str, shape: dict, tmp_path):
    teacher = toy(**shape)
    pruned = named(name).prune(teacher)
    pruned.unet.save_pretrained(tmp_path)
    stock = UNet2DConditionModel.from_pretrained(tmp_path)
    x, t, text = torch.randn(1, teacher.config.in_channels, 8, 8), torch.tensor([5]), torch.randn(1, 7, 32)
    with torch.no_grad(), tapped(stock, list(pruned.features)) as mine, tapped(teacher, list(pruned.features.values())) as theirs:
        assert stock(x, t, text).sample.shape == x.shape
        teacher(x, t, text)
    assert [mine[a].shape for a in pruned.features] == [theirs[b].shape for b in pruned.features.values()]
    assert matched_features(dict(stock.config), dict(teacher.config)) == pruned.features


def test_the_student_is_a_copy():
    teacher = toy()
    pruned = BKSDM("base").prune(teacher)
    with torch.no_grad():
        pruned.unet.conv_in.weight.zero_()
    assert teacher.conv_in.weight.abs().sum() > 0


@pytest.mark.parametrize(("variant", "millions"), [("base", (575, 585)), ("small", (480, 490)), ("tiny", (320, 330))])
def test_parameters_at_the_size_of_sd_1_4(variant: str, millions: tuple[int, int]):
    with torch.device("meta"):
        teacher = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    count = sum(p.numel() for p in BKSDM(variant).prune(teacher).unet.parameters()) / 1e6
    assert millions[0] <= count <= millions[1]


def test_no_pruning_is_a_copy():
    teacher = toy()
    pruned = named("none").prune(teacher)
    assert all(torch.equal(a, b) for a, b in zip(pruned.unet.parameters(), teacher.parameters(), strict=True))
    assert pruned.unet.conv_in.weight is not teacher.conv_in.weight


def test_strangers_have_no_matched_features():
    assert matched_features(dict(toy(mid_block_type=None).config), dict(toy().config)) == {}


def test_messages():
    with pytest.raises(EdgeSafeError, match="known: bk-sdm-base, bk-sdm-small"):
        named("apt")
    with pytest.raises(EdgeSafeError, match="give it as --student"):
        BKSDM("tiny").prune(BKSDM("base").prune(toy()).unet)
    with pytest.raises(EdgeSafeError, match="last two"):
        BKSDM("tiny").prune(toy(block_out_channels=(16, 32, 48, 64)))
