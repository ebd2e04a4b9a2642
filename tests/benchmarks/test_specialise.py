"""The UNet cut for drawing gives what the whole file gives in onnxruntime, and computes nothing twice."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgesafe.benchmarks.runtimes import onnx_file, onnx_fusions
from edgesafe.benchmarks.runtimes.onnxruntime_runtime import OnnxFile, OnnxUNet
from edgesafe.benchmarks.runtimes.specialise import specialise

SIZES = {"sample": (2, 4, 8, 8), "timestep": (), "encoder_hidden_states": (2, 77, 32)}


@pytest.fixture(scope="module")
def path(onnx_folder: Path) -> Path:
    return onnx_folder / "unet" / "model.onnx"


@pytest.fixture(scope="module")
def opened(path: Path) -> tuple[OnnxFile, OnnxUNet]:
    return OnnxFile(path, ["out_sample"], 1), OnnxUNet(path, ["out_sample"], 1)


def call(unet: OnnxFile, sample: torch.Tensor, t: float, states: torch.Tensor) -> torch.Tensor:
    return unet(tuple(sample.shape), sample=sample, timestep=torch.tensor(t), encoder_hidden_states=states)[0]


@pytest.mark.parametrize("rows", [1, 2, 6])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("side", [8, 16])
def test_the_same_answer(opened: tuple[OnnxFile, OnnxUNet], rows: int, guided: bool, side: int) -> None:
    draws = torch.Generator().manual_seed(rows)
    sample, states = torch.randn(rows, 4, side, side, generator=draws), torch.randn(2 * rows, 77, 32, generator=draws)
    sample = torch.cat([sample, sample if guided else sample + 1])
    expected, found = (call(unet, sample, 481, states) for unet in opened)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=2e-5)


def test_what_is_kept_follows_timestep_and_prompt(opened: tuple[OnnxFile, OnnxUNet]) -> None:
    sample, states = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.randn(2, 77, 32)
    for t, given in ((900, states), (1, states), (900, states), (900, states + 1), (1, states), (1, states)):
        expected, found = (call(unet, sample, t, given) for unet in opened)
        assert torch.allclose(found, expected, atol=2e-5), (t, given is states)
    states.add_(1)  # in place: another prompt in the same memory
    expected, found = (call(unet, sample, 1, states) for unet in opened)
    assert torch.allclose(found, expected, atol=2e-5)


def test_answers_stay_when_the_next_comes(opened: tuple[OnnxFile, OnnxUNet]) -> None:
    sample, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    first = call(opened[1], sample, 5, states)
    kept = first.clone()
    call(opened[1], sample + 1, 7, states)
    assert torch.equal(first, kept)


def test_nothing_is_computed_twice(path: Path) -> None:
    graphs = specialise(onnx_file.read(path), SIZES, shared=True)
    ran, main = ([node.name for node in graph.graph.node] for graph in (graphs.given, graphs.main))
    keys = [name for name in ran if "attn2/to_k" in name or "attn2/to_v" in name]
    assert len(keys) == 32 and not any("attn2/to_k" in name or "attn2/to_v" in name for name in main)
    assert any("time_embedding" in node.name for node in graphs.timed.graph.node)
    assert not any("time_emb" in name for name in main)
    assert {node.op_type for node in graphs.main.graph.node}.isdisjoint({"Shape", "Softmax"})
    assert sum(node.op_type == "MultiHeadAttention" for node in graphs.main.graph.node) == 32
    assert graphs.rows == 1
    early = [name for name in main if name.endswith("@one")]
    assert any("down_blocks.0/resnets.0/conv1" in name for name in early) and not any("resnets.1" in name for name in early)


def test_weights_stay_in_their_file(path: Path) -> None:
    whole, light = onnx.load(path), onnx_file.read(path)
    assert light.ByteSize() < whole.ByteSize() / 4
    data = path.read_bytes()
    for full, part in zip(whole.graph.initializer, light.graph.initializer, strict=True):
        where = {entry.key: entry.value for entry in part.external_data}
        assert (full.name, full.dims, full.data_type) == (part.name, part.dims, part.data_type)
        if where:
            begin = int(where["offset"])
            assert where["location"] == path.name and data[begin : begin + int(where["length"])] == full.raw_data
        else:
            assert np.array_equal(numpy_helper.to_array(part), numpy_helper.to_array(full))
    assert [node.SerializeToString() for node in light.graph.node] == [node.SerializeToString() for node in whole.graph.node]


@pytest.mark.parametrize("content", [b"", b"not what it was", b"\x3a\xff\xff\xff\x7f", b"\x3a\x02\x2a\x10", b"\x08\x07"])
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError):
        onnx_file.read(tmp_path / "model.onnx")


def attention_graph(scale: float = 0.25, mask: bool = False) -> Any:
    """Softmax(s Q K') V over 2 heads of 4, sizes fixed; with a mask it is no form that the rule knows."""
    shape = numpy_helper.from_array(np.array([0, -1, 2, 4], np.int64), "apart")
    flat = numpy_helper.from_array(np.array([0, -1, 8], np.int64), "together")
    constants = [
        shape,
        flat,
        numpy_helper.from_array(np.float32(scale), "scale"),
        numpy_helper.from_array(np.ones((1, 1, 1, 3), np.float32), "m"),
    ]
    nodes = [helper.make_node("Mul", ["q", "scale"], ["q_scaled"])]
    for name, source, turn in (("q", "q_scaled", [0, 2, 1, 3]), ("k", "k", [0, 2, 3, 1]), ("v", "v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [source, "apart"], [f"{name}_apart"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_apart"], [f"{name}_turned"], perm=turn))
    nodes.append(helper.make_node("MatMul", ["q_turned", "k_turned"], ["scores"]))
    nodes += [helper.make_node("Add", ["scores", "m"], ["masked"])] if mask else []
    nodes += [
        helper.make_node("Softmax", ["masked" if mask else "scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v_turned"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["mixed_turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_turned", "together"], ["out"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3 if name != "q" else 5, 8]) for name in "qkv"]
    return nodes, ports, constants


def fused(nodes: list[Any], constants: list[Any], shapes: dict[str, tuple[int, ...]]) -> list[Any]:
    return onnx_fusions.fuse(nodes, {one.name: one for one in constants}, shapes, ["out"])[0]


def test_attention_in_one_node_is_attention() -> None:
    import onnxruntime as ort

    nodes, ports, constants = attention_graph()
    made = fused(nodes, constants, {"q_apart": (2, 5, 2, 4), "k_apart": (2, 3, 2, 4), "v_apart": (2, 3, 2, 4)})
    assert [node.op_type for node in made] == ["MultiHeadAttention"]
    graph = helper.make_graph(made, "fused", ports, [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 5, 8])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
    q, k, v = (torch.randn(2, n, 8, generator=torch.Generator().manual_seed(n)) for n in (5, 3, 3))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()})[0]
    apart = (x.view(2, -1, 2, 4).transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*apart, scale=0.25).transpose(1, 2).reshape(2, 5, 8)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_attention_of_another_form_stays() -> None:
    nodes, _, constants = attention_graph(mask=True)
    assert fused(nodes, constants, {"q_apart": (2, 5, 2, 4), "k_apart": (2, 3, 2, 4), "v_apart": (2, 3, 2, 4)}) == nodes
    nodes, _, constants = attention_graph()
    assert fused(nodes, constants, {}) == nodes, "the number of heads is not known"
