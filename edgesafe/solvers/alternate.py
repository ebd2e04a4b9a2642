"""The published code's solver: one network; of every K + 1 steps K distil and one erases, each with its own optimizer.

    steps 1..K:   theta <- theta - a grad L_ft(theta)
    step K + 1:   theta <- theta - b grad L_CU(theta)

There is no lambda and no L_ft in the erasing step. The published settings are K = 9, a = 1e-6, b = 5e-6, and for the eraser
`target = "esd"`, `eta = 1`, `frozen = "teacher"`, `parameters = "full"`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..bilevel import Problem, Record, State, lower_step, upper_step
from ..errors import EdgeSafeError


@dataclass(frozen=True)
class Alternate:
    inner_steps: int = 9  # K

    two_networks = False

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise EdgeSafeError(f"--inner-steps {self.inner_steps}: needs 1 or more")

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        while (n := state.step) < steps:
            if (n + 1) % (self.inner_steps + 1):
                yield lower_step(state, problem)
            else:
                yield upper_step(state, problem)
