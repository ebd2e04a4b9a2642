"""ONNX int8: static QDQ of convolutions and linear layers, with ranges from the model's own drawing.

    x ─ QuantizeLinear ─ DequantizeLinear ─┐
    W (int8, a scale a channel) ─ Dequant ─┼─ Conv ─ QuantizeLinear ─ DequantizeLinear ─      MatMul: the same without the last two
    b (int32, scale s_x s_W) ─── Dequant ──┘

onnxruntime turns each into one integer kernel (QLinearConv, MatMulIntegerToFloat). Activations are uint8 with a zero point, weights int8.
Always fp32: the first and the last convolution, and all that depends on the timestep alone, found by where they stand in the graph; and
those layers that rounding.choose names, so that the gate is passed. A CPU without VNNI may saturate in 8-bit products: it adds pairs of
them in 16 bits.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from . import narrowing, onnx_files, rounding
from .layout import Part
from .rounding import Call, Seen


def compress(
    part: Part, wide: Path, narrow: Path, calls: Sequence[Call], gate_db: float, advance: Callable[[float], None]
) -> dict[str, Any]:
    """From the fp32 folder `wide` to `narrow`; facts for the manifest. Raises: EdgeSafeError where no layer can be int8."""
    made = onnx_files.rewriting(part, wide, narrow, quantize)
    return narrowing.int8(part, made.names, rounding.INT8, calls, gate_db, made.write, made.opened, advance)


def quantize(model: ModelProto, layers: Mapping[str, Seen], folder: Path) -> None:
    """Changes `model` in place; layers by node name. `folder` holds what of its weights lies outside."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, str] = {}  # tensor -> its dequantised twin
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def through(name: str, low: float, high: float) -> str:
        if name not in made:
            scale, zero = rounding.scale_of(low, high)
            constants = constant(f"{name}_scale", np.float32(scale)), constant(f"{name}_zero", np.uint8(zero))
            nodes.append(helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_int8"], name=f"{name}_quantize"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", *constants], [f"{name}_back"], name=f"{name}_dequantize"))
            made[name] = f"{name}_back"
        return made[name]

    def stored(name: str, value: np.ndarray, scale: np.ndarray, axis: int) -> str:
        constants = constant(f"{name}_int", value), constant(f"{name}_scale", scale.astype(np.float32))
        nodes.append(helper.make_node("DequantizeLinear", constants, [f"{name}_back"], name=f"{name}_dequantize", axis=axis))
        return f"{name}_back"

    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.name not in layers:
            nodes.append(node)
            continue
        ranges, axis = layers[node.name], 0 if node.op_type == "Conv" else 1
        weight = onnx_files.array(weights[node.input[1]], folder)
        bias = onnx_files.array(weights[node.input[2]], folder) if len(node.input) > 2 else None
        scale_x = rounding.scale_of(ranges.low, ranges.high)[0]
        scale = weight_scale(weight, axis, bias, scale_x)
        wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        inputs = [through(node.input[0], ranges.low, ranges.high)]
        inputs.append(stored(f"{node.name}_weight", np.rint(weight / wide).clip(-127, 127).astype(np.int8), scale, axis))
        if bias is not None:
            inputs.append(stored(f"{node.name}_bias", np.rint(bias / (scale * scale_x)).astype(np.int32), scale * scale_x, 0))
        node.input[:] = inputs
        nodes.append(node)
        if node.op_type == "Conv":
            renamed[node.output[0]] = through(node.output[0], ranges.out_low, ranges.out_high)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx_files.take_in(model, folder)


def weight_scale(weight: np.ndarray, axis: int, bias: np.ndarray | None, scale_x: float) -> np.ndarray:
    """(channels,) in fp64: 1/127 of the largest value, and no smaller than lets the bias fit into 31 bits."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / 127
    least = 0.0 if bias is None else np.abs(bias).astype(np.float64) / (scale_x * 2**30)
    return np.maximum(np.maximum(scale, least), float(np.finfo(np.float32).tiny))
