"""Scores by name: what a unit is worth, the larger the better. Adding one = its file, its test, one line in SCORES.

A score is a frozen dataclass with `score(calibration, unet, groups) -> {group name: (count,)}`, and says how its units are best ranked:
"global", across all groups, or "group", each within its own.
"""

from .magnitude import Magnitude
from .spdm import SPDM
from .taylor import Taylor

Score = Magnitude | Taylor | SPDM

SCORES: dict[str, Score] = {"taylor": Taylor(), "taylor-gate": Taylor(gate=True), "spdm": SPDM(), "magnitude": Magnitude()}

__all__ = ["SCORES", "Score"]
