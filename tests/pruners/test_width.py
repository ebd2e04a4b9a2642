"""Cutting against masking by hand, and what a width-pruned student is to the rest of EdgeSafe."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import UNet2DConditionModel
from rich.console import Console
from torch import Tensor, nn

from edgesafe import artifact, families, model, preparation, presets
from edgesafe.cli import main
from edgesafe.data import TextConditions, open_source, silent
from edgesafe.errors import EdgeSafeError
from edgesafe.losses import tapped
from edgesafe.pruners import PRUNERS, Calibration, check_target, matched_features, named
from edgesafe.pruners.bk_sdm import BKSDM
from edgesafe.pruners.cost import cost
from edgesafe.pruners.scores import SCORES
from edgesafe.pruners.scores.spdm import SPDM
from edgesafe.pruners.units import KINDS, Group, groups
from edgesafe.pruners.width import Width, cut

FOUR = {"sample_size": 8, "block_out_channels": (8, 16, 24, 24), "layers_per_block": 2, "norm_num_groups": 4, "cross_attention_dim": 12}
TOYS = {
    "sd1": FOUR | {"attention_head_dim": 4},
    "sd2": FOUR | {"attention_head_dim": (2, 4, 6, 6), "use_linear_projection": True},
    "sdxl": {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 12,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 4), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 10 + 6 * 4,
    },
}  # fmt: skip
SMALL = ["--batch", "4", *(f"--set={k}" for k in ("concept_bank=4", "erase_batch=2", "rate=1e-3", "width.pictures=4"))]


def random(shape: str) -> UNet2DConditionModel:
    """A toy whose every weight and bias is random, the norms' and the ones that diffusers starts at zero too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(**TOYS[shape.removesuffix("-small")]).eval().requires_grad_(False)
        for name, weight in unet.named_parameters():
            if weight.dim() == 1:
                weight.copy_(torch.randn_like(weight) * 0.2 + ("norm" in name and name.endswith("weight")))
    return BKSDM("small").prune(unet).unet.requires_grad_(False) if shape.endswith("-small") else unet


