"""4-bit weights: dequantised by hand, run by onnxruntime, and the whole export."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgesafe import artifact, model
from edgesafe.export import ExportConfig, run


@pytest.fixture(scope="module")
def exported(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "int4"
    return run(ExportConfig(str(tiny_sd2), "onnx", out=out, quantize="int4", parity_steps=1))


def by_hand(packed: np.ndarray, scales: np.ndarray, bits: int, inputs: int) -> np.ndarray:
    """(out, in) of what MatMulNBits stores: (out, blocks, bytes), the first of two 4-bit values in the low half."""
    values = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1) if bits == 4 else packed
    return ((values.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]).reshape(len(packed), -1)[:, :inputs]


def test_stored_weights_are_the_models_within_half_a_step(exported: Path, tiny_sd2: Path) -> None:
    unet = model.load(tiny_sd2).unet
    graph = onnx.load(exported / "unet" / "model.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    counted = {4: 0, 8: 0}
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        asked = {a.name: a.i for a in node.attribute}
        path = ".".join(node.name.removeprefix("/module/unet/").split("/")[:-1])
        exact = unet.get_submodule(path).weight.detach().numpy()
        scales = weights[node.input[2]]
        got = by_hand(weights[node.input[1]], scales, asked["bits"], asked["K"])
        step = np.repeat(np.abs(scales), 32, axis=1)[:, : asked["K"]]
        assert got.shape == exact.shape == (asked["N"], asked["K"]) and asked["block_size"] == 32
        assert (np.abs(got - exact) <= 1.001 * step).all() and (np.abs(got - exact) <= 0.501 * step).mean() > 0.9
        counted[asked["bits"]] += 1
    facts = artifact.read(exported).target["compression"]["parts"]["unet"]
    assert counted == {4: facts["int4_layers"], 8: len(facts["int8_linear_layers"])} and counted[4] > counted[8]
    kinds = {name: tensor.dtype for name, tensor in weights.items() if tensor.ndim == 4}
    assert sum(dtype == np.float32 for dtype in kinds.values()) == 2, "the ends"


def test_an_int4_export_is_small_passes_the_gate_and_runs_in_plain_onnxruntime(exported: Path, tiny_sd2: Path) -> None:
    import onnxruntime

    rows = artifact.read(exported).parity["components"]
    assert min(row["psnr_db"] for row in rows.values()) >= 35 and rows["vae_decoder"]["psnr_db"] > 100
    wide = sum(p.numel() for p in model.load(tiny_sd2).unet.parameters()) * 4
    assert (exported / "unet" / "model.onnx").stat().st_size < 0.42 * wide, "a fifth is the graph of this tiny model"
    session = onnxruntime.InferenceSession(exported / "unet" / "model.onnx", providers=["CPUExecutionProvider"])
    x = {"sample": np.zeros((3, 4, 16, 8), "f"), "timestep": np.array(1, "f"), "encoder_hidden_states": np.ones((3, 77, 48), "f")}
    assert session.run(None, x)[0].shape == (3, 4, 16, 8)
