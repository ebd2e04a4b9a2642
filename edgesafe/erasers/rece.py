"""RECE: UCE, then again for the text states that bring the concept back, a few rounds (Gong 2024, arXiv 2407.12383, eq. 7 to 10).

    c' = argmin_x sum_i ||W'_i x - W_i c||^2 + mu ||x||^2 = (mu I + sum_i W'_i^T W'_i)^-1 (sum_i W'_i^T W_i) c

W_i (O_i, D) the cross-attention keys and values as they were, W'_i = W_i M as edited so far; c, c' (D,). A round makes c' of each of the
concept's states and edits W_i for c and for the c' of every round so far, which share the weight s_e; W' c' -> W a, what is kept as in
UCE. mu is given in units of the mean eigenvalue of sum_i W_i^T W_i, so that it means the same for networks of any size; the smaller it
is, the further c' may lie from any prompt's states. A round costs two solves of (D, D).

The published code edits the W' of the round before, for its c' alone. Tried on the emoji model, erasing neon (sepia), three rounds: that
forgot what the rounds before had held, and c' then brought back 0.61 (0.73) of the way from anchor to concept, more than the 0.57 (0.57)
after UCE; with all of them held, 0.46 (0.38).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EdgeSafeError
from .closed_form import Edit
from .uce import UCE, edit_map, effect, gram, keys_and_values, length, write


@dataclass(frozen=True)
class RECE(UCE):
    rounds: int = 1  # after UCE's own edit; 0 is UCE
    mu: float = 0.1  # of the adversarial state's squared norm, in mean eigenvalues of sum W^T W

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0:
            raise EdgeSafeError(f"eraser.rounds {self.rounds}: needs 0 or more")
        if not self.mu > 0:
            raise EdgeSafeError(f"eraser.mu {self.mu}: needs more than 0")

    def edit(self, work: Edit) -> dict[str, float]:
        weights = keys_and_values(work.unet)
        E, A, P = self.states(work)
        before = [w.detach().cpu().double() for w in weights]
        G = gram(before)
        mu = self.mu * float(G.trace()) / len(G)
        held, anchors = E, A
        for turn in range(self.rounds + 1):
            M = edit_map(held, anchors, P, self.lambda_, self.erase / len(held), self.keep / len(P))
            if turn < self.rounds:
                held, anchors = torch.cat([held, E @ adversary(G, M, mu).T]), torch.cat([anchors, A])
        write(weights, [w @ M for w in before])
        brought_back = E @ adversary(G, M, mu).T @ M.T
        returns = 1 - length(G, brought_back - E) / length(G, E - A)
        return {"weights_edited": len(weights), **effect(G, M, E, A, P), "adversary_returns": returns}


def adversary(G: Tensor, M: Tensor, mu: float) -> Tensor:
    """T (D, D) with c' = T c, of G = sum_i W_i^T W_i and W'_i = W_i M."""
    edited = M.T @ G
    return torch.linalg.solve(edited @ M + mu * torch.eye(len(G), dtype=G.dtype), edited)
