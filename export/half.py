"""fp32 ONNX graph -> fp16: weights and activations halve; inputs and outputs stay fp32, and so does what fp16 cannot hold.

Kept in fp32, with casts around:
- Softmax, and InstanceNormalization, which is GroupNorm's mean and variance (LayerNormalization by its definition sums in fp32);
- the time embedding up to its sine and cosine: near the angle 999 fp16 goes in steps of 0.5;
- arithmetic on sizes, such as 1 / sqrt(d) written as nodes;
- what overflow.py found to be too large.
Constants beyond fp16's largest number, such as a causal mask's -3.4e38, become +-65504, so that none turns infinite.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .graph import LARGEST_HALF, SMALL, Traced, bare

FULL = frozenset({"InstanceNormalization", "Softmax", "Sin", "Cos"})
ANGLES = frozenset({"Sin", "Cos"})
SIZES = frozenset({"Shape", "Size"})
ALWAYS_FULL = {"Resize": (1, 2)}  # inputs by position whose type ONNX fixes: roi, scales
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_half(traced: Traced, large: frozenset[str] = frozenset()) -> None:
    """Changes `traced` in place. Nodes that make or read one of the values in `large` stay fp32 too."""
    model, big = traced.model, traced.weights
    graph = model.graph
    floats, full = float_activations(model), _full_nodes(graph)
    full |= {index for index, node in enumerate(graph.node) if not large.isdisjoint((*node.input, *node.output))}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    results = {value.name for value in graph.output}
    held = {value.name: FLOAT for value in graph.input if value.type.tensor_type.elem_type == FLOAT}  # dtype of each activation so far
    used: set[tuple[str, int]] = set()  # (weight, dtype)
    nodes: list[NodeProto] = []

    def cast(name: str, dtype: int, made: str) -> str:
        if made not in held:
            nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}_cast", to=dtype))
            held[made] = dtype
        return made

    for index, node in enumerate(graph.node):
        dtype = FLOAT if index in full else HALF
        for position, name in enumerate(node.input):
            read_as = FLOAT if position in ALWAYS_FULL.get(node.op_type, ()) else dtype
            if name in weights:
                used.add((name, read_as))
                node.input[position] = _named(name, read_as)
            elif name in held and held[name] != read_as and node.op_type not in SIZES:
                node.input[position] = cast(name, read_as, f"{name}{'_half' if read_as == HALF else '_full'}")
        made = [name for name in node.output if name in floats]
        if made and dtype == HALF:
            _make_halves(node)
        ends = [name for name in made if name in results and dtype == HALF]
        for name in made:
            inner = f"{name}_half" if name in ends else name
            node.output[list(node.output).index(name)] = inner
            held[inner] = dtype
        nodes.append(node)
        for name in ends:
            cast(f"{name}_half", FLOAT, name)
    del graph.node[:]
    graph.node.extend(nodes)
    others = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(others)
    for name, dtype in sorted(used):
        if name in big:
            declared = TensorProto(name=_named(name, dtype), data_type=dtype, dims=weights[name].dims)
            big[declared.name] = replace(big[name], half=dtype == HALF)
            graph.initializer.append(declared)
        else:
            graph.initializer.append(_stored(weights[name], name, dtype))


def _full_nodes(graph: GraphProto) -> set[int]:
    """Indices of the nodes that stay fp32: FULL, all that a sine or cosine is made from, all that reads neither inputs nor weights."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    full = {index for index, node in enumerate(graph.node) if node.op_type in FULL}
    queue = [index for index in full if graph.node[index].op_type in ANGLES]
    while queue:
        above = {maker[name] for name in graph.node[queue.pop()].input if name in maker} - full
        full |= above
        queue.extend(above)
    live = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer if int(np.prod(tensor.dims)) > SMALL}
    for index, node in enumerate(graph.node):
        if node.op_type not in SIZES and not live.isdisjoint(node.input):
            live.update(node.output)
        else:
            full.add(index)
    return full


def float_activations(model: ModelProto) -> set[str]:
    """Names, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(bare(model)).graph
    return {value.name for value in [*inferred.value_info, *inferred.output] if value.type.tensor_type.elem_type == FLOAT}


def _make_halves(node: NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = HALF
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_stored(attribute.t, attribute.t.name, HALF))


def _stored(tensor: TensorProto, name: str, dtype: int) -> TensorProto:
    array = np.clip(numpy_helper.to_array(tensor), -LARGEST_HALF, LARGEST_HALF)
    return numpy_helper.from_array(array.astype(np.float16 if dtype == HALF else np.float32), _named(name, dtype))


def _named(weight: str, dtype: int) -> str:
    return f"{weight}_half" if dtype == HALF else weight
