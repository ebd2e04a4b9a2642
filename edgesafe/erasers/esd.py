"""ESD: fine-tune the student so that the concept's prompt no longer leads to the concept (Gandikota 2023, arXiv 2303.07345, eq. 7).

    L_CU(theta) = || eps_theta(x_t, t, c) - goal ||^2,   goal from the frozen model, without guidance:

    esd       e_0 - eta (e_c - e_0)    the paper: away from the concept, from the empty caption
    anchor    e_a                      concept ablation (Kumari 2023): the anchor instead
    anchored  e_a - eta (e_c - e_a)    the anchor, pushed away from the concept: what else was asked stays in the picture

c the prompt with the concept, a the same prompt with its anchor, 0 the empty caption, e (B, C, H, W). Holds for v as for eps.
As published: target "esd", eta 1, parameters "x" or "u", pictures "student" (x_t on the way, guidance 3), anchor_share 0, erase_rate 1e-5,
after distilling (solver two-stage). The authors' later code writes e_c - eta (e_c - e_0), whose eta 2 is eta 1 here, at 5e-5.
Guidance at sampling multiplies eta, so keep eta well below 1 with "anchored". One step costs a student forward and backward pass
and two frozen forward passes ("anchor": one).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EdgeSafeError
from ..families import stack
from ..losses import erasing_target, mse
from .gradient import ErasingBatch, GradientEraser, Predict

TARGETS = ("anchored", "anchor", "esd")


@dataclass(frozen=True)
class ESD(GradientEraser):
    target: str = "anchored"  # "anchored" | "anchor" | "esd"
    eta: float = 0.1  # strength of the push away from the concept

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in TARGETS:
            raise EdgeSafeError(f"eraser.target {self.target!r} is unknown; known: {', '.join(TARGETS)}")
        if self.eta < 0:
            raise EdgeSafeError(f"eraser.eta {self.eta}: needs 0 or more")

    def loss(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        asked = {"esd": ("concept", "empty"), "anchor": ("anchor",), "anchored": ("concept", "anchor")}[self.target]
        n = len(asked)
        with torch.no_grad():
            given = stack(*(getattr(batch, name) for name in asked))
            answers = frozen(batch.noisy.repeat(n, 1, 1, 1), batch.timesteps.repeat(n), *given).chunk(n)
        goal = erasing_target(self.target, self.eta, **dict(zip(asked, answers, strict=True)))
        prediction = student(batch.noisy, batch.timesteps, *batch.concept)
        return mse(prediction, goal, torch.ones(len(goal), device=goal.device))
