"""A trace without computing against torch's ordinary trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe.export import tracing


class Mixed(nn.Module):
    """Convolutions of each kind, norms, attention, views, upsampling, a buffer and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.norm, self.line = nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.register_buffer("mask", torch.randn(1, 1, 16, 16))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.norm(self.deep(self.first(x)))) + torch.sin(t)[:, None, None, None]
        y = x.flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(self.line(y)[:, None], y[:, None], self.line(y)[:, None], self.mask)[:, 0]
        y = F.layer_norm(y, (8,)).softmax(-1).transpose(1, 2).reshape(x.shape)
        return F.interpolate(torch.cat([x, y], 1), scale_factor=2.0), y.mean((2, 3))


@pytest.mark.filterwarnings("ignore")  # the ordinary trace's
def test_traced_module_computes_what_the_module_does_with_its_own_weights() -> None:
    torch.manual_seed(0)
    module = Mixed().eval().requires_grad_(False)
    given = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 5.0])
    traced = tracing.trace(module, [x.shape for x in given], {})
    assert all(torch.equal(*pair) for pair in zip(traced(*given), module(*given), strict=True))
    assert traced.first.weight.data_ptr() == module.first.weight.data_ptr() and module.first.weight.device.type == "cpu"
    ordinary = torch.jit.trace(module, given, check_trace=False)
    assert [n.kind() for n in traced.inlined_graph.nodes()] == [n.kind() for n in ordinary.inlined_graph.nodes()]


def test_nothing_is_computed() -> None:
    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.T  # 4 x 10^12 bytes

    assert "matmul" in str(tracing.trace(Huge(), [(10**6, 10**6)], {}).graph)


def test_shapes_are_torchs() -> None:
    assert tracing.shapes(Mixed(), [(2, 4, 8, 8), (2,)]) == [(2, 16, 8, 8), (2, 8)]


def test_a_lowering_is_traced_in_place_of_the_function() -> None:
    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.group_norm(x, 2)

    traced = tracing.trace(Norm(), [(1, 4, 2, 2)], {F.group_norm: lambda x, groups, **_: x * groups})
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(traced(x), 2 * x)


def test_an_error_of_the_module_comes_through() -> None:
    with pytest.raises(RuntimeError, match="channel"):
        tracing.trace(Mixed(), [(2, 5, 8, 8), (2,)], {})
