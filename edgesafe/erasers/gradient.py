"""What erasers that train have in common: which weights move, whom they ask, and which noised pictures they see."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import EdgeSafeError
from ..families import Conditions
from .parameters import SUBSETS

Predict = Callable[..., Tensor]  # (x_t, t, *conditions) -> prediction (B, C, H, W)
FROZEN = ("student", "teacher")
PICTURES = ("data", "teacher", "student")


@dataclass(frozen=True)
class ErasingBatch:
    """What an upper-level loss sees: B noised pictures and what the UNet reads of three captions each."""

    noisy: Tensor  # (B, C, H, W) x_t
    timesteps: Tensor  # (B,)
    concept: Conditions
    anchor: Conditions
    empty: Conditions


@dataclass(frozen=True, kw_only=True)
class GradientEraser(ABC):
    parameters: str = "x"  # weights it may move: x | strict | u | selfattn | full
    frozen: str = "teacher"  # the model that answers: the "teacher", or the "student" as it was, if it was distilled before (cheaper)
    pictures: str = "data"  # x_t: noised concept pictures of the "data" or drawn by the "teacher"; or on the way, by the "student"
    anchor_share: float = 0.5  # of the pictures show the anchor instead: where an erased student's own x_t will lie
    guidance: float = 3.0  # of pictures = "student"

    def __post_init__(self) -> None:
        for name, known in (("parameters", tuple(SUBSETS)), ("frozen", FROZEN), ("pictures", PICTURES)):
            if getattr(self, name) not in known:
                raise EdgeSafeError(f"eraser.{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}")
        if not 0 <= self.anchor_share <= 1:
            raise EdgeSafeError(f"eraser.anchor_share {self.anchor_share}: needs 0 to 1")

    @abstractmethod
    def loss(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        """L_CU, a scalar with a gradient in the student's weights."""
