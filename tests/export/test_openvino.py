"""OpenVINO exports against torch, by OpenVINO itself, and in 8 and 4 bits against weights dequantised by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import artifact, intel, model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, layout, openvino_narrow, rounding, run
from edgesafe.export.openvino import FILE, OpenVINO, convert
from edgesafe.export.rounding import Seen

pytestmark = pytest.mark.openvino


@pytest.fixture(scope="module")
def exported(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("openvino") / "int8"
    return run(ExportConfig(str(tiny_sd2), "openvino", out=out, quantize="int8", parity_steps=1))


def constants(file: Path) -> dict[str, int]:
    """Element type -> elements of all constants with more than 64."""
    found: dict[str, int] = {}
    for op in intel.core().read_model(file).get_ops():
        if op.get_type_name() == "Constant" and np.prod(op.shape) > 64:
            kind = op.get_element_type().get_type_name()
            found[kind] = found.get(kind, 0) + int(np.prod(op.shape))
    return found


def test_names_layouts_and_any_size(tiny_sd1: Path, tmp_path: Path) -> None:
    out = run(ExportConfig(str(tiny_sd1), "openvino", "fp16", out=tmp_path / "out", parity_steps=1))
    core = intel.core()
    shapes = {
        part: {v.any_name: str(v.partial_shape) for v in core.read_model(out / part / FILE).inputs} for part in ("unet", "text_encoder")
    }
    assert shapes["unet"] == {"sample": "[?,4,?,?]", "timestep": "[]", "encoder_hidden_states": "[?,?,32]"}
    assert shapes["text_encoder"] == {"input_ids": "[?,?]"}
    kinds = constants(out / "unet" / FILE)
    assert kinds["f16"] > 50 * kinds.get("f32", 0)
    manifest = artifact.read(out)
    rows = manifest.parity["components"]
    assert min(row["psnr_db"] for row in rows.values()) > 60 and manifest.target["dynamic"] == ["batch_size", "height", "width"]
    loaded = model.load(tiny_sd1)
    parts = OpenVINO.plan(ExportConfig(target="openvino"), loaded).open(out)
    x, states = torch.randn(3, 4, 16, 8), torch.randn(3, 77, 32)
    with torch.no_grad():
        expected = loaded.unet(x, torch.tensor(400), states).sample
    np.testing.assert_allclose(parts.unet(x, torch.tensor(400), states), expected, atol=5e-3)


def test_nothing_is_sent_home(tmp_path: Path) -> None:
    """By default importing OpenVINO starts a session with Intel's counter and leaves an id in the home folder."""
    code = """
import socket
def refuse(*_): raise SystemExit("it wants to connect")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from edgesafe import intel
ov = intel.openvino()
ov.save_model(ov.Model([ov.opset13.constant(1.0)], [], "m"), "m.xml")
import openvino.tools.ovc.telemetry_utils as used
assert used.tm.__name__.endswith("telemetry_stub"), used.tm
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_int8_passes_the_gate_with_integer_weights(exported: Path) -> None:
    manifest = artifact.read(exported)
    assert min(row["psnr_db"] for row in manifest.parity["components"].values()) >= 35
    parts = manifest.target["compression"]["parts"]
    assert set(parts) == {"text_encoder", "unet", "vae_decoder"} and parts["unet"]["int8_multiplications"] > 0.5
    kinds = constants(exported / "unet" / FILE)
    assert kinds["i8"] > kinds["f32"]
    wide = {layer for layer in parts["unet"]["fp32_layers"]}
    assert not {"unet.conv_in", "unet.conv_out"} & wide, "the ends are not even asked for"


class Toy(torch.nn.Module):
    """Three convolutions around a linear layer, so that the middle one and the linear layer may be narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.linear = torch.nn.Linear(32, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.middle(self.first(x).relu())
        return self.last(y) + self.linear(y.flatten(2)[..., :32]).mean()


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_compute_with_the_weights_and_inputs_that_numpy_rounds(bits: int) -> None:
    torch.manual_seed(0)
    toy, x = Toy().eval(), torch.randn(2, 8, 6, 6)
    part = layout.Part("toy", toy, {"x": x}, ("out",), {"x": {0: "batch"}}, {})
    ov_model = convert(part)
    names, _ = openvino_narrow.layers(ov_model, part)
    assert names == ["middle", "linear"]
    seen = {name: row.wider(1.25) for name, row in rounding.observe(toy, names, [((x,), ())], lambda _: None).items()}
    asked: dict[str, Seen | int] = dict(seen) if bits == 8 else {"middle": 8, "linear": 4}
    openvino_narrow.rewrite(ov_model, part, asked)
    compiled = intel.core().compile_model(ov_model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def by_hand(layer: torch.nn.Module, name: str) -> None:
        w = layer.weight.detach().numpy()
        if bits == 4 and name == "linear":
            blocks = w.reshape(16, -1, 32)
            largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
            scale = largest / -8
            rounded = (np.clip(np.rint(blocks / scale), -8, 7) * scale).reshape(w.shape)
        else:
            scale = (np.abs(w.reshape(len(w), -1)).max(1) / 127).reshape(-1, *[1] * (w.ndim - 1))
            rounded = np.rint(w / scale) * scale
        layer.weight.data = torch.from_numpy(rounded.astype(np.float32))

    by_hand(toy.middle, "middle")
    by_hand(toy.linear, "linear")
    if bits == 8:
        for name in names:
            low, high = seen[name].low, seen[name].high
            scale = (high - low) / 255
            zero = round(-low / scale)

            def hook(_: object, inputs: tuple, s: float = scale, z: int = zero) -> tuple:
                return ((torch.clamp(torch.round(inputs[0] / s) + z, 0, 255) - z) * s,)

            getattr(toy, name).register_forward_pre_hook(hook)
    with torch.no_grad():
        expected = toy(x)
    error = np.abs(compiled(x.numpy())[0] - expected.numpy())
    assert error.max() < 0.02 and np.sqrt((error**2).mean()) < 2e-3, "an input at half a step may fall to either side"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"deployment": "iOS17"}, "--deployment is for --target coreml: an OpenVINO export runs wherever its runtime does"),
        ({"chunked": True}, "--chunked is for --target coreml: an OpenVINO export's UNet is one file"),
        ({"batch": 2}, "--batch is for --target coreml: an OpenVINO export takes any batch"),
        ({"palettize": 6}, "--palettize is for --target coreml: give --quantize int8 or int4 instead"),
        ({"mixed": "40dB"}, "--mixed is for --target coreml"),
        ({"attention": "split-einsum"}, "--attention is for --target coreml"),
        ({"precision": "fp16", "quantize": "int8"}, "--precision fp16 with --quantize int8: give one of them"),
        ({"width": 72}, "--width 72: an OpenVINO export of this model draws multiples of 64 pixels"),
    ],
)
def test_refusals_leave_nothing(tiny_sd1: Path, tmp_path: Path, asked: dict, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        run(ExportConfig(str(tiny_sd1), "openvino", out=tmp_path / "out", **asked))
    assert not list(tmp_path.iterdir())
