"""Refilling zeros: where an eraser set weights to zero, the zeros tell where the concept was, and the rest of the matrix what they were.

"Roots Beneath the Cut: Uncovering the Risk of Concept Revival in Pruning-Based Unlearning for Diffusion Models", CVPR 2026,
arXiv 2603.06640. Without data or training, for each weight matrix W (n, m; a convolution as outputs x the rest) that has more exact zeros
Z than chance gives:

    1  W' = SoftImpute(W, Z missing): fill with the columns' means; repeat W' <- W outside Z, (U max(s - tau, 0) V^T) in Z,
       tau a fiftieth of the first s, until W' moves by less than `tolerance`        (Mazumder 2010)
    2  of Z the `share` with the largest |W'| is refilled, the rest stays zero
    3  W_ij = sign(W'_ij) max over k not in Z of |W_ik|: an eraser takes the large ones

Read from the torch weights, whose zeros an fp32 or fp16 export has too; rounding to 8 bits or fewer makes zeros of its own that hide them.
Where no matrix has such zeros nothing is changed: the model is its own refilled self, and the plain figures hold for this probe.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from edgesafe import model

from .. import sources
from ..leakage import Cell
from ..sources import Source
from . import learned
from .probe import Probe, Target, there

CHANCE = 1e-4  # a share of zeros that fp16 rounding of trained weights stays below, by a hundred times
FEWEST = 8  # zeros in a matrix, so that one by chance in a small one is no trace


@dataclass(frozen=True)
class Refill(Probe):
    share: float = 0.6  # of a matrix's zeros, refilled
    iterations: int = 100  # of SoftImpute, at most
    tolerance: float = 1e-5  # relative change of the matrix that ends it

    name: ClassVar[str] = "refill"
    attacker: ClassVar[str] = "files"
    needs: ClassVar[frozenset[str]] = frozenset({"twin"})
    control_asked: ClassVar[str] = "plain"  # the un-erased model has nothing to refill
    what: ClassVar[str] = "the plain prompts, after weights that an eraser set to zero were filled again from the rest of their matrix"
    source_of_method: ClassVar[str] = "Roots Beneath the Cut, CVPR 2026, arXiv 2603.06640"

    def model(self, target: Target, cell: Cell) -> tuple[Source, str]:
        folder, facts = self._refilled(target)
        return (sources.describe(folder), "torch") if facts["refilled"] else (target.source, target.runtime)

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on the zeros there were."""
        facts = self._refilled(target)[1]
        count, weights = sum(row["zeros"] for row in facts["layers"].values()), sum(row["weights"] for row in facts["layers"].values())
        seen = f"{count} of {weights} weights in {len(facts['layers'])} matrices are exactly 0"
        if not facts["refilled"]:
            return f"no zeros to refill: {seen}, no more than chance in any matrix, so the plain pictures are this probe's"
        return f"{seen}; {facts['refilled']} refilled in {sum(row['unusual'] for row in facts['layers'].values())} matrices"

    def _refilled(self, target: Target) -> tuple[Path, dict]:
        folder = learned.place(self, target, "refilled")
        facts = folder.with_name(folder.name + ".json")
        if not facts.is_file():
            net = model.load(there(target.twin).place)
            weights = dict(matrices(net.unet))
            layers = zeros(weights)
            named = [name for name, row in layers.items() if row["unusual"]]
            refilled = 0
            for i, name in enumerate(named):
                target.progress(f"{self.name}: matrix {i + 1} of {len(named)}")
                matrix = weights[name].flatten(1)
                filled = refill(matrix, self.share, self.iterations, self.tolerance)
                refilled += int(((matrix == 0) & (filled != 0)).sum())
                weights[name].copy_(filled.view_as(weights[name]))
            if named:
                part = folder.with_name(folder.name + ".part")
                shutil.rmtree(part, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
                model.save(net, part, torch.float32)
                part.rename(folder)
            learned.write(facts, {"refilled": refilled, "layers": layers})
        return folder, learned.read(facts) or {}


def matrices(network: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Name and weight of every matrix and convolution."""
    return [(name, weight.data) for name, weight in network.named_parameters() if weight.ndim >= 2]


def zeros(weights: Mapping[str, Tensor]) -> dict[str, dict]:
    """Each matrix's exact zeros, and whether they are more than chance; a matrix of zeros alone gives nothing to complete."""
    rows = {}
    for name, weight in weights.items():
        count, size = int((weight == 0).sum()), weight.numel()
        rows[name] = {"zeros": count, "weights": size, "unusual": max(FEWEST, CHANCE * size) <= count < size}
    return rows


def refill(matrix: Tensor, share: float, iterations: int, tolerance: float) -> Tensor:
    """Steps 1 to 3; (n, m) in, (n, m) out, equal outside the zeros."""
    missing = matrix == 0
    count = round(share * int(missing.sum()))
    if not count:
        return matrix.clone()
    completed = complete(matrix, missing, iterations, tolerance)
    guesses = completed[missing].abs()
    kept = torch.zeros(len(guesses), dtype=torch.bool)
    kept[guesses.argsort(descending=True, stable=True)[:count]] = True
    chosen = torch.zeros_like(missing)
    chosen[missing] = kept
    largest = matrix.abs().amax(1, keepdim=True).expand_as(matrix)  # 0 in a row of zeros, which stays as it is
    return torch.where(chosen, completed.sign() * largest, matrix)


def complete(matrix: Tensor, missing: Tensor, iterations: int, tolerance: float) -> Tensor:
    """SoftImpute: (n, m) with the `missing` entries guessed by soft-thresholded singular values."""
    known = (~missing).sum(0).clamp(min=1)
    filled = torch.where(missing, (matrix / known).sum(0), matrix)  # the columns' means; missing entries are 0 in the sum
    tau = torch.linalg.matrix_norm(filled, 2) / 50
    for _ in range(iterations):
        u, s, v = torch.linalg.svd(filled, full_matrices=False)
        guess = torch.where(missing, (u * (s - tau).clamp(min=0)) @ v, matrix)
        moved = (guess - filled).norm() / filled.norm().clamp(min=1e-12)
        filled = guess
        if moved < tolerance:
            break
    return filled
