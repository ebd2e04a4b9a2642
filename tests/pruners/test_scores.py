"""Scores against plain loops, finite differences, what zeroing a unit really does, and Torch-Pruning."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from rich.console import Console
from torch import Tensor, nn

from edgesafe import families, model
from edgesafe.data import TextConditions, generator, open_source, silent
from edgesafe.pruners import Calibration
from edgesafe.pruners.scores import SCORES
from edgesafe.pruners.scores.magnitude import magnitude
from edgesafe.pruners.scores.spdm import SPDM
from edgesafe.pruners.scores.taylor import Taylor
from edgesafe.pruners.units import Group, groups


@pytest.fixture
def calibration(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path) -> Calibration:
    net = model.load(tiny_sdxl)
    source = open_source(str(tiny_images), net, 0, 4, 8, 1)
    source.prepare(tmp_path, silent)
    return Calibration(net, source, TextConditions(net), 5, silent, Console(file=io.StringIO()), pictures=4)


def rows_and_columns(module: nn.Module, kind: str, unit: int) -> list[Tensor]:
    """Views of a unit's weights and biases; the last is what leaves it. Written out for each kind."""
    if kind == "resnet":
        size = module.norm2.num_channels // module.norm2.num_groups
        own = slice(unit * size, (unit + 1) * size)
        before = [p[own] for layer in (module.conv1, module.time_emb_proj, module.norm2) for p in layer.parameters()]
        return [*before, module.conv2.weight[:, own]]
    if kind == "heads":
        size = module.to_q.out_features // module.heads
        own = slice(unit * size, (unit + 1) * size)
        return [*(layer.weight[own] for layer in (module.to_q, module.to_k, module.to_v)), module.to_out[0].weight[:, own]]
    proj, hidden = module.net[0].proj, module.net[2].in_features
    return [proj.weight[unit], proj.weight[hidden + unit], proj.bias[unit], proj.bias[hidden + unit], module.net[2].weight[:, unit]]


