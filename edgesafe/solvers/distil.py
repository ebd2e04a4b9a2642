"""The lower level alone: min_theta L_ft(theta), plain distillation. What `--erase none` runs."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..bilevel import Problem, Record, State, lower_step


@dataclass(frozen=True)
class Distil:
    two_networks = False

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        while state.step < steps:
            yield lower_step(state, problem)
