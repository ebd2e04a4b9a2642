"""Pruners by name. Adding one = its file, its test, one line in PRUNERS.

A pruner is a frozen dataclass with `prune(teacher) -> Pruned`; `made(student, teacher)` recognises its work by the two configs, and
`features(student)` says where feature KD compares, so that students pruned elsewhere can be distilled too.
"""

from typing import Any

from ..errors import EdgeSafeError
from .bk_sdm import BKSDM
from .none import NoPruning
from .pruned import Pruned

Pruner = BKSDM | NoPruning

PRUNERS: dict[str, Pruner] = {
    "bk-sdm-base": BKSDM("base"),
    "bk-sdm-small": BKSDM("small"),
    "bk-sdm-tiny": BKSDM("tiny"),
    "none": NoPruning(),
}

__all__ = ["PRUNERS", "Pruned", "Pruner", "matched_features", "named"]


def named(name: str) -> Pruner:
    if name not in PRUNERS:
        raise EdgeSafeError(f"--prune {name!r} is unknown; known: {', '.join(PRUNERS)}")
    return PRUNERS[name]


def matched_features(student: dict[str, Any], teacher: dict[str, Any]) -> dict[str, str]:
    """Feature-KD points of a student that was pruned before, from the two UNet configs; empty where no known pruner fits."""
    makers = (pruner for pruner in PRUNERS.values() if pruner.made(student, teacher))
    maker = next(makers, None)
    return maker.features(student) if maker else {}
