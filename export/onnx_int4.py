"""ONNX int4: linear layers' weights in 4 bits (MatMulNBits), convolutions' in 8; arithmetic stays fp32, so files shrink and speed stays.

    MatMulNBits (com.microsoft, in onnxruntime since 1.22 for 4 and 8 bits): W' = s_b (q - 8), q in 0..15, a scale for each 32 inputs
    Conv        reads DequantizeLinear(int8 weight, a scale for each output channel)

Linear layers that 4 bits would cost too much keep 8, with the same blocks: rounding.choose names them, so that the gate is passed. The
first and the last convolution and all that depends on the timestep alone stay fp32.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from . import narrowing, onnx_files, rounding
from .layout import Part
from .rounding import Call

DOMAIN = "com.microsoft"


def compress(
    part: Part, wide: Path, narrow: Path, calls: Sequence[Call], gate_db: float, advance: Callable[[float], None]
) -> dict[str, Any]:
    """From the fp32 folder `wide` to `narrow`; facts for the manifest. Raises: EdgeSafeError where no layer can take 4 bits."""
    made = onnx_files.rewriting(part, wide, narrow, quantize)
    linear = [name for name in made.names if made.nodes[name].op_type == "MatMul"]
    return narrowing.int4(part, made.names, linear, calls, gate_db, made.write, made.opened, advance)


def quantize(model: ModelProto, bits: Mapping[str, int], folder: Path) -> None:
    """Changes `model` in place; bits by node name. `folder` holds what of its weights lies outside."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for node in graph.node:
        if node.name in bits:
            name = node.name
            weight = torch.from_numpy(np.array(onnx_files.array(weights[node.input[1]], folder)))
            if node.op_type == "Conv":
                scale = rounding.weight_scale(weight)
                stored = (weight / scale.reshape(-1, 1, 1, 1)).round().clamp(-127, 127).to(torch.int8)
                inputs = constant(f"{name}_int8", stored.numpy()), constant(f"{name}_scales", scale.numpy())
                nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_weight"], name=f"{name}_dequantize", axis=0))
                node.input[1] = f"{name}_weight"
            else:
                packed, scales = pack(weight.t().contiguous(), bits[name])
                inputs = node.input[0], constant(f"{name}_int{bits[name]}", packed.numpy()), constant(f"{name}_scales", scales.numpy())
                sizes = {"K": weight.shape[0], "N": weight.shape[1], "bits": bits[name], "block_size": rounding.BLOCK_4}
                node = helper.make_node("MatMulNBits", inputs, node.output, name=name, domain=DOMAIN, **sizes)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx_files.take_in(model, folder)


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> uint8 (out, blocks, bytes), two 4-bit values a byte with the first one low, and scales (out, blocks)."""
    blocks, scales = rounding.in_blocks(weight, bits)
    middle = 2 ** (bits - 1)
    stored = ((blocks / scales).round().clamp(-middle, middle - 1) + middle).to(torch.uint8)
    return (stored[..., 0::2] | stored[..., 1::2] << 4) if bits == 4 else stored, scales.squeeze(-1)
