"""ONNX int4: linear layers' weights in 4 bits (MatMulNBits), convolutions' in 8; arithmetic stays fp32, so files shrink and speed stays.

    MatMulNBits (com.microsoft, in onnxruntime since 1.22 for 4 and 8 bits): W' = s_b (q - 8), q in 0..15, a scale for each 32 inputs
    Conv        reads DequantizeLinear(int8 weight, a scale for each output channel)

Linear layers that 4 bits would cost too much keep 8, with the same blocks: rounding.choose names them, so that the gate is passed. The
first and the last convolution and all that depends on the timestep alone stay fp32.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from . import onnx_files, rounding
from .layout import Part
from .onnx_int8 import candidates
from .rounding import Call, Choice

DOMAIN = "com.microsoft"


def compress(part: Part, wide: Path, narrow: Path, calls: list[Call], gate_db: float, advance: Callable[[float], None]) -> dict[str, Any]:
    """From the fp32 folder `wide` to `narrow`; facts for the manifest. Raises: EdgeSafeError where no layer can take 4 bits."""
    graph = onnx_files.read(wide).graph
    nodes = candidates(graph, part.module)
    kinds = {node.name: node.op_type for node in graph.node}
    linear = [name for name, node in nodes.items() if kinds[node] == "MatMul"]
    rows = [rounding.first_row(call) for call in rounding.probes(calls)]
    found = rounding.errors(part.module, linear, rounding.WEIGHT_4, {}, rows, gate_db, lambda done: advance(0.8 * done))
    fixed = rounding.error(part.module, dict.fromkeys(nodes, rounding.WEIGHT_8), {}, rows)
    sizes = {name: part.module.get_submodule(name).weight.numel() for name in linear}

    def attempt(psnr_db: float) -> Choice:
        choice = rounding.choose(found, sizes, rounding.allowed(rows, psnr_db), fixed)
        if not choice.narrow:
            raise EdgeSafeError(f"{wide.name}: no layer can take 4 bits at {gate_db:g} dB. Try --quantize int8, or lower --gate")
        model = onnx_files.read(wide)
        four = {nodes[name] for name in choice.narrow}
        quantize(model, {node: 4 if node in four else 8 for node in nodes.values()}, wide)
        onnx_files.write(model, narrow)
        return choice

    choice, found_db = onnx_files.reach(gate_db, attempt, part, narrow, rounding.probes(calls))
    return {
        "int4_layers": len(choice.narrow),
        "int8_linear_layers": choice.wide,
        "int8_convolutions": len(nodes) - len(linear),
        "probed_db": round(found_db, 2),
    }


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
