"""The baseline: distil, then erase with no distillation loss, as one does with a pruner's checkpoint and an eraser's script."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..bilevel import Problem, Record, State, lower_step, upper_step
from ..errors import EdgeSafeError


@dataclass(frozen=True)
class TwoStage:
    erase_share: float = 0.25  # of the iterations; 1 for a student that is distilled already, 0 for a closed-form eraser

    two_networks = False

    def __post_init__(self) -> None:
        if not 0 <= self.erase_share <= 1:
            raise EdgeSafeError(f"solver.erase_share {self.erase_share}: needs 0 to 1")

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        first = steps - math.ceil(self.erase_share * steps)  # of the erasing iterations
        while (n := state.step) < steps:
            if n < first:
                yield lower_step(state, problem)
            else:
                yield upper_step(state, problem)
