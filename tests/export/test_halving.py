"""Our conversion to fp16 against coremltools' own: the same program and the same weights, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesafe import mil
from edgesafe.errors import EdgeSafeError
from edgesafe.export import halving, mlprogram
from edgesafe.export.mlpackage import Package
from edgesafe.export.mlprogram import Port

IN, OUT = [Port("x", (1, 8, 6, 6)), Port("timestep", (1,))], [Port("y", (1, 8, 6, 6))]


class Small(nn.Module):
    """What a UNet is made of, around an angle that fp16 would round away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.line = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Linear(16, 16)
        self.emb, self.back, self.same = nn.Linear(8, 16), nn.Conv2d(16, 8, 1), nn.LayerNorm(16)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep[:, None] * torch.exp(-torch.arange(4, device=timestep.device) / 2.0)
        emb = self.emb(torch.cat([angle.sin(), angle.cos()], -1))
        x = self.norm(self.conv(x)) + emb[:, :, None, None]
        y = self.same(x.flatten(2).transpose(1, 2))
        y = torch.nn.functional.scaled_dot_product_attention(self.line(y), self.line(y), y)
        return self.back(y.transpose(1, 2).reshape(x.shape))


def plain(module: nn.Module, folder: Path, selector: Callable[[Any], bool]) -> Path:
    """As coremltools' guide has it."""
    ct = mlprogram._coremltools()
    with torch.no_grad():
        traced = torch.jit.trace(module, tuple(torch.ones(port.shape) for port in IN), check_trace=False)
    made = ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[ct.TensorType(port.name, port.shape, np.float32) for port in IN],
        outputs=[ct.TensorType(port.name, dtype=np.float32) for port in OUT],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.transform.FP16ComputePrecision(selector),
        skip_model_load=True,
    )
    made.save(str(folder / "plain.mlpackage"))
    return folder / "plain.mlpackage"


def structure(path: Path) -> list[Any]:
    """Operations in order with what they read by position, and every constant's value: all but the names of intermediate values."""
    package, place, rows = Package(path), {}, []
    for operation in package.block.operations:
        reads = {key: [place.get(b.name, b.name) for b in a.arguments] for key, a in operation.inputs.items()}
        types = [output.type.SerializeToString(deterministic=True) for output in operation.outputs]
        value = operation.attributes["val"]
        rows.append((operation.type, reads, types, value.immediateValue.SerializeToString(deterministic=True), value.blobFileValue.offset))
        place.update({output.name: len(place) + i for i, output in enumerate(operation.outputs)})
    return rows


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def of_the_angle(operation: Any) -> bool:
    children = [child for output in operation.outputs for child in output.child_ops]
    return operation.op_type in ("sin", "cos") or (operation.op_type in halving.UPSTREAM and any(map(of_the_angle, children)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("large", [16, 100, 2**16])
def test_is_coremltools_own_conversion(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(halving, "LARGE", large)
    mlprogram.convert(module, IN, OUT, "fp16", "iOS17", tmp_path / "ours.mlpackage")
    theirs = plain(module, tmp_path, lambda operation: not of_the_angle(operation))
    assert structure(tmp_path / "ours.mlpackage") == structure(theirs)
    weights = halving.BLOB
    assert (tmp_path / "ours.mlpackage" / weights).read_bytes() == (theirs / weights).read_bytes()
    names = set(mil.load(tmp_path / "ours.mlpackage").constants)
    assert names == set(mil.load(theirs).constants) and "conv_weight_to_fp16" in names


def test_a_weight_beyond_fp16_keeps_its_layer_fp32(module: nn.Module, tmp_path: Path) -> None:
    module.back.weight[0, 0] = 1e6
    mlprogram.convert(module, IN, OUT, "fp16", "iOS17", tmp_path / "x.mlpackage")
    stored = {name: weight.dtype for name, weight in mil.load(tmp_path / "x.mlpackage").constants.items()}
    assert stored["back_weight"] == "fp32" and stored["conv_weight_to_fp16"] == "fp16"


def test_a_weight_that_is_not_where_it_was_left_is_named(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halving, "LARGE", 100)
    path, kept = tmp_path / "x.mlpackage", []
    fill = halving.fill
    monkeypatch.setattr(halving, "fill", lambda _, held: kept.extend(held))
    mlprogram.convert(module, IN, OUT, "fp16", "iOS17", path)
    turned = halving.Held(kept[0].name, kept[0].mark, kept[0].weight.T)
    for row in (turned, halving.Held("gone", 1, kept[0].weight), halving.Held(kept[0].name, 999, kept[0].weight)):
        with pytest.raises(EdgeSafeError, match=rf"x.mlpackage: coremltools changed {row.name}. Use the version"):
            fill(path, [row])
    fill(path, kept)
    with pytest.raises(EdgeSafeError, match="coremltools changed"):
        fill(path, kept)  # no marks any more


def test_without_fp16_nothing_is_marked(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halving, "LARGE", 1)
    mlprogram.convert(module, IN, OUT, "fp32", "iOS17", tmp_path / "x.mlpackage")
    weights = mil.load(tmp_path / "x.mlpackage").constants
    torch.testing.assert_close(weights["conv_weight"].tensor(), module.conv.weight, rtol=0, atol=0)
