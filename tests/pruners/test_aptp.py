"""Against units that are useless for certain, finite differences, the resource loss alone, and the cut that the gates stand for."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from torch import Tensor

from edgesafe import model
from edgesafe.data import TextConditions, open_source, silent
from edgesafe.errors import EdgeSafeError
from edgesafe.families import call
from edgesafe.pruners.aptp import APTP, Gates
from edgesafe.pruners.cost import Cost, cost
from edgesafe.pruners.pruned import Calibration
from edgesafe.pruners.units import Group, groups, places, slices
from edgesafe.pruners.width import cut


@pytest.fixture(scope="module")
def prepared(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """On the emoji world, with a small UNet of two levels."""
    teacher = model.load(tiny_sd1)
    source = open_source("emoji", teacher, 0, 4, 64, 0)
    source.prepare(tmp_path_factory.mktemp("calibration"), silent)
    return Calibration(teacher, source, TextConditions(teacher), 0, silent, Console(quiet=True))


@pytest.fixture
def calibration(prepared: Calibration) -> Calibration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
        )
    teacher = replace(prepared.teacher, unet=unet.eval().requires_grad_(False))
    return replace(prepared, teacher=teacher, console=Console(file=io.StringIO(), width=80))


def costs(calibration: Calibration) -> tuple[tuple[Group, ...], Cost]:
    net = calibration.teacher
    found = groups(net.unet)
    return found, cost(net.unet, net.latent_shape, net.tokenizer.model_max_length, found)


def gates_of(calibration: Calibration, of: str = "macs") -> Gates:
    return Gates(*costs(calibration), of, APTP.start, APTP.temperature)


class Chosen(Gates):
    """Gates that are open for the units of `keep` and closed for the others."""

    keep: dict[str, Tensor]

    def sample(self, draws: torch.Generator, rows: int) -> Tensor:
        return torch.cat([torch.zeros(g.count).index_fill(0, self.keep[g.name], 1.0) for g in self.groups]).expand(rows, -1)


def test_closed_gates_are_the_cut(calibration: Calibration):
    unet, draws = calibration.teacher.unet, torch.Generator().manual_seed(0)
    gates = Chosen(*costs(calibration), "macs", 0.0, 1.0)
    gates.keep = {g.name: torch.randperm(g.count, generator=draws)[: 1 + g.count // 2].sort().values for g in gates.groups}
    given = torch.randn(2, 4, 8, 8, generator=draws), torch.tensor([3, 700]), torch.randn(2, 7, 32, generator=draws)
    with torch.no_grad():
        with gates.on(unet, draws, 2):
            gated = call(unet, *given)
        torch.testing.assert_close(call(cut(unet, gates.keep).unet, *given), gated, rtol=1e-4, atol=1e-5)
        assert (call(unet, *given) - gated).abs().max() > 1e-2


@pytest.mark.parametrize("of", ["macs", "params"])
def test_the_expected_cost_has_the_gradient_of_finite_differences(calibration: Calibration, of: str):
    gates = gates_of(calibration, of)
    gates.theta = torch.randn(len(gates.theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(gates.expected(), [gates.theta])
    for i in (0, 100, len(gates.theta) - 1):
        step = torch.zeros_like(gates.theta).index_fill(0, torch.tensor(i), 1e-3)
        ends = []
        for moved in (gates.theta + step, gates.theta - step):
            moved_gates = gates_of(calibration, of)
            moved_gates.theta = moved.detach()
            ends.append(float(moved_gates.expected()))
        assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-4)


def test_gates_open_as_often_as_they_should(calibration: Calibration):
    gates = gates_of(calibration)
    gates.theta = torch.linspace(-2, 2, len(gates.theta)).requires_grad_()
    drawn = gates.sample(torch.Generator().manual_seed(0), 2000).detach()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.mean(0) - torch.sigmoid(gates.theta)).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_all_gates_open_cost_the_whole_unet(calibration: Calibration):
    gates = gates_of(calibration)
    gates.theta = torch.full_like(gates.theta, 50.0)
    assert float(gates.expected()) == costs(calibration)[1].total.macs
    assert float(gates.excess(gates.whole / 2)) == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_resource_loss_alone_reaches_the_target(calibration: Calibration, share: float):
    gates = gates_of(calibration)
    optimizer = torch.optim.Adam([gates.theta], 0.05)
    for _ in range(200):
        (gates.theta.grad,) = torch.autograd.grad(gates.excess(share * gates.whole), [gates.theta])
        optimizer.step()
    assert float(gates.expected().detach()) / gates.whole == pytest.approx(share, abs=0.02)


def test_useless_units_are_the_ones_that_go(calibration: Calibration):
    """Half of each group's units, drawn at random, reach nothing: their outgoing weights are zero. The others' are made larger."""
    draws = torch.Generator().manual_seed(0)
    net = calibration.teacher
    found, spent = costs(calibration)
    useful = {g.name: torch.randperm(g.count, generator=draws)[: g.count // 2].sort().values for g in found}
    for group in found:
        part = next(part for part in slices(net.unet, group) if part.leaving)
        weight = net.unet.get_parameter(part.weight)
        mask = torch.zeros(weight.shape[1]).index_fill(0, places(part, weight.shape[1], group.count, useful[group.name]), 4.0)
        weight.mul_(mask[None, :, *([None] * (weight.ndim - 2))])
    gone = sum((g.count - len(useful[g.name])) * spent.units[g.name].macs for g in found)
    kept = APTP(macs=1 - gone / spent.total.macs + 1e-9, steps=60, resource=0.5).prune(net.unet, calibration).kept
    right = sum(int(torch.isin(torch.tensor(units), useful[name]).sum()) for name, units in kept.items())
    assert right / sum(map(len, useful.values())) > 0.95


def test_it_reaches_its_target_and_depends_on_the_seed_alone(calibration: Calibration):
    aptp, unet, net = APTP(macs=0.6, steps=3), calibration.teacher.unet, calibration.teacher
    first, again = (aptp.prune(unet, calibration) for _ in range(2))
    other = aptp.prune(unet, replace(calibration, seed=1))
    assert first.kept == again.kept != other.kept
    assert all(torch.equal(a, b) for a, b in zip(first.unet.parameters(), again.unet.parameters(), strict=True))
    spent = costs(calibration)[1]
    left = cost(first.unet, net.latent_shape, net.tokenizer.model_max_length).total.macs / spent.total.macs
    assert 0.6 - max(unit.macs for unit in spent.units.values()) / spent.total.macs < left <= 0.6
    assert "aptp: of the UNet of" in calibration.console.file.getvalue()


def test_messages(calibration: Calibration):
    unet = calibration.teacher.unet
    with pytest.raises(EdgeSafeError, match=r"--prune aptp needs one target.*--macs 0\.5"):
        APTP().prune(unet, calibration)
    with pytest.raises(EdgeSafeError, match="needs one target"):
        APTP(macs=0.5, params=0.5).prune(unet, calibration)
    with pytest.raises(EdgeSafeError, match="--data"):
        APTP(macs=0.5).prune(unet)
    with pytest.raises(EdgeSafeError, match=r"--macs 0\.01: inner widths alone"):
        APTP(macs=0.01).prune(unet, calibration)
    with pytest.raises(EdgeSafeError, match=r"aptp\.temperature 0: needs more than 0"):
        APTP(temperature=0)
    with pytest.raises(EdgeSafeError, match=r"--macs 1\.5: needs a share of the UNet"):
        APTP(macs=1.5)
    with pytest.raises(EdgeSafeError, match=r"aptp\.multiple 0: needs 1 or more"):
        APTP(multiple=0)
