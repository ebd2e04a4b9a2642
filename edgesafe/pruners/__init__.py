"""Pruners by name. Adding one = its file, its test, one line in PRUNERS.

A pruner is a frozen dataclass with `prune(teacher, calibration) -> Pruned`; `made(student, teacher)` recognises its work by the two
configs, and `features(student)` says where feature KD compares, so that students pruned elsewhere can be distilled too. One that
`calibrates` looks at data, and has a `target`: ("macs" | "params", share of the teacher's UNet that stays).
"""

from typing import Any

import torch

from ..errors import EdgeSafeError
from ..model import TextToImage
from .aptp import APTP
from .bk_sdm import BKSDM
from .cost import cost, solve
from .inner_widths import InnerWidths
from .none import NoPruning
from .pruned import Calibration, Pruned
from .units import groups
from .width import Width

Pruner = BKSDM | NoPruning | Width | APTP

PRUNERS: dict[str, Pruner] = {
    "bk-sdm-base": BKSDM("base"),
    "bk-sdm-small": BKSDM("small"),
    "bk-sdm-tiny": BKSDM("tiny"),
    "width": Width(),
    "aptp": APTP(),
    "none": NoPruning(),
}

__all__ = ["PRUNERS", "Calibration", "Pruned", "Pruner", "check_target", "matched_features", "named"]


def named(name: str) -> Pruner:
    if name not in PRUNERS:
        raise EdgeSafeError(f"--prune {name!r} is unknown; known: {', '.join(PRUNERS)}")
    return PRUNERS[name]


def check_target(pruner: Pruner, teacher: TextToImage) -> None:
    """Raises: EdgeSafeError for a target that no choice of units reaches."""
    if not isinstance(pruner, InnerWidths):
        return
    of, share = pruner.target
    found = groups(teacher.unet)
    spent = cost(teacher.unet, teacher.latent_shape, teacher.tokenizer.model_max_length, found)
    solve(found, {group.name: torch.zeros(group.count) for group in found}, spent, share, of, pruner.multiple)


def matched_features(student: dict[str, Any], teacher: dict[str, Any]) -> dict[str, str]:
    """Feature-KD points of a student that was pruned before, from the two UNet configs; empty where no known pruner fits."""
    makers = (pruner for pruner in PRUNERS.values() if pruner.made(student, teacher))
    maker = next(makers, None)
    return maker.features(student) if maker else {}
