"""The paper's problem without its lambda: a dynamic barrier on the value gap, one network (after BOME, Ye et al. 2022, arXiv 2209.08709).

    inner loop, K steps:  theta <- theta - a grad L_ft(theta)                       plain distillation, as `penalty` has it
    outer step:           theta <- theta - b (u + lambda q),   u = grad L_CU(theta), q = grad L_ft(theta)

    lambda = the smallest >= 0 with  <u + lambda q, q> >= eta s |u| |q|
           = |u| / |q| max(0, eta s - cos(u, q))
    s      = gap / (tolerance L_ft(theta)), cut to [0, 1]

So an erasing step never raises L_ft to first order, and the more distillation had to repair, the more it has to lower it too. Both losses
may be scaled by any factor, and nothing changes: lambda is an outcome, not a setting.

gap = L_ft(theta before the inner loop) - L_ft(theta after it), on one batch: what the K steps could gain, an estimate from below of
L_ft(theta) - min L_ft, smoothed over outer steps. It is measured before the loop starts on the batch that the outer step will see, so no
second network is kept. One outer step costs an inner step, the eraser's loss with its own backward pass, and a forward pass for the gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bilevel import Gradients, Problem, Record, State, lower_step, record
from ..errors import EdgeSafeError

TINY = 1e-30  # in the place of a loss of 0: a batch of masked rows, or a student that answers as its teacher does


@dataclass(frozen=True)
class Adaptive:
    inner_steps: int = 4  # K
    eta: float = 0.5  # cosine with q that the step must reach while the gap is over its tolerance
    tolerance: float = 0.02  # gap / L_ft(theta) from which on s is 1
    smoothing: float = 0.8  # of the gap from one outer step to the next

    two_networks = False

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise EdgeSafeError(f"--inner-steps {self.inner_steps}: needs 1 or more")
        if self.eta < 0:
            raise EdgeSafeError(f"solver.eta {self.eta}: needs 0 or more")
        if self.tolerance <= 0:
            raise EdgeSafeError(f"solver.tolerance {self.tolerance}: needs more than 0")
        if not 0 <= self.smoothing < 1:
            raise EdgeSafeError(f"solver.smoothing {self.smoothing}: needs 0 to less than 1")

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        """`steps` iterations in all, inner and outer; the last one is an outer step."""
        while (n := state.step) < steps:
            turn = n % (self.inner_steps + 1)
            outer = min(n - turn + self.inner_steps, steps - 1)
            if turn == 0:
                with torch.no_grad():
                    state.memory["before"] = float(problem.lower(state.theta, problem.lower_batch(outer))[0])
            yield lower_step(state, problem) if n < outer else self._outer(state, problem, n)

    def _outer(self, state: State, problem: Problem, n: int) -> Record:
        lower, terms = problem.lower(state.theta, problem.lower_batch(n))
        q = state.gradients(state.outer, lower, terms)  # before the other forward pass: only one graph is held at a time
        upper, erasing = problem.upper(state.theta, problem.upper_batch(n, state.theta))
        u = state.gradients(state.outer, upper, erasing)
        now = state.memory["before"] - float(lower.detach())
        gap = self.smoothing * state.memory.get("gap", now) + (1 - self.smoothing) * now
        share = min(1.0, max(0.0, gap / max(self.tolerance * float(lower.detach()), TINY)))
        lambda_ = barrier(u, q, self.eta * share)
        both = [a if b is None else b * lambda_ if a is None else a + lambda_ * b for a, b in zip(u, q, strict=True)]
        state.move(state.theta, state.outer, both)
        state.memory["gap"] = gap
        numbers: dict[str, float | Tensor] = {"lower": lower, "upper": upper, "gap": gap, "lambda": lambda_, **terms, **erasing}
        return record(state, "outer", numbers)


def barrier(u: Gradients, q: Gradients, cosine: float) -> Tensor:
    """lambda = |u| / |q| max(0, cosine - cos(u, q)), a scalar; 0 where a gradient vanishes."""
    uu, qq = (torch.stack([g.square().sum() for g in side if g is not None]).sum() for side in (u, q))
    uq = torch.stack([(a * b).sum() for a, b in zip(u, q, strict=True) if a is not None and b is not None]).sum()
    if not uu * qq > 0:
        return torch.zeros_like(uu)  # on its device
    return (uu / qq).sqrt() * (cosine - uq / (uu * qq).sqrt()).clamp(min=0)
