"""Where every size is fixed, arithmetic on sizes is done once here and not at each run: Shape nodes and what follows from them go."""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .graph import SMALL, bare

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def fold(model: ModelProto) -> None:
    """Changes `model` in place; its outputs declare their shapes afterwards."""
    graph = model.graph
    results = {value.name for value in graph.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _is_small(tensor)}
    folded = True
    while folded:
        shapes, folded, kept = _shapes(model), False, []
        for node in graph.node:
            made = None if results & set(node.output) or node.op_type in RANDOM else _values(node, shapes, constants, model)
            if made is None or any(value.size > SMALL for value in made.values()):
                kept.append(node)
                continue
            folded = True
            constants |= made
            graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
        del graph.node[:]
        graph.node.extend(kept)
    read = {name for node in graph.node for name in node.input}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)
    shapes = _shapes(model)
    for value in graph.output:
        if value.name in shapes:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shapes[value.name]))


def _values(
    node: NodeProto, shapes: dict[str, list[int]], constants: dict[str, np.ndarray], model: ModelProto
) -> dict[str, np.ndarray] | None:
    """What the node always gives, by name; None where that depends on an input."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        start, end = (next((a.i for a in node.attribute if a.name == name), None) for name in ("start", "end"))
        return {node.output[0]: np.array(shapes[node.input[0]][start:end], np.int64)}
    if all(name in constants for name in node.input if name) and node.input:
        inputs = [name for name in node.input if name]
        one = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(constants[name].dtype), None) for name in inputs],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        run = ReferenceEvaluator(helper.make_model(one, opset_imports=model.opset_import, ir_version=model.ir_version))
        made = run.run(None, {name: constants[name] for name in inputs})
        return dict(zip(node.output, map(np.asarray, made), strict=True))
    return None


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Of all values whose every size is known."""
    inferred = onnx.shape_inference.infer_shapes(bare(model), data_prop=True).graph
    found = {}
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = [dim.dim_value for dim in dims]
    return found


def _is_small(tensor: TensorProto) -> bool:
    return int(np.prod(tensor.dims)) <= SMALL
