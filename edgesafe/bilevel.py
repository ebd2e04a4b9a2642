"""The two levels of the training problem, and the networks and optimizers that a solver moves.

    lower level   L_ft(theta)  distillation: denoising, output KD, feature KD
    upper level   L_CU(theta)  erasing the concept

    min_theta max_vartheta  G(theta, vartheta) = L_CU(theta) + lambda (L_ft(theta) - L_ft(vartheta))      (arXiv 2412.15341)

A solver in `solvers/` is a frozen dataclass with `solve(state, problem, steps)`, a generator of one `Record` an iteration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import EdgeSafeError
from .processes import Processes

Terms = dict[str, Tensor]  # a loss's parts by name, detached
Gradients = Sequence[Tensor | None]  # one a weight; None where the loss does not reach it


class NotFinite(EdgeSafeError):
    """A loss, gradient or weight is NaN or infinite; the message names the step and the tensor.

    Where a loss or gradient is, the weights are still those before it.
    """


class Problem(Protocol):
    """Both levels' losses. Step n's batch depends on the seed and n only.

    Of several processes each has its rows of the batch; a loss has the value of the whole batch and the gradient of the own rows.
    """

    def lower_batch(self, n: int) -> Any: ...

    def upper_batch(self, n: int, network: nn.Module) -> Any: ...

    def lower(self, network: nn.Module, batch: Any) -> tuple[Tensor, Terms]:
        """L_ft of the network."""

    def upper(self, network: nn.Module, batch: Any) -> tuple[Tensor, Terms]:
        """L_CU of the network."""


@dataclass
class State:
    """All that changes while a solver runs."""

    theta: nn.Module  # the result
    vartheta: nn.Module  # the lower level's network; the same object as theta where a solver has one network
    inner: Optimizer  # of vartheta, all weights
    outer: Optimizer  # of theta, the weights that the eraser may move
    rates: tuple[float, float]  # peak learning rates, inner and outer
    schedule: Callable[[int], float] = lambda n: 1.0  # the share of the peak rates at step n
    clip: float = 1.0  # largest norm of a gradient
    step: int = 0  # iterations done
    memory: dict[str, float] = field(default_factory=dict)  # what a solver carries on: lambda, the value gap
    processes: Processes = field(default_factory=Processes)  # that share each batch

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """theta, and vartheta where it is another one."""
        return (self.theta,) if self.vartheta is self.theta else (self.theta, self.vartheta)

    def descend(self, network: nn.Module, optimizer: Optimizer, loss: Tensor, terms: Terms) -> None:
        """One step of the optimizer's weights down the loss, refused where something is not finite."""
        self.move(network, optimizer, self.gradients(optimizer, loss, terms))

    def gradients(self, optimizer: Optimizer, loss: Tensor, terms: Terms, retain: bool = False) -> Gradients:
        """The loss's gradients in the optimizer's weights, of all processes; `retain` keeps the graph for another loss that shares it."""
        values = {name: value.detach() for name, value in {**terms, "whole": loss}.items()}
        if not torch.isfinite(torch.stack(list(values.values()))).all():
            name, value = next((n, v) for n, v in values.items() if not torch.isfinite(v))
            raise NotFinite(f"step {self.step}: the {name} loss is {float(value)}")
        return self.processes.add(torch.autograd.grad(loss, weights_of(optimizer), allow_unused=True, retain_graph=retain))

    def move(self, network: nn.Module, optimizer: Optimizer, gradients: Gradients) -> None:
        """One step of the optimizer's weights along gradients."""
        weights = weights_of(optimizer)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = _laid_out_as(weight, gradient)
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        if norm > self.clip:
            nn.utils.clip_grads_with_norm_(weights, self.clip, norm)
        if not torch.isfinite(norm):
            broken = [n for n, p in network.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
            raise NotFinite(f"step {self.step}: the gradient of {(broken or ['all weights together'])[0]} is not finite")
        for group in optimizer.param_groups:
            group["lr"] = self.rates[optimizer is self.outer] * self.schedule(self.step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Record:
    """One iteration, for the log: iteration number from 1, which level moved, and its numbers."""

    step: int
    level: str  # "inner" | "outer"
    values: dict[str, float]


def record(state: State, level: str, values: Mapping[str, float | Tensor]) -> Record:
    """Count the iteration and note its numbers."""
    state.step += 1
    tensors = {name: value.detach().float() for name, value in values.items() if isinstance(value, Tensor)}
    read = torch.stack(list(tensors.values())).tolist() if tensors else []  # at once: a GPU waits for each read
    return Record(state.step, level, {**values, **dict(zip(tensors, read, strict=True))})


def lower_step(state: State, problem: Problem) -> Record:
    """vartheta <- vartheta - a grad L_ft(vartheta), plain distillation; vartheta is theta where a solver has one network."""
    lower, terms = problem.lower(state.vartheta, problem.lower_batch(state.step))
    state.descend(state.vartheta, state.inner, lower, terms)
    return record(state, "inner", {"lower": lower, **terms})


def upper_step(state: State, problem: Problem) -> Record:
    """theta <- theta - b grad L_CU(theta), erasing alone."""
    upper, terms = problem.upper(state.theta, problem.upper_batch(state.step, state.theta))
    state.descend(state.theta, state.outer, upper, terms)
    return record(state, "outer", {"upper": upper, **terms})


def weights_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module) -> None:
    """follower <- leader, all weights."""
    torch._foreach_copy_(list(follower.parameters()), list(leader.parameters()))


def check_weights(state: State) -> None:
    """Raises: NotFinite for a weight or a moment of an optimizer that is not finite."""
    for network in state.networks:
        for name, weight in network.named_parameters():
            slots = [(f"{slot} of ", value) for o in (state.inner, state.outer) for slot, value in o.state.get(weight, {}).items()]
            for what, tensor in (("", weight), *slots):
                if not torch.isfinite(tensor).all():
                    raise NotFinite(f"after step {state.step}: {what}the weight {name} is not finite")


def _laid_out_as(weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Fused AdamW walks through weights, gradients and moments alike: other strides would move the wrong weights."""
    if gradient is None or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)
