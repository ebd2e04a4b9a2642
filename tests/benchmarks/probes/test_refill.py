from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.benchmarks import sources
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.probes.refill import Refill, complete, matrices, refill, zeros

CUT = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight"


def low_rank(n: int, m: int, rank: int, noise: float = 0.0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    product = torch.randn(n, rank, generator=draws) @ torch.randn(rank, m, generator=draws)
    return product + noise * torch.randn(n, m, generator=draws)


def cut(matrix: torch.Tensor, share: float) -> torch.Tensor:
    """As ConceptPrune: the largest of each row set to zero."""
    count = round(share * matrix.shape[1])
    return matrix.scatter(1, matrix.abs().topk(count, dim=1).indices, 0.0)


def test_completion_finds_a_matrix_of_low_rank() -> None:
    whole = low_rank(40, 60, 2)
    missing = torch.rand(40, 60, generator=torch.Generator().manual_seed(1)) < 0.1
    found = complete(whole.masked_fill(missing, 0.0), missing, 500, 1e-7)
    assert torch.equal(found[~missing], whole[~missing])
    assert (found - whole)[missing].norm() < 0.05 * whole[missing].norm()


def test_a_step_of_completion_is_soft_thresholding() -> None:
    """One iteration against its two textbook halves: columns' means, then singular values less a fiftieth of the largest."""
    whole = low_rank(6, 9, 3, 0.1)
    missing = torch.zeros(6, 9, dtype=torch.bool)
    missing[2, 3] = missing[4, 7] = True
    filled = whole.clone()
    for i, j in ((2, 3), (4, 7)):
        filled[i, j] = torch.tensor([whole[k, j] for k in range(6) if k != i]).mean()
    u, s, v = torch.linalg.svd(filled, full_matrices=False)
    shrunk = u @ torch.diag((s - s.max() / 50).clamp(min=0)) @ v
    found = complete(whole.masked_fill(missing, 0.0), missing, 1, 0.0)
    torch.testing.assert_close(found[missing], shrunk[missing])


def test_refilling_what_an_eraser_cut_is_nearer_than_zeros() -> None:
    whole = low_rank(48, 96, 4, 0.3)
    pruned = cut(whole, 0.03)
    filled = refill(pruned, 0.6, 200, 1e-5)
    gone = pruned == 0
    assert (filled - whole).norm() < 0.6 * (pruned - whole).norm()
    chosen = gone & (filled != 0)
    assert int(chosen.sum()) == round(0.6 * int(gone.sum()))
    assert torch.equal(filled[~gone], whole[~gone])
    assert (filled.sign() == whole.sign())[chosen].float().mean() > 0.95
    largest = pruned.abs().amax(1, keepdim=True).expand_as(whole)
    assert torch.equal(filled[chosen].abs(), largest[chosen])


def test_limits() -> None:
    whole = low_rank(8, 12, 3)
    assert torch.equal(refill(whole, 0.6, 50, 1e-5), whole)  # no zeros
    assert torch.equal(refill(cut(whole, 0.2), 0.0, 50, 1e-5), cut(whole, 0.2))  # nothing is to be refilled
    every = refill(cut(whole, 0.2), 1.0, 50, 1e-5)
    assert (every != 0).all()
    empty = cut(whole, 0.2)
    empty[3] = 0
    assert (refill(empty, 1.0, 50, 1e-5)[3] == 0).all()  # a row of zeros has no magnitude to take


def test_which_zeros_are_more_than_chance() -> None:
    few, many, small = torch.ones(1000, 1000), torch.ones(1000, 1000), torch.ones(8, 8)
    few.view(-1)[:99], many.view(-1)[:100], small.view(-1)[:7] = 0, 0, 0
    found = zeros({"few": few, "many": many, "small": small, "all": torch.zeros(9, 9)})
    assert {name: row["unusual"] for name, row in found.items()} == {"few": False, "many": True, "small": False, "all": False}
    assert found["many"] == {"zeros": 100, "weights": 10**6, "unusual": True}


def test_a_model_without_zeros_is_its_own_refilled_self(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of("neon", 2)
    assert Refill().model(target, cell) == (target.source, target.runtime)
    net = model.load(target.source.place)
    count = sum(w.numel() for _, w in matrices(net.unet))
    assert Refill().found(target, cell).startswith(f"no zeros to refill: 0 of {count} weights in {len(matrices(net.unet))} matrices")
    assert Refill().redraws is False  # so its pictures are the plain ones, drawn once


@pytest.fixture
def pruned(target: Target, tmp_path: Path) -> Target:
    """The tiny pipeline with a tenth of one FFN matrix set to zero."""
    net = model.load(target.source.place)
    weight = net.unet.get_parameter(CUT)
    weight.copy_(cut(weight, 0.1))
    model.save(net, tmp_path / "pruned", torch.float32)
    source = sources.describe(tmp_path / "pruned")
    return replace(target, source=source, twin=source)


def test_only_what_was_cut_is_refilled(pruned: Target, cell_of: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    pruned = replace(pruned, progress=said.append)
    source, runtime = Refill().model(pruned, cell_of("neon", 2))
    assert runtime == "torch" and source.place != pruned.source.place
    before, after = (model.load(place).unet.state_dict() for place in (pruned.source.place, source.place))
    assert [name for name in before if not torch.equal(before[name], after[name])] == [CUT]
    holes = before[CUT] == 0
    filled = int((after[CUT][holes] != 0).sum())
    assert filled == round(0.6 * int(holes.sum())) > 0
    assert torch.equal(after[CUT][~holes], before[CUT][~holes])
    assert f"{int(holes.sum())} of " in (told := Refill().found(pruned, cell_of("neon", 2))) and told.endswith(
        f"{filled} refilled in 1 matrices"
    )
    assert said == ["refill: matrix 1 of 1"]
    monkeypatch.setattr(model, "load", None)  # all is kept
    assert Refill().model(pruned, cell_of("egg", 2)) == (source, "torch")
