"""GroupNorm for fp16 against torch's, and in the evaluator's simulated fp16 where coremltools' own form fails."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe import mil
from edgesafe.export import mlprogram, norms, parity
from edgesafe.export.mlprogram import Port


@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 8, 6, 4)])
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("deviation", [0.0, 1e-5, 1.0, 2000.0])
def test_is_torchs_group_norm(shape: tuple[int, ...], eps: float, deviation: float) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape) * deviation + 3 * deviation, torch.randn(8), torch.randn(8)
    torch.testing.assert_close(norms.group_norm(x, 4, weight, bias, eps), F.group_norm(x, 4, weight, bias, eps), atol=1e-5, rtol=1e-5)


class Deviating(nn.Module):
    """Activations of the deviation `size` before a norm."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 1)
        with torch.no_grad():
            self.first.weight *= size / 0.57

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.norm(self.first(x))))


def decibels(size: float, lowerings: dict, folder: Path) -> tuple[float, dict[str, int]]:
    torch.manual_seed(0)
    module, x = Deviating(size).eval().requires_grad_(False), torch.randn(1, 4, 16, 16)
    assert 0.9 < module.first(x).std() / size < 1.1
    folder.mkdir(exist_ok=True)
    mlprogram.convert(module, [Port("x", (1, 4, 16, 16))], [Port("y", (1, 3, 16, 16))], "fp16", "iOS17", folder / "x.mlpackage", lowerings)
    count = mlprogram.check(folder / "x.mlpackage", [Port("x", (1, 4, 16, 16))], [Port("y", (1, 3, 16, 16))])
    return parity.compare("norm", module(x), mil.load(folder / "x.mlpackage")(half=True, x=x)["y"])[0], count


def test_a_deviation_of_2000_survives_fp16_and_fails_in_coremltools_form(tmp_path: Path) -> None:
    theirs, before = decibels(2000.0, {}, tmp_path / "theirs")
    ours, after = decibels(2000.0, {F.group_norm: norms.group_norm}, tmp_path / "ours")
    assert theirs < 20 and ours > 60
    assert after.total() - after["const"] - (before.total() - before["const"]) == 7


def test_small_deviations_lose_nothing(tmp_path: Path) -> None:
    assert decibels(0.3, {F.group_norm: norms.group_norm}, tmp_path)[0] > 60
