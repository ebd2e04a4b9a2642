"""The paper's solver: a value-function penalty with two networks (arXiv 2412.15341, its algorithm 1).

    min_theta max_vartheta  G(theta, vartheta) = L_CU(theta) + lambda (L_ft(theta) - L_ft(vartheta))

    inner loop, K steps:  vartheta <- vartheta - a grad L_ft(vartheta)                       plain distillation
    outer step:           theta <- theta - b (grad L_CU(theta) + lambda grad L_ft(theta))

L_ft(vartheta) has no gradient in theta. So vartheta acts in two ways only: by where theta starts, which the paper leaves open, and as
the certificate `gap` = L_ft(theta) - L_ft(vartheta), what erasing costs in distillation.

    follow = "restart"  vartheta <- theta when an inner loop starts, theta <- vartheta when an outer step does: the K steps repair
                        what erasing hurt. (Only the second of the two would forget each erasing step: theta would never be more
                        than one step away from plain distillation.)
    follow = "once"     both start equal and part: vartheta never erases, and theta sees one outer step in K + 1 iterations

With `adapt` lambda follows the certificate: it rises by that factor while the gap is over `tolerance` times L_ft(vartheta), and
falls by it otherwise. One outer step costs an inner step, the eraser's loss, and one student forward pass for the gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bilevel import Problem, Record, State, follow, lower_step, record
from ..errors import EdgeSafeError

FOLLOWS = ("restart", "once")


@dataclass(frozen=True)
class Penalty:
    lambda_: float = 100.0  # lambda, weight of the value gap
    inner_steps: int = 20  # K
    follow: str = "restart"  # how theta follows vartheta: "restart" | "once"
    adapt: float = 1.0  # factor on lambda after each outer step; 1 keeps it
    tolerance: float = 0.02  # gap / L_ft(vartheta) that `adapt` aims at

    two_networks = True

    def __post_init__(self) -> None:
        if self.follow not in FOLLOWS:
            raise EdgeSafeError(f"solver.follow {self.follow!r} is unknown; known: {', '.join(FOLLOWS)}")
        if self.inner_steps < 1:
            raise EdgeSafeError(f"--inner-steps {self.inner_steps}: needs 1 or more")
        if self.lambda_ < 0:
            raise EdgeSafeError(f"--lambda {self.lambda_}: needs 0 or more")
        if self.adapt < 1:
            raise EdgeSafeError(f"solver.adapt {self.adapt}: a factor of 1 or more")

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        """`steps` iterations in all, inner and outer; the last one is an outer step."""
        while (n := state.step) < steps:
            turn = n % (self.inner_steps + 1)
            if turn < self.inner_steps and n + 1 < steps:
                if turn == 0 and self.follow == "restart":
                    follow(state.vartheta, leader=state.theta)
                yield lower_step(state, problem)
            else:
                yield self._outer(state, problem, n)

    def _outer(self, state: State, problem: Problem, n: int) -> Record:
        batch = problem.lower_batch(n)
        restart = self.follow == "restart"
        with torch.no_grad():
            other, _ = problem.lower(state.theta if restart else state.vartheta, batch)
        if restart:
            follow(state.theta, leader=state.vartheta)
        lower, terms = problem.lower(state.theta, batch)  # L_ft(theta)
        # With "restart" the gap is that of the theta which the inner loop started from.
        former, certificate = (other, lower.detach()) if restart else (lower.detach(), other)
        gap = former - certificate
        upper, erasing = problem.upper(state.theta, problem.upper_batch(n, state.theta))  # L_CU(theta)
        lambda_ = state.memory.get("lambda", self.lambda_)
        penalty = upper + lambda_ * (lower - certificate)  # G(theta, vartheta)
        state.descend(state.theta, state.outer, penalty, terms | erasing)
        state.memory["lambda"] = lambda_ * (self.adapt if gap > self.tolerance * certificate else 1 / self.adapt)
        numbers: dict[str, float | Tensor] = {"lower": lower, "upper": upper, "gap": gap, "lambda": lambda_, **terms, **erasing}
        return record(state, "outer", numbers)