def denoising(calibration: Calibration, timesteps: Tensor, noise: Tensor) -> Tensor:
    """The loss of the source's first batch, written out."""
    net, batch = calibration.teacher, calibration.source.batch(0)
    alpha = model.alphas_cumprod(net)[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    dtype = net.unet.dtype
    given = [c.to(dtype) for c in calibration.texts(batch.captions)]
    return (families.call(net.unet, noisy.to(dtype), timesteps, *given) - noise).square().mean()


def drawn(calibration: Calibration) -> tuple[Tensor, Tensor]:
    """Timesteps and noise of the score taylor's first batch."""
    draws = generator(calibration.seed, "taylor", 0)
    noise = torch.randn(calibration.source.batch(0).latents.shape, generator=draws)
    return torch.randint(1000, (4,), generator=draws), noise


def slope_by(weights: Tensor, loss: Callable[[], Tensor], step: float) -> float:
    """The loss's derivative by a factor on these weights, by central differences."""
    kept, found = weights.clone(), []
    with torch.no_grad():
        for factor in (1 + step, 1 - step):
            weights.copy_(factor * kept)
            found.append(loss().item())
        weights.copy_(kept)
    return (found[0] - found[1]) / (2 * step)


def few(unet: nn.Module) -> list[Group]:
    """A group of each kind."""
    return [next(group for group in groups(unet) if group.kind == kind) for kind in ("resnet", "heads", "ff")]


def test_magnitude_is_the_length_of_all_that_is_a_units(calibration: Calibration) -> None:
    unet = calibration.teacher.unet
    scores = SCORES["magnitude"].score(calibration, unet, groups(unet))
    for group in groups(unet):
        module = unet.get_submodule(group.module)
        for unit in range(group.count):
            total = sum(float(x) ** 2 for part in rows_and_columns(module, group.kind, unit) for x in part.flatten().tolist())
            assert scores[group.name][unit].item() == pytest.approx(total**0.5, rel=1e-5)


def test_taylor_is_the_slope_of_the_loss_by_a_gate_on_the_unit(calibration: Calibration) -> None:
    unet, step = calibration.teacher.unet.double(), 1e-4
    scores = Taylor(gate=True).score(calibration, unet, few(unet))
    timesteps, noise = drawn(calibration)
    for group in few(unet):
        for unit in (0, group.count - 1):
            leaving = rows_and_columns(unet.get_submodule(group.module), group.kind, unit)[-1]
            slope = abs(slope_by(leaving, lambda: denoising(calibration, timesteps, noise), step))
            assert scores[group.name][unit].item() == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_taylor_adds_up_the_slopes_by_each_weight_that_leaves_the_unit(calibration: Calibration) -> None:
    unet = calibration.teacher.unet.double()
    group = few(unet)[2]
    scores = Taylor().score(calibration, unet, [group])
    timesteps, noise = drawn(calibration)
    column = rows_and_columns(unet.get_submodule(group.module), group.kind, 3)[-1]
    slopes = [slope_by(column[k : k + 1], lambda: denoising(calibration, timesteps, noise), 1e-3) for k in range(len(column))]
    assert scores[group.name][3].item() == pytest.approx(sum(map(abs, slopes)), rel=1e-3)


def test_taylor_foretells_what_zeroing_a_unit_does_to_the_loss(calibration: Calibration) -> None:
    unet = calibration.teacher.unet
    found = few(unet)
    with torch.no_grad():
        for group in found:  # units of little weight, where the first order says it all
            module = unet.get_submodule(group.module)
            {"resnet": lambda m: m.conv2, "heads": lambda m: m.to_out[0], "ff": lambda m: m.net[2]}[group.kind](module).weight.mul_(0.02)
    scores = Taylor(gate=True).score(calibration, unet, found)
    bound = Taylor().score(calibration, unet, found)
    timesteps, noise = drawn(calibration)
    with torch.no_grad():
        before = denoising(calibration, timesteps, noise).double()
        for group in found:
            best = int(scores[group.name].argmax())
            leaving = rows_and_columns(unet.get_submodule(group.module), group.kind, best)[-1]
            kept = leaving.clone()
            leaving.zero_()
            change = (denoising(calibration, timesteps, noise).double() - before).abs().item()
            leaving.copy_(kept)
            assert change == pytest.approx(scores[group.name][best].item(), rel=0.1, abs=2e-7)
            assert change < 1.1 * bound[group.name][best].item() + 2e-7


def test_taylor_of_a_unit_that_nothing_reads_is_zero(calibration: Calibration) -> None:
    unet = calibration.teacher.unet
    for group in few(unet):
        with torch.no_grad():
            rows_and_columns(unet.get_submodule(group.module), group.kind, 1)[-1].zero_()
    for units in Taylor().score(calibration, unet, few(unet)).values():
        assert units[1] == 0 and units[0] > 0


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_spdm_adds_up_gradients_until_the_loss_has_gone_down(threshold: float, calibration: Calibration) -> None:
    unet, every = calibration.teacher.unet.requires_grad_(True), 125
    noise = torch.randn(calibration.source.batch(0).latents.shape, generator=generator(calibration.seed, "spdm"))
    seen: list[float] = []
    for t in range(0, 1000, every):
        loss = denoising(calibration, torch.full((4,), t), noise)
        seen.append(loss.item())
        if loss.item() < threshold * max(seen):
            break
        loss.backward()
    assert (len(seen) == 8) == (threshold == 0)
    gradients = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    unet.requires_grad_(False)
    scores = SPDM(threshold, every).score(calibration, unet, few(unet))
    for group in few(unet):
        module = unet.get_submodule(group.module)
        weights = rows_and_columns(module, group.kind, 1)
        for name, p in module.named_parameters():
            p.data.copy_(gradients[f"{group.module}.{name}"] * p)  # the same views then show w g
        products = rows_and_columns(module, group.kind, 1)
        assert len(products) == len(weights)
        assert scores[group.name][1].item() == pytest.approx(sum(x.abs().sum().item() for x in products), rel=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_ranks_every_unit_and_leaves_the_network_as_it_was(
    name: str, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "spdm", SPDM(every=250))
    unet = calibration.teacher.unet
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    scores = SCORES[name].score(calibration, unet, groups(unet))
    assert {group.name: (group.count,) for group in groups(unet)} == {key: tuple(value.shape) for key, value in scores.items()}
    assert all(value.isfinite().all() and (value >= 0).all() and value.dtype == torch.float32 for value in scores.values())
    assert all(torch.equal(before[key], value) for key, value in unet.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in unet.parameters())
    again = SCORES[name].score(calibration, unet, groups(unet))
    assert all(torch.allclose(again[key], value, rtol=1e-4) for key, value in scores.items())


class Alone(nn.Module):
    """One block with its group, as a UNet has it."""

    def __init__(self, block: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, block)


@pytest.mark.filterwarnings("ignore")
def test_torch_pruning_finds_the_same_weights_and_the_same_magnitudes_in_a_resnet() -> None:
    pruning = pytest.importorskip("torch_pruning")
    block = ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=12, groups=4)
    graph = pruning.DependencyGraph().build_dependency(block, example_inputs=(torch.randn(1, 8, 4, 4), torch.randn(1, 12)))
    found = graph.get_pruning_group(block.conv1, pruning.prune_conv_out_channels, idxs=list(range(16)))
    theirs = pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)(found)
    for silent_part in (block.conv1.bias, block.time_emb_proj.bias, block.norm2.weight, block.norm2.bias):
        nn.init.zeros_(silent_part)  # Torch-Pruning counts the weights of convolutions and linear layers alone
    ours = magnitude(Alone(block, "r"), Group("r.resnet", "r", "resnet", 4, 1))
    assert torch.allclose(ours.square(), theirs.view(4, 4).sum(1), rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_torch_pruning_finds_the_same_weights_in_a_gated_feed_forward() -> None:
    pruning = pytest.importorskip("torch_pruning")
    block = FeedForward(8)
    graph = pruning.DependencyGraph().build_dependency(block, example_inputs=torch.randn(1, 3, 8))
    found = graph.get_pruning_group(block.net[2], pruning.prune_linear_in_channels, idxs=[5])
    rows = {(item.dep.target.module, index) for item in found for index in item.idxs if isinstance(item.dep.target.module, nn.Linear)}
    assert rows == {(block.net[2], 5), (block.net[0].proj, 5), (block.net[0].proj, 32 + 5)}
