"""A convolution over a few pixels as one matrix product.

onnxruntime's WebAssembly computes a convolution as W (K, 9 C) times the pixels' neighbourhoods (9 C, P), 16 columns at a time: with P = 1
or 4 output pixels most columns are padding, and so is most of a neighbourhood. Written out,

    y = x W',    x (N, C p),  W' (C p, K P),  W'[c i, k o] = W[k, c, tap from input pixel i to output pixel o]

takes p P instead of 9 max(P, 16) multiplications for each pair of channels. W' is made of W when the graph is opened.
"""

from typing import Any

import numpy as np

from ..runtimes.specialise import fixed_shape

MOST = 16  # p P: 2 x 2 pixels to 2 x 2. With more, W' outgrows what it saves


def as_products(model: Any) -> Any:
    """`model`, an onnx.ModelProto of fixed sizes, with its 3 x 3 convolutions over few pixels written out."""
    import onnx

    values = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: fixed_shape(value) for value in (*values.value_info, *values.input, *values.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes: list[Any] = []
    made: list[Any] = []
    for node in model.graph.node:
        taps = _taps(node, shapes)
        if taps is None:
            nodes.append(node)
            continue
        written = _Written(node.name)
        (rows, channels, *_), (_, kept, height, width) = shapes[node.input[0]], shapes[node.output[0]]
        p, q = taps.shape
        weight = written("Reshape", node.input[1], np.array([kept, channels, 9]))
        weight = written("Gather", weight, taps.ravel(), axis=2)
        weight = written("Reshape", weight, np.array([kept, channels, p, q]))
        weight = written("Transpose", weight, perm=[1, 2, 0, 3])
        weight = written("Reshape", weight, np.array([channels * p, kept * q]))
        bias = [written("Gather", name, np.repeat(np.arange(kept), q), axis=0) for name in node.input[2:]]
        pixels = written("Reshape", node.input[0], np.array([rows, channels * p]))
        product = written("Gemm", pixels, weight, *bias)
        written("Reshape", product, np.array([rows, kept, height, width]))
        written.nodes[-1].output[0] = node.output[0]
        nodes += written.nodes
        made += written.constants
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(made)
    return model


class _Written:
    """Nodes and constants that come in the place of one node."""

    def __init__(self, name: str) -> None:
        self.name, self.nodes, self.constants = name, list[Any](), list[Any]()

    def __call__(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        from onnx import helper, numpy_helper

        names = []
        for given in inputs:
            if isinstance(given, np.ndarray):
                self.constants.append(numpy_helper.from_array(given, f"{self.name}@{len(self.constants)}"))
                given = self.constants[-1].name
            names.append(given)
        made = f"{self.name}@{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [made], name=made, **attributes))
        return made


def _taps(node: Any, shapes: dict[str, tuple[int, ...] | None]) -> np.ndarray | None:
    """(p, P): which of the nine taps leads from an input pixel to an output pixel; None for a convolution that stays."""
    from onnx import helper

    if node.op_type != "Conv":
        return None
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    source, weight, made = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if not source or not weight or not made or weight[2:] != (3, 3) or found.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    if found.get("group", 1) != 1 or set(found.get("dilations", [1])) != {1} or source[2] * source[3] * made[2] * made[3] > MOST:
        return None
    strides, pads = found.get("strides", [1, 1]), found.get("pads", [0, 0, 0, 0])
    (yi, xi), (yo, xo) = np.indices(source[2:]).reshape(2, -1, 1), np.indices(made[2:]).reshape(2, 1, -1)
    y, x = yi - strides[0] * yo + pads[0], xi - strides[1] * xo + pads[1]
    inside = (y >= 0) & (y < 3) & (x >= 0) & (x < 3)
    return 3 * y + x if inside.all() else None
