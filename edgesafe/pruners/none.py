"""No pruning: the student is a copy of the teacher, and feature KD compares blocks of the same name."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import UNet2DConditionModel

from .pruned import Calibration, Pruned, same_shape


@dataclass(frozen=True)
class NoPruning:
    calibrates: ClassVar[bool] = False

    def features(self, student: dict[str, Any]) -> dict[str, str]:
        names = [f"{side}_blocks.{i}" for side in ("down", "up") for i in range(len(student[f"{side}_block_types"]))]
        return {name: name for name in names}

    def prune(self, teacher: UNet2DConditionModel, calibration: Calibration | None = None) -> Pruned:
        student = copy.deepcopy(teacher)
        return Pruned(student, {name: name for name in student.state_dict()}, self.features(dict(student.config)))

    def made(self, student: dict[str, Any], teacher: dict[str, Any]) -> bool:
        return same_shape(student, teacher)
