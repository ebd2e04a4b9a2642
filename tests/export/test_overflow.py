"""fp16 where values pass 65,504: infinite before, in fp32 and right after; and static files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgesafe import model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import fixed, graph, half, layout, onnx_files, overflow, parity
from edgesafe.export.config import ExportConfig
from edgesafe.export.onnx import Onnx


def loud(folder: Path) -> model.TextToImage:
    """One convolution of the UNet and one of the VAE's decoder give values up to 3e5; GroupNorms after them take that away again."""
    loaded = model.load(folder)
    seen: list[float] = []
    x, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    for part, call in ((loaded.unet, lambda: loaded.unet(x, 500, states)), (loaded.vae.decoder, lambda: loaded.vae.decode(x))):
        layer = part.mid_block.resnets[0].conv2
        hook = layer.register_forward_hook(lambda _, inputs, output: seen.append(float(output.abs().max())))
        with torch.no_grad():
            call()
        hook.remove()
        for parameter in (layer.weight, layer.bias):
            parameter.data *= 3e5 / seen[-1]
    return loaded


def test_what_overflows_stays_fp32_and_the_rest_is_fp16(tiny_sd1: Path, tmp_path: Path) -> None:
    loaded = loud(tiny_sd1)
    recording = parity.record(loaded, ("red apple",), 64, 64, lambda: None, 1)
    target = Onnx.plan(ExportConfig(precision="fp16"), loaded)
    plain, mended = tmp_path / "plain", tmp_path / "mended"
    for folder, known in ((plain, None), (mended, recording)):
        folder.mkdir()
        target.write(loaded, folder, lambda _: None, known)
    with pytest.raises(EdgeSafeError, match="not finite; fp16 cannot hold"):
        parity.components(recording, target.open(plain), ("unet",), lambda: None)
    rows = parity.components(recording, target.open(mended), target.parts, lambda: None)
    assert min(row["psnr_db"] for row in rows.values()) > 35
    for part in ("unet", "vae_decoder"):
        weights = onnx.load(mended / part / "model.onnx").graph.initializer
        sizes = {kind: sum(int(np.prod(t.dims)) for t in weights if t.data_type == kind) for kind in (1, 10)}
        assert sizes[1] > 0 and sizes[10] > 2 * sizes[1], f"{part}: most of it is fp16: {sizes}"
    same = [(folder / "text_encoder" / "model.onnx").read_bytes() for folder in (plain, mended)]
    assert same[0] == same[1], "what fits is written as ever"


class Loud(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.norm(self.up(x) * 1e5))


def test_large_values_are_found_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Loud(), torch.randn(4, 8)
    part = layout.Part("loud", module, {"x": x}, ("y",), {"x": {0: "batch"}, "y": {0: "batch"}}, {})
    with torch.no_grad():
        call = ((x,), (module(x),))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    traced = graph.trace(module, part.example, part.outputs, part.axes, tmp_path)
    found = overflow.find(traced.copy(), [call], part, tmp_path / "a")
    makers = {name: node.op_type for node in traced.model.graph.node for name in node.output}
    assert [makers[name] for name in found] == ["Mul"]
    half.to_half(traced, found)
    graph.save(traced, tmp_path / "b" / "model.onnx")
    kinds = {node.op_type for node in traced.model.graph.node}
    assert "Cast" in kinds
    assert overflow.fits(tmp_path / "b" / "model.onnx", part, [call], 50.0)
    assert not overflow.fits(tmp_path / "b" / "model.onnx", part, [call], 200.0)


@pytest.fixture(scope="module")
def static(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, model.TextToImage, Onnx]:
    """72 x 40 pixels, which an export of any size could not draw."""
    loaded, folder = model.load(tiny_sd2), tmp_path_factory.mktemp("static")
    target = Onnx.plan(ExportConfig(static=True, height=72, width=40), loaded)
    target.write(loaded, folder, lambda _: None)
    return folder, loaded, target


def test_static_files_compute_what_torch_computes_for_any_number_of_pictures(static: tuple[Path, model.TextToImage, Onnx]) -> None:
    folder, loaded, target = static
    recording = parity.record(loaded, ("red apple", "shark", "bus"), 72, 40, lambda: None, 2)
    rows = parity.components(recording, target.open(folder), target.parts, lambda: None)
    assert min(row["psnr_db"] for row in rows.values()) > 100
    assert target.facts(loaded) == {"height": 72, "width": 40, "batch": 2, "dynamic": [], "opset": graph.OPSET}


def test_static_files_declare_every_size_and_compute_none(static: tuple[Path, model.TextToImage, Onnx]) -> None:
    folder, *_ = static
    sizes = {"unet": [2, 4, 9, 5], "vae_decoder": [1, 3, 72, 40], "vae_encoder": [1, 8, 9, 5], "text_encoder": [1, 77, 48]}
    for part, shape in sizes.items():
        made = onnx.load(folder / part / "model.onnx")
        onnx.checker.check_model(made, full_check=True)
        assert [dim.dim_value for dim in made.graph.output[0].type.tensor_type.shape.dim] == shape
        assert not [node.name for node in made.graph.node if node.op_type == "Shape"], part


def test_folding_keeps_what_a_graph_computes(tmp_path: Path) -> None:
    class Sized(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(x.shape[-1]) * x.shape[0]
            return x.reshape(x.shape[0] * x.shape[1], -1) / x.shape[2] + rows

    x = torch.randn(2, 3, 4)
    traced = graph.trace(Sized(), {"x": x}, ["y"], {"x": {0: "batch"}, "y": {0: "rows"}}, tmp_path)
    traced.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    before = len(traced.model.graph.node)
    fixed.fold(traced.model)
    assert len(traced.model.graph.node) < before
    onnx_files.write(traced.model, tmp_path)
    torch.testing.assert_close(onnx_files.opened(tmp_path / "model.onnx")({"x": x})["y"], Sized()(x))
