"""What pruners of inner widths have in common: a target for the whole UNet, and students whose block outputs keep their width."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import EdgeSafeError
from .none import NoPruning
from .pruned import same_shape


@dataclass(frozen=True, kw_only=True)
class InnerWidths:
    macs: float = 0.0  # share of the teacher's UNet that stays; 0: not the target
    params: float = 0.0
    multiple: int = 1  # widths stay multiples of so many channels where they are

    name: ClassVar[str]  # in PRUNERS
    calibrates: ClassVar[bool] = True  # needs a Calibration

    def __post_init__(self) -> None:
        for name in ("macs", "params"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgeSafeError(f"--{name} {getattr(self, name)}: needs a share of the UNet, more than 0 and up to 1, such as 0.5")
        if self.multiple < 1:
            raise EdgeSafeError(f"{self.name}.multiple {self.multiple}: needs 1 or more")

    @property
    def target(self) -> tuple[str, float]:
        """("macs" | "params", share)"""
        if (self.macs > 0) == (self.params > 0):
            raise EdgeSafeError(
                f"--prune {self.name} needs one target: the share of the UNet that stays, as --macs 0.5 or --params 0.5"
            )
        return ("macs", self.macs) if self.macs > 0 else ("params", self.params)

    def features(self, student: dict[str, Any]) -> dict[str, str]:
        return NoPruning().features(student)

    def made(self, student: dict[str, Any], teacher: dict[str, Any]) -> bool:
        return bool(student.get("widths")) and same_shape(student, teacher)
