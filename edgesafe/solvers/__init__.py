"""Solvers of the two-level problem, by name. Adding one = its file, its test, one line in SOLVERS.

A solver is a frozen dataclass with `two_networks`, whether vartheta is a network of its own, and
`solve(state, problem, steps) -> Iterator[Record]`, which goes on from `state.step`.
"""

from .adaptive import Adaptive
from .alternate import Alternate
from .distil import Distil
from .penalty import Penalty
from .two_stage import TwoStage

Solver = Penalty | Adaptive | Alternate | TwoStage | Distil

SOLVERS: dict[str, type[Solver]] = {
    "penalty": Penalty,
    "adaptive": Adaptive,
    "alternate": Alternate,
    "two-stage": TwoStage,
    "distil": Distil,
}

__all__ = ["SOLVERS", "Adaptive", "Alternate", "Distil", "Penalty", "Solver", "TwoStage"]