@pytest.fixture(params=[*TOYS, "sd1-small"])
def toy(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    """In the shape of Stable Diffusion 1, 2 and XL, and depth-pruned."""
    return random(request.param)


def answer(unet: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(2)
    given = [torch.randn(2, 5, 12, generator=draws)]
    if unet.config.addition_embed_type:
        given += [torch.randn(2, 10, generator=draws), torch.randn(2, 6, generator=draws)]
    with torch.no_grad():
        return families.call(unet, torch.randn(2, 4, 8, 8, generator=draws), torch.tensor([3, 600]), *given)


def silence(unet: nn.Module, group: Group, units: list[int]) -> None:
    """Zero what leaves the units: the layer after them reads nothing of them. Written out for each kind."""
    module = unet.get_submodule(group.module)
    with torch.no_grad():
        for u in units:
            if group.kind == "resnet":
                size = module.norm2.num_channels // module.norm2.num_groups
                module.conv2.weight[:, u * size : (u + 1) * size] = 0
            elif group.kind == "heads":
                size = module.to_q.out_features // module.heads
                module.to_out[0].weight[:, u * size : (u + 1) * size] = 0
            else:
                module.net[2].weight[:, u] = 0


def choose(unet: nn.Module, kinds: tuple[str, ...] = KINDS, seed: int = 0) -> dict[str, Tensor]:
    """At least one unit of each group, at random."""
    draws = torch.Generator().manual_seed(seed)
    found = [group for group in groups(unet) if group.kind in kinds]
    sizes = {g.name: int(torch.randint(1, g.count + 1, (), generator=draws)) for g in found}
    return {g.name: torch.randperm(g.count, generator=draws)[: sizes[g.name]].sort().values for g in found}


def gone(group: Group, keep: Tensor) -> list[int]:
    return sorted(set(range(group.count)) - set(keep.tolist()))


def test_groups_of_a_unet_written_out() -> None:
    found = {group.name: (group.kind, group.count) for group in groups(random("sdxl"))}
    block = {
        f"{i}.{part}": value
        for i in (0, 1)
        for part, value in {"attn1.heads": ("heads", 4), "attn2.heads": ("heads", 4), "ff.ff": ("ff", 64)}.items()
    }
    expected = {
        **{f"down_blocks.{i}.resnets.0.resnet": ("resnet", 4) for i in (0, 1)},
        **{f"up_blocks.{i}.resnets.{j}.resnet": ("resnet", 4) for i in (0, 1) for j in (0, 1)},
        **{f"mid_block.resnets.{i}.resnet": ("resnet", 4) for i in (0, 1)},
    }
    for place in ("down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "mid_block.attentions.0"):
        expected |= {f"{place}.transformer_blocks.{name}": value for name, value in block.items()}
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_nothing_reads_go_without_a_trace(kind: str, toy: UNet2DConditionModel) -> None:
    found, keep = {group.name: group for group in groups(toy)}, choose(toy, (kind,))
    for name, units in keep.items():
        silence(toy, found[name], gone(found[name], units))
    before = answer(toy)
    pruned = cut(toy, keep)
    assert sum(p.numel() for p in pruned.unet.parameters()) < sum(p.numel() for p in toy.parameters())
    assert torch.allclose(answer(pruned.unet), before, atol=1e-6 * before.abs().max().item(), rtol=0)


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids=[*KINDS, "all"])
def test_cutting_is_masking(kinds: tuple[str, ...], toy: UNet2DConditionModel) -> None:
    whole, keep = answer(toy), choose(toy, kinds, seed=1)
    student = answer(cut(toy, keep).unet)
    for group in groups(toy):
        if group.name in keep:
            silence(toy, group, gone(group, keep[group.name]))
    masked = answer(toy)
    assert (masked - whole).abs().max() > 1e-2
    assert torch.allclose(student, masked, atol=1e-5, rtol=1e-5)


def test_keeping_everything_changes_nothing(toy: UNet2DConditionModel) -> None:
    for keep in ({}, {group.name: torch.arange(group.count) for group in groups(toy)}):
        pruned = cut(toy, keep)
        assert pruned.unet.config.widths == {} and torch.allclose(answer(pruned.unet), answer(toy), atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(pruned.unet.state_dict().values(), toy.state_dict().values(), strict=True))


def test_one_unit_of_each_group_still_runs_and_compares(toy: UNet2DConditionModel) -> None:
    pruned = cut(toy, {group.name: torch.tensor([group.count - 1]) for group in groups(toy)})
    assert all(group.count == 1 for group in groups(pruned.unet))
    with tapped(pruned.unet, list(pruned.features)) as mine, tapped(toy, list(pruned.features.values())) as theirs:
        assert answer(pruned.unet).shape == answer(toy).shape
    assert [mine[a].shape for a in pruned.features] == [theirs[b].shape for b in pruned.features.values()]
    assert matched_features(dict(pruned.unet.config), dict(toy.config)) == pruned.features
    assert set(pruned.weights) == set(pruned.unet.state_dict())


def test_cutting_twice_is_cutting_once(toy: UNet2DConditionModel) -> None:
    first = choose(toy, seed=3)
    once = cut(toy, first)
    second = choose(once.unet, seed=4)
    twice = cut(once.unet, second)
    both = cut(toy, {name: units[second[name]] for name, units in first.items()})
    assert twice.unet.config.widths == both.unet.config.widths
    assert all(torch.equal(a, b) for a, b in zip(twice.unet.state_dict().values(), both.unet.state_dict().values(), strict=True))


def test_the_student_is_a_copy() -> None:
    toy = random("sd1")
    pruned = cut(toy, choose(toy))
    with torch.no_grad():
        pruned.unet.conv_in.weight.zero_()
    assert toy.conv_in.weight.abs().sum() > 0


def test_width_after_depth_is_still_the_depth_pruners_student() -> None:
    teacher = random("sd1")
    student = cut(random("sd1-small"), choose(random("sd1-small"))).unet
    assert matched_features(dict(student.config), dict(teacher.config)) == BKSDM("small").features(dict(student.config))
    with pytest.raises(EdgeSafeError, match="Prune depth first, then --prune width"):
        BKSDM("tiny").prune(cut(teacher, choose(teacher)).unet)


@pytest.fixture(scope="module")
def calibration(tiny_sd1: Path, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    net = model.load(tiny_sd1)
    source = open_source(str(tiny_images), net, 0, 4, 8, 1)
    source.prepare(tmp_path_factory.mktemp("source"), silent)
    return Calibration(net, source, TextConditions(net), 0, silent, Console(file=io.StringIO(), width=160))


@pytest.mark.parametrize(("score", "of", "share"), [("magnitude", "params", 0.5), ("taylor", "macs", 0.6), ("spdm", "macs", 0.8)])
def test_the_target_is_met_and_the_plan_printed(
    score: str, of: str, share: float, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "spdm", SPDM(every=250))
    net = calibration.teacher
    before = {name: tensor.clone() for name, tensor in net.unet.state_dict().items()}
    pruned = Width(score=score, pictures=4, **{of: share}).prune(net.unet, calibration)
    sizes = [getattr(cost(unet, net.latent_shape, 77).total, of) for unet in (pruned.unet, net.unet)]
    assert share - 0.02 < sizes[0] / sizes[1] <= share
    assert calibration.console.file.getvalue().startswith("width: of the UNet of")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.unet.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in net.unet.parameters())
    again = cut(net.unet, {name: torch.tensor(units) for name, units in pruned.kept.items()}).unet.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in pruned.unet.state_dict().items())


def test_ranked_within_groups_every_group_loses_the_same_share(calibration: Calibration) -> None:
    net = calibration.teacher
    kept = Width("magnitude", macs=0.7).prune(net.unet, calibration).kept
    shares = [len(kept[group.name]) / group.count for group in groups(net.unet) if group.kind == "ff"]
    assert max(shares) - min(shares) < 0.03 and 0.3 < min(shares) < 0.7


def test_batches_hold_as_many_pictures_as_asked(calibration: Calibration) -> None:
    sizes = [len(batch.captions) for batch in replace(calibration, pictures=10).batches()]
    assert sizes == [4, 4, 2]


@pytest.fixture(autouse=True)
def small_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesafe.previews.SHOWN", 2)
    monkeypatch.setattr("edgesafe.sampling.sample.__defaults__", (2, 4.0, None))


def edgesafe(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args), *SMALL], catch_exceptions=False)


