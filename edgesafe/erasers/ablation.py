"""Concept ablation: at the concept's prompt, the student answers as it does at the anchor's (Kumari 2023, arXiv 2303.13516, eq. 5).

    L_CU = || eps_theta(x_t, t, c) - sg[eps_theta(x_t, t, a)] ||^2  +  w || eps_theta(x_t, t, a) - eps_frozen(x_t, t, a) ||^2

x_t noised pictures of the anchor, c the prompt with the concept, a the same with its anchor, sg no gradient: the paper's model-based
variant. Its second term is the denoising loss at the anchor, || eps_theta(x_t, t, a) - eps ||^2; the frozen model's answer stands for
eps here, whose mean at x_t it is, so the gradient is the same on average and less noisy, and no picture's own noise is needed.
`goal`: "student" as above, or "frozen": the frozen model's answer at the anchor, which does not drift. eps (B, C, H, W); holds for v.
Cost: one student pass of 2 B rows and one frozen pass of B.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import EdgeSafeError
from ..families import stack
from ..losses import mse
from .gradient import ErasingBatch, GradientEraser, Predict

GOALS = ("student", "frozen")


@dataclass(frozen=True)
class Ablation(GradientEraser):
    goal: str = "student"  # who answers at the anchor: the "student" itself, without gradient, or the "frozen" model
    regularisation: float = 1.0  # w, of staying as it was at the anchor
    anchor_share: float = field(default=1.0, kw_only=True)  # the pictures show the anchor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goal not in GOALS:
            raise EdgeSafeError(f"eraser.goal {self.goal!r} is unknown; known: {', '.join(GOALS)}")
        if self.regularisation < 0:
            raise EdgeSafeError(f"eraser.regularisation {self.regularisation}: needs 0 or more")

    def loss(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        given, rows = stack(batch.concept, batch.anchor), torch.ones(len(batch.noisy), device=batch.noisy.device)
        at_concept, at_anchor = student(batch.noisy.repeat(2, 1, 1, 1), batch.timesteps.repeat(2), *given).chunk(2)
        with torch.no_grad():
            frozen_at_anchor = frozen(batch.noisy, batch.timesteps, *batch.anchor)
        goal = at_anchor.detach() if self.goal == "student" else frozen_at_anchor
        return mse(at_concept, goal, rows) + self.regularisation * mse(at_anchor, frozen_at_anchor, rows)
