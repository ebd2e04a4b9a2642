"""The lower level alone: min_theta L_ft(theta), plain distillation. What `--erase none` runs."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..bilevel import Problem, Record, State, record


@dataclass(frozen=True)
class Distil:
    two_networks = False

    def solve(self, state: State, problem: Problem, steps: int) -> Iterator[Record]:
        while (n := state.step) < steps:
            lower, terms = problem.lower(state.theta, problem.lower_batch(n))
            state.descend(state.theta, state.inner, lower, terms)
            yield record(state, "inner", {"lower": lower, **terms})