def test_a_run_and_what_can_be_done_with_it(tiny_sd1: Path, tiny_images: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", ["--data", tiny_images, "--steps", 2]
    result = edgesafe("--model", tiny_sd1, "--prune", "width", "--macs", 0.6, *data, "--erase", "none", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output.index("width: of the UNet of") < result.output.index("step 2/2")
    step = artifact.read(out).steps[0]
    assert (step.config["prune"], step.config["width"]["macs"], step.config["width"]["score"]) == ("width", 0.6, "taylor")
    student = model.load(out)
    assert student.unet.config.widths
    again = ["--student", out, "--teacher", tiny_sd1, *data, "--erase", "style:neon", "--set=eraser.pictures=data", "--inner-steps", 1]
    assert edgesafe(*again, "--out", tmp_path / "erased").exit_code == 0
    erased = model.load(tmp_path / "erased").unet
    assert erased.config.widths == student.unet.config.widths
    assert [step.method for step in artifact.read(tmp_path / "erased").steps] == ["distil", "penalty/esd"]


def test_a_resumed_run_cuts_the_same_units_without_looking_again(
    tiny_sd1: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    args = ["--model", tiny_sd1, "--prune", "width", "--macs", 0.6, "--data", tiny_images, "--erase", "none", "--steps", 2, "--out", out]
    assert edgesafe(*args).exit_code == 0
    finished = {name: tensor for name, tensor in model.load(out).unet.state_dict().items()}
    shutil.rmtree(out / "model")
    (out / "manifest.json").unlink()
    monkeypatch.setattr(Width, "prune", None)
    result = CliRunner().invoke(main, ["train", "--resume", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    again = model.load(out).unet
    assert json.loads((out / "checkpoint" / preparation.KEPT_UNITS).read_text()).keys() == {g.name for g in groups(again)}
    assert all(torch.equal(finished[name], tensor) for name, tensor in again.state_dict().items())


def test_captions_alone_are_drawn_into_the_run_before_units_are_scored(tiny_sd1: Path, tmp_path: Path) -> None:
    captions, out = tmp_path / "captions.txt", tmp_path / "run"
    captions.write_text("red balloon\ngreen balloon\n")
    args = ["--model", tiny_sd1, "--prune", "width", "--macs", 0.6, "--data", captions, "--set=bank=4", "--erase", "none", "--steps", 1]
    result = edgesafe(*args, "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "checkpoint" / "drawn.safetensors").is_file() and sorted(p.name for p in tmp_path.iterdir()) == ["captions.txt", "run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "luck"}, "--score 'luck' is unknown; known: taylor, taylor-gate, spdm, magnitude"),
        ({"rank": "alphabet"}, "width.rank 'alphabet' is unknown; known: score, global, group"),
        ({"macs": 1.5}, "--macs 1.5: needs a share"),
        ({"params": -0.5}, "--params -0.5: needs a share"),
        ({"pictures": 0}, "width.pictures 0: needs 1 or more"),
    ],
)
def test_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        Width(**changes)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prune", "width"], "--prune width needs one target"),
        (["--prune", "width", "--macs", "0.5", "--params", "0.5"], "--prune width needs one target"),
        (["--macs", "0.5"], "--macs goes with a pruner of inner widths: add --prune width"),
        (["--prune", "bk-sdm-tiny", "--score", "taylor"], "--score goes with a pruner of inner widths"),
        (["--prune", "width", "--macs", "0.5", "--student", "emoji:student", "--teacher", "emoji:teacher"], "give it as --model"),
    ],
)
def test_flags_are_refused(args: list[str], message: str) -> None:
    result = edgesafe(*args, "--dry-run")
    assert result.exit_code != 0 and message in " ".join(result.output.split())


