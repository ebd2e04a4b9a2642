"""Adversarial erasing: erase at what an attacker would ask in the concept's place (AdvUnlearn, Zhang 2024, arXiv 2405.15234, eq. 3-5).

    delta* = argmin over ||delta|| <= r ||c||  of  || eps_theta(x_t, t, c + delta) - eps_frozen(x_t, t, c) ||^2          the attacker
    L_CU   = || eps_theta(x_t, t, c + delta*) - goal ||^2  on a share of the rows,  at c on the others                   the eraser

goal ESD's, as esd.py says; c (B, S, D) the prompt's states, the first of what the UNet reads, which alone the attacker moves. K steps of
projected gradient descent from 0, each along the gradient's direction and as long as `rate` r ||c||, falling linearly, so that neither the
gradient's scale nor a random draw matters. AdvUnlearn moves the text encoder and attacks by a token; here the UNet moves, which every
family has in common, and the attack is on the states, of which a token's are a part. `shared`: one delta for all rows, as one learned
token serves all prompts. Cost over ESD's: K student passes forward and backward and one frozen pass, of `share` of the rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import EdgeSafeError
from .esd import ESD
from .gradient import ErasingBatch, Predict


@dataclass(frozen=True)
class Adversarial(ESD):
    attack_steps: int = 4  # K; 0 is ESD
    radius: float = 0.5  # r, of the states' norm; 0 is ESD
    rate: float = 0.5  # of the radius, the first step's length
    share: float = 0.5  # of the rows that the attacker moves
    shared: bool = False  # one delta for all rows

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("attack_steps", "radius"):
            if getattr(self, name) < 0:
                raise EdgeSafeError(f"eraser.{name} {getattr(self, name)}: needs 0 or more")
        if not self.rate > 0:
            raise EdgeSafeError(f"eraser.rate {self.rate}: needs more than 0")
        if not 0 <= self.share <= 1:
            raise EdgeSafeError(f"eraser.share {self.share}: needs 0 to 1")

    def loss(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        moved = spread(round(self.share * len(batch.noisy)), len(batch.noisy))
        delta = self.attack(student, frozen, of_rows(batch, moved)) if len(moved) and self.radius and self.attack_steps else None

        def attacked(noisy: Tensor, timesteps: Tensor, states: Tensor, *others: Tensor) -> Tensor:
            if delta is not None:
                states = states.index_add(0, moved.to(states.device), delta.to(states.dtype).expand(len(moved), -1, -1))
            return student(noisy, timesteps, states, *others)

        return super().loss(attacked, frozen, batch)

    def attack(self, student: Predict, frozen: Predict, batch: ErasingBatch) -> Tensor:
        """delta* (B, S, D), or (1, S, D) where it is shared."""
        states, others = batch.concept[0], batch.concept[1:]
        with torch.no_grad():
            wanted = frozen(batch.noisy, batch.timesteps, *batch.concept).float()
        limit = self.radius * norm(states.float())
        limit = limit.mean(0, keepdim=True) if self.shared else limit
        delta = torch.zeros_like(states[:1] if self.shared else states, dtype=torch.float32)
        for step in range(self.attack_steps):
            delta.requires_grad_()
            answer = student(batch.noisy, batch.timesteps, states + delta.to(states.dtype), *others)
            error = (answer.float() - wanted).square().flatten(1).mean(1).sum()
            (gradient,) = torch.autograd.grad(error, delta)
            length = self.rate * limit * (1 - step / self.attack_steps)
            delta = inside(delta.detach() - length * gradient / norm(gradient), limit)
        return delta


def spread(n: int, rows: int) -> Tensor:
    """(n,) places, evenly: a batch lists its concepts one after the other, and each is to be attacked."""
    return torch.arange(n) * rows // max(n, 1)


def of_rows(batch: ErasingBatch, rows: Tensor) -> ErasingBatch:
    given = {name: tuple(column[rows] for column in getattr(batch, name)) for name in ("concept", "anchor", "empty")}
    return replace(batch, noisy=batch.noisy[rows], timesteps=batch.timesteps[rows], **given)


def norm(states: Tensor) -> Tensor:
    """(B, 1, 1) of (B, S, D); never 0."""
    return states.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1)


def inside(delta: Tensor, limit: Tensor) -> Tensor:
    """The nearest point of the ball of radius `limit` (B, 1, 1)."""
    return delta * (limit / norm(delta)).clamp(max=1)
