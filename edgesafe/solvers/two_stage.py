"""The baseline: distil, then erase with no distillation loss, as one does with a pruner's checkpoint and an eraser's script."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..bilevel import Problem, Record, State, record
from ..errors import EdgeSafeError


@dataclass(frozen=True)
class TwoStage:
    erase_share: float = 0.25  # of the iterations; 1 for a student that is distilled already

    two_networks = False

    def __post_init__(self) -> None:
        if not 0 < self.erase_share <= 1:
            raise EdgeSafeError(f"solver.erase_share {self.erase_share}: needs more than 0, at most 1")

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        first = steps - max(1, round(self.erase_share * steps))  # of the erasing iterations
        while (n := state.step) < steps:
            if n < first:
                lower, terms = problem.lower(state.theta, problem.lower_batch(n))
                state.descend(state.theta, state.inner, lower, terms)
                yield record(state, "inner", {"lower": lower, **terms})
            else:
                upper, terms = problem.upper(state.theta, problem.upper_batch(n, state.theta))
                state.descend(state.theta, state.outer, upper, terms)
                yield record(state, "outer", {"upper": upper, **terms})
