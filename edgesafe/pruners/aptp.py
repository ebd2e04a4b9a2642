"""APTP (Ganjdanesh et al., ICLR 2025, arXiv 2406.12042): learn which inner units can go; here as one static expert.

A logit for each unit u of a group (GroupNorm group of a ResNet's middle channels, head, feed-forward channel), the UNet frozen:

    g_u = 1[s_u > 1/2],  s_u = sigmoid((theta_u + l) / tau),  l = ln v - ln (1 - v),  v ~ U(0, 1)    straight through: dg_u = ds_u
    p_u = P(g_u = 1) = sigmoid(theta_u)
    E(theta) = fixed + sum_u c_u p_u                                        c_u: MACs or parameters of the unit, from cost.py
    L(theta) = L_OutKD + L_FeatKD + w |ln(E / T)|                           T: the target; the UNet with gates against the one without

The gates multiply what the layer after the units reads, which is what cutting them does. At the end the units of the largest theta stay
until T is met exactly (`cost.solve`). Each picture of a batch draws gates of its own, which lowers the noise of the gradient.

The paper's router, its codebook of experts for kinds of prompts, and the contrastive loss that trains them are left out, as in its own
baseline of a single architecture: on a device one network ships. Of its gates only those of widths are here; depth is `bk_sdm`.
Costs one forward pass without gates, one with, and one backward pass without weights' gradients a step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor, nn

from .. import losses, model
from ..data import generator
from ..errors import EdgeSafeError
from ..families import call
from . import plan
from .cost import Cost, cost, solve
from .inner_widths import InnerWidths
from .none import NoPruning
from .pruned import Calibration, Pruned
from .units import Group, groups, slices
from .width import cut


@dataclass(frozen=True)
class APTP(InnerWidths):
    steps: int = 200
    batch: int = 16  # pictures a step, at most; half a second a step of the emoji teacher on one core
    rate: float = 0.1  # Adam
    temperature: float = 0.4  # tau, theirs too
    resource: float = 2.0  # w, as in the authors' configuration
    start: float = 3.0  # theta at the beginning: gates open with probability sigmoid(3) = 0.95

    name: ClassVar[str] = "aptp"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise EdgeSafeError(f"aptp.{name} {getattr(self, name)}: needs 1 or more")
        for name in ("rate", "temperature", "resource"):
            if not getattr(self, name) > 0:
                raise EdgeSafeError(f"aptp.{name} {getattr(self, name)}: needs more than 0")

    def prune(self, teacher: UNet2DConditionModel, calibration: Calibration | None = None) -> Pruned:
        if calibration is None:
            raise EdgeSafeError("--prune aptp learns from pictures: it needs --data")
        of, share = self.target
        net, found = calibration.teacher, groups(teacher)
        spent = cost(teacher, net.latent_shape, net.tokenizer.model_max_length, found)
        first = {group.name: torch.zeros(group.count) for group in found}
        solve(found, first, spent, share, of, self.multiple)  # refused here rather than after minutes
        gates = Gates(found, spent, of, self.start, self.temperature)
        self.learn(gates, teacher, calibration, share)
        keep = solve(found, gates.scores(), spent, share, of, self.multiple)
        plan.show(calibration.console, net, partial(cut, keep=keep), "aptp")
        return cut(teacher, keep)

    def learn(self, gates: "Gates", unet: UNet2DConditionModel, calibration: Calibration, share: float) -> None:
        optimizer = torch.optim.Adam([gates.theta], self.rate)
        target = share * gates.whole
        for n in calibration.show(range(self.steps), "learning which units can go"):
            loss = self.distillation(gates, unet, calibration, n) + self.resource * gates.excess(target)
            (gates.theta.grad,) = torch.autograd.grad(loss, [gates.theta])
            optimizer.step()

    def distillation(self, gates: "Gates", unet: UNet2DConditionModel, calibration: Calibration, n: int) -> Tensor:
        """L_OutKD + L_FeatKD of the gated UNet on batch n."""
        draws = generator(calibration.seed, "aptp", n)
        drawn = calibration.source.batch(n)
        latents, captions = drawn.latents[: self.batch], drawn.captions[: self.batch]
        alphas = model.alphas_cumprod(calibration.teacher)
        timesteps = torch.randint(len(alphas), (len(latents),), generator=draws)
        noise = torch.randn(latents.shape, generator=draws)
        weight = next(unet.parameters())
        noisy = losses.noised(latents, noise, alphas[timesteps]).to(weight)
        given = (noisy, timesteps.to(weight.device), *(c.to(weight) for c in calibration.texts(captions)))
        names = list(NoPruning().features(dict(unet.config)))
        with torch.no_grad(), losses.tapped(unet, names) as theirs:
            output = call(unet, *given)
        with losses.tapped(unet, names) as mine, gates.on(unet, draws, len(noisy)):
            prediction = call(unet, *given)
        rows = torch.ones(len(noisy), device=weight.device)
        return losses.mse(prediction, output, rows) + losses.feature([mine[n] for n in names], [theirs[n] for n in names], rows)


class Gates:
    """A logit for every unit of every group, in one vector theta (U,)."""

    def __init__(self, found: Sequence[Group], spent: Cost, of: str, start: float, temperature: float) -> None:
        self.groups, self.temperature = tuple(found), temperature
        counts = [group.count for group in found]
        each = [float(getattr(spent.units[group.name], of)) for group in found]
        self.price = torch.tensor(each, dtype=torch.float64).repeat_interleave(torch.tensor(counts))
        self.whole = getattr(spent.total, of)
        self.counts = counts
        self.theta = torch.full((sum(counts),), float(start), requires_grad=True)

    def expected(self) -> Tensor:
        """E(theta), in fp64: one unit of millions still counts."""
        return self.whole - (self.price * torch.sigmoid(-self.theta.double())).sum()

    def excess(self, target: float) -> Tensor:
        """|ln(E / T)|"""
        return (self.expected() / target).log().abs().float()

    def scores(self) -> dict[str, Tensor]:
        """theta times the unit's cost: what `solve` divides by it again, so that the order is that of theta alone."""
        worth = self.theta.detach().double() * self.price
        return {group.name: part for group, part in zip(self.groups, worth.split(self.counts), strict=True)}

    def sample(self, draws: Generator, rows: int) -> Tensor:
        """g (rows, U) of 0 and 1."""
        v = torch.rand(rows, len(self.theta), generator=draws).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((self.theta + v.log() - (1 - v).log()) / self.temperature)
        return (soft > 0.5).float() + (soft - soft.detach())

    @contextmanager
    def on(self, unet: nn.Module, draws: Generator, rows: int) -> Iterator[None]:
        """While this is open, the UNet's units are multiplied by gates drawn once, a row of gates a row of the batch."""
        handles = []
        for group, gate in zip(self.groups, self.sample(draws, rows).split(self.counts, 1), strict=True):
            leaving = next(part.weight for part in slices(unet, group) if part.leaving).rpartition(".")[0]
            handles.append(unet.get_submodule(leaving).register_forward_pre_hook(_multiply(gate)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _multiply(gate: Tensor) -> Any:
    """A hook that multiplies a layer's input, (B, C, h, w) or (B, N, C), by the gates (B, units) of its channels."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        dim = 1 if isinstance(layer, nn.Conv2d) else x.ndim - 1
        wide = gate.to(x).repeat_interleave(x.shape[dim] // gate.shape[1], 1)
        shape = [1] * x.ndim
        shape[0], shape[dim] = wide.shape
        return (x * wide.view(shape), *inputs[1:])

    return hook
