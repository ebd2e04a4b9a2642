"""The UNet cut for a browser against the UNet as it was exported, and a convolution as a product against onnxruntime's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesafe import artifact
from edgesafe.benchmarks.browser import plan
from edgesafe.benchmarks.browser.convolutions import as_products
from edgesafe.errors import EdgeSafeError

DRAW = np.random.default_rng(0)


def convolution(size: int, channels: int, kept: int, bias: bool = True, **attributes: Any) -> Any:
    weights = {"w": DRAW.normal(size=(kept, channels // attributes.get("group", 1), 3, 3))}
    if bias:
        weights["b"] = DRAW.normal(size=kept)
    node = helper.make_node("Conv", ["x", *weights], ["y"], name="conv", **attributes)
    shapes = {"x": (2, channels, size, size), "y": None}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph([node], "one", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def computed(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = model if isinstance(model, bytes | str) else model.SerializeToString()
    session = ort.InferenceSession(given, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {port.name: feeds[port.name] for port in session.get_inputs()}), strict=True))


@pytest.mark.parametrize(
    ("size", "attributes", "is_written"),
    [
        (1, {"pads": [1, 1, 1, 1]}, True),
        (2, {"pads": [1, 1, 1, 1]}, True),
        (2, {"pads": [1, 1, 1, 1], "bias": False}, True),
        (2, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, True),
        (2, {"pads": [0, 0, 1, 1], "strides": [2, 2]}, True),
        (3, {}, True),  # nine pixels to one
        (3, {"pads": [1, 1, 1, 1]}, False),  # too many
        (4, {"strides": [2, 2], "pads": [0, 0, 1, 1]}, False),
        (2, {"pads": [2, 2, 2, 2]}, False),  # some outputs see none of the inputs
        (2, {"pads": [1, 1, 1, 1], "group": 2}, False),
        (2, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, False),
        (2, {"auto_pad": "SAME_UPPER"}, False),
    ],
)
def test_a_convolution_over_few_pixels_is_a_product(size: int, attributes: dict, is_written: bool) -> None:
    model = convolution(size, 6, 8, **attributes)
    feeds = {"x": DRAW.normal(size=(2, 6, size, size)).astype(np.float32)}
    wanted = computed(model, feeds)["y"]
    written = as_products(model)
    kinds = {node.op_type for node in written.graph.node}
    assert ("Gemm" in kinds, "Conv" in kinds) == (is_written, not is_written)
    np.testing.assert_allclose(computed(written, feeds)["y"], wanted, rtol=1e-5, atol=1e-5)


def test_the_graphs_together_are_the_unet(student: Path, cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, states = DRAW.normal(size=(2, 8, 8, 8)).astype(np.float32), DRAW.normal(size=(2, 77, 128)).astype(np.float32)
    feeds = {"sample": sample, "timestep": np.array(481, np.float32), "encoder_hidden_states": states}
    whole = computed(str(student / plan.UNET), feeds)["out_sample"]
    monkeypatch.chdir(student / "unet")  # where the graphs' weights are looked for
    timed = computed((cut / "timed.onnx").read_bytes(), feeds)
    for i, wanted in enumerate(whole):
        row = feeds | {"sample": sample[i : i + 1], "encoder_hidden_states": states[i : i + 1]}
        given = computed((cut / "given.onnx").read_bytes(), row)
        made = computed((cut / "main.onnx").read_bytes(), row | timed | given)["out_sample"]
        np.testing.assert_allclose(made[0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_a_plan_says_what_it_was_cut_from_and_holds_no_weights(student: Path, cut: Path) -> None:
    record = json.loads((cut / "plan.json").read_text())
    assert record["of"] == artifact.sha256(student / plan.UNET) and record["schema_version"] == 1
    assert record["files"].keys() == {f"{graph}.onnx" for graph in plan.GRAPHS}
    for name, facts in record["files"].items():
        assert facts == {"sha256": artifact.sha256(cut / name), "size": (cut / name).stat().st_size}
    assert sum(path.stat().st_size for path in cut.iterdir()) < 0.05 * (student / plan.UNET).stat().st_size


def test_the_same_export_gives_the_same_bytes(student: Path, cut: Path, tmp_path: Path) -> None:
    for name in plan.write(student, artifact.read(student), tmp_path):
        assert (tmp_path / name).read_bytes() == (cut.parent / name).read_bytes()


def test_a_fixed_batch_has_no_graphs(fixed: Path, tmp_path: Path) -> None:
    assert plan.write(fixed, artifact.read(fixed), tmp_path) == ["plan/plan.json"]


def test_what_is_no_unet_is_named(student: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EdgeSafeError, match=r"unet/model.onnx: no ONNX model .*Export the run again"):
        plan.write(tmp_path, artifact.read(student), tmp_path / "site")
