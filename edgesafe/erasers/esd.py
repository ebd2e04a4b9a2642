"""ESD: fine-tune the student so that the concept's prompt no longer leads to the concept (Gandikota 2023, arXiv 2303.07345, eq. 7).

    L_CU(theta) = || eps_theta(x_t, t, c) - goal ||^2,   goal from the frozen model, without guidance:

    esd       e_0 - eta (e_c - e_0)    the paper: away from the concept, from the empty caption
    anchor    e_a                      concept ablation (Kumari 2023): the anchor instead
    anchored  e_a - eta (e_c - e_a)    the anchor, pushed away from the concept: what else was asked stays in the picture

c the prompt with the concept, a the same prompt with its anchor, 0 the empty caption, e (B, C, H, W). Holds for v as for eps.
Guidance at sampling multiplies eta, so keep eta well below 1 with "anchored". One step costs a student forward and backward pass
and two frozen forward passes ("anchor": one).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EdgeSafeError
from ..losses import erasing_target, mse
from .parameters import SUBSETS

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, text states) -> prediction
TARGETS = ("anchored", "anchor", "esd")
FROZEN = ("student", "teacher")
PICTURES = ("data", "teacher", "student")


@dataclass(frozen=True)
class ErasingBatch:
    """What an upper-level loss sees: B noised pictures and the text states (B, S, C) of three captions."""

    noisy: Tensor  # (B, C, H, W) x_t
    timesteps: Tensor  # (B,)
    concept: Tensor
    anchor: Tensor
    empty: Tensor


@dataclass(frozen=True)
class ESD:
    target: str = "anchored"  # "anchored" | "anchor" | "esd"
    eta: float = 0.1  # strength of the push away from the concept
    parameters: str = "x"  # weights it may move: x | strict | u | selfattn | full
    frozen: str = "teacher"  # the model e comes from: the "teacher", or the "student" as it was, if it was distilled before (cheaper)
    pictures: str = "data"  # x_t: noised concept pictures of the "data" or drawn by the "teacher"; or on the way, by the "student"
    anchor_share: float = 0.5  # of the pictures show the anchor instead: where an erased student's own x_t will lie
    guidance: float = 3.0  # of pictures = "student"

    def __post_init__(self) -> None:
        for name, known in (("target", TARGETS), ("parameters", tuple(SUBSETS)), ("frozen", FROZEN), ("pictures", PICTURES)):
            if getattr(self, name) not in known:
                raise EdgeSafeError(f"eraser.{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}")
        if self.eta < 0:
            raise EdgeSafeError(f"eraser.eta {self.eta}: needs 0 or more")
        if not 0 <= self.anchor_share <= 1:
            raise EdgeSafeError(f"eraser.anchor_share {self.anchor_share}: needs 0 to 1")

    def loss(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        """L_CU, a scalar."""
        asked = {"esd": ("concept", "empty"), "anchor": ("anchor",), "anchored": ("concept", "anchor")}[self.target]
        n = len(asked)
        with torch.no_grad():
            states = torch.cat([getattr(batch, name) for name in asked])
            answers = frozen(batch.noisy.repeat(n, 1, 1, 1), batch.timesteps.repeat(n), states).chunk(n)
        goal = erasing_target(self.target, self.eta, **dict(zip(asked, answers, strict=True)))
        prediction = student(batch.noisy, batch.timesteps, batch.concept)
        return mse(prediction, goal, torch.ones(len(goal), device=goal.device))