def test_flags_and_tables_reach_the_pruner() -> None:
    shown = edgesafe("--prune", "width", "--params", "0.4", "--score", "spdm", "--set=width.rank=group", "--dry-run")
    settings = presets.from_dict(json.loads(shown.output))
    assert settings.pruner == Width("spdm", params=0.4, rank="group", pictures=4)


def test_a_target_out_of_reach_says_what_can_be_reached(tiny_sd1: Path, tiny_images: Path, tmp_path: Path) -> None:
    net = model.load(tiny_sd1)
    least = cut(net.unet, {group.name: torch.tensor([0]) for group in groups(net.unet)}).unet
    left = cost(least, net.latent_shape, 77).total.macs / cost(net.unet, net.latent_shape, 77).total.macs
    with pytest.raises(EdgeSafeError, match=f"--macs 0.01: .* {left:.0%} is left"):
        check_target(Width(macs=0.01), net)
    args = ["--model", tiny_sd1, "--prune", "width", "--macs", 0.01, "--data", tiny_images, "--erase", "none", "--out", tmp_path / "run"]
    assert edgesafe(*args).exit_code != 0 and not (tmp_path / "run").exists()


def test_channels_that_do_not_divide_are_named() -> None:
    toy = random("sd1")
    toy.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads = 3
    with pytest.raises(EdgeSafeError, match=r"attn1.to_q.weight has 8 channels, which do not divide among the 3 units"):
        groups(toy)


def test_width_without_data_is_refused() -> None:
    with pytest.raises(EdgeSafeError, match="needs --data"):
        Width(macs=0.5).prune(random("sd1"))


def test_pruners_that_calibrate_have_a_table_and_the_others_have_none() -> None:
    assert {name for name, pruner in PRUNERS.items() if pruner.calibrates} == set(PRUNERS) & set(presets.METHODS)
    assert named("width") == Width()


@pytest.mark.parametrize("key", [key for key, pruner in PRUNERS.items() if pruner.calibrates])
def test_every_pruner_of_inner_widths_calls_itself_as_the_registry_does(key: str) -> None:
    with pytest.raises(EdgeSafeError, match=f"^--prune {key} needs one target"):
        _ = named(key).target
    for of in ("macs", "params"):
        assert replace(named(key), **{of: 0.5}).target == (of, 0.5)
        with pytest.raises(EdgeSafeError, match=f"^--{of} -0.5: needs a share"):
            replace(named(key), **{of: -0.5})
