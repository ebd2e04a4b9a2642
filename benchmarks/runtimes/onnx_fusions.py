"""Several nodes of an ONNX graph as one that onnxruntime has for them; what is written otherwise stays as it is.

    attention   Softmax(s Q K') V, heads taken apart and put together again  ->  MultiHeadAttention, which never writes down the scores
                of long sequences (Dao 2022, arXiv 2205.14135)
    norm        x * scale + shift, a number a channel (GroupNorm's end)      ->  BatchNormalization of mean 0 and variance 1
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MICROSOFT = "com.microsoft"
HEADS_OUT, HEADS_OUT_TURNED = [0, 2, 1, 3], [0, 2, 3, 1]  # (N, S, heads, D) -> (N, heads, S, D), (N, heads, D, S)
Shapes = Mapping[str, tuple[int, ...] | None]


def fuse(nodes: Sequence[Any], constants: Mapping[str, Any], shapes: Shapes, outputs: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The graph's nodes anew, and constants that they need beside `constants`. shapes: of tensors, as far as they are known."""
    new: dict[str, Any] = {}
    for rule in RULES:
        pattern = Pattern(nodes, {**constants, **new}, shapes, outputs, new)
        gone: dict[str, Any] = {}  # a node's first output -> what stands there now, if anything
        for node in nodes:
            if node.output[0] not in gone and (replaced := rule(pattern, node)) is not None:
                old, made = replaced
                gone |= {one.output[0]: None for one in old}
                gone[old[-1].output[0]] = made
        nodes = [kept for node in nodes if (kept := gone.get(node.output[0], node)) is not None]
    return list(nodes), new


class Pattern:
    """Who makes and who reads a tensor."""

    def __init__(
        self, nodes: Sequence[Any], constants: Mapping[str, Any], shapes: Shapes, outputs: Sequence[str], new: dict[str, Any]
    ) -> None:
        self.constants, self.shapes, self.new = constants, shapes, new
        self.maker = {name: node for node in nodes for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self.readers[name].append(node)
        for name in outputs:
            self.readers[name].append(None)

    def made_by(self, name: str, kind: str) -> Any:
        """The node of this kind that makes the tensor for one reader alone; None if there is none."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == kind and len(self.readers[name]) == 1 else None

    def reader(self, name: str, kind: str) -> Any:
        """The tensor's one reader, if of this kind, else None."""
        node = self.readers[name][0] if len(self.readers[name]) == 1 else None
        return node if node is not None and node.op_type == kind else None

    def constant(self, name: str) -> np.ndarray | None:
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None or tensor.external_data else numpy_helper.to_array(tensor)

    def unscaled(self, name: str, scale: float, seen: list[Any]) -> tuple[str, float]:
        """The tensor before a multiplication by one number, and the scale with it."""
        node = self.made_by(name, "Mul")
        factor = self.constant(node.input[1]) if node is not None else None
        if factor is None or factor.size != 1:
            return name, scale
        seen.append(node)
        return node.input[0], scale * float(factor.item())

    def add_constant(self, tensor: Any) -> str:
        self.new[tensor.name] = tensor
        return tensor.name


Replaced = tuple[list[Any], Any]  # nodes that go, and the one that comes where the last of them stood
Rule = Callable[[Pattern, Any], Replaced | None]  # of the node at the heart of a pattern


def attention(pattern: Pattern, node: Any) -> Replaced | None:
    from onnx import helper

    if node.op_type != "Softmax" or any(a.name == "axis" and a.i not in (-1, 3) for a in node.attribute):
        return None
    gone, scale = [node], 1.0
    scores, scale = pattern.unscaled(node.input[0], scale, gone)
    product, values = pattern.made_by(scores, "MatMul"), pattern.reader(node.output[0], "MatMul")
    if product is None or values is None or values.input[0] != node.output[0]:
        return None
    gone += [product, values]
    found, heads = [], set()
    for name, turns in ((product.input[0], HEADS_OUT), (product.input[1], HEADS_OUT_TURNED), (values.input[1], HEADS_OUT)):
        name, scale = pattern.unscaled(name, scale, gone)
        turn = pattern.made_by(name, "Transpose")
        apart = pattern.made_by(turn.input[0], "Reshape") if turn is not None and list(turn.attribute[0].ints) == turns else None
        shape = pattern.shapes.get(turn.input[0]) if apart is not None else None
        if apart is None or shape is None or len(shape) != 4:
            return None
        heads.add(shape[2])
        gone += [turn, apart]
        name, scale = pattern.unscaled(apart.input[0], scale, gone)
        found.append(name)
    back = pattern.reader(values.output[0], "Transpose")
    together = pattern.reader(back.output[0], "Reshape") if back is not None and list(back.attribute[0].ints) == HEADS_OUT else None
    if together is None or len(heads) != 1:
        return None
    made = helper.make_node(
        "MultiHeadAttention", found, together.output, name=f"{node.name}@attention", domain=MICROSOFT, num_heads=heads.pop(), scale=scale
    )
    return [*gone, back, together], made


def norm(pattern: Pattern, node: Any) -> Replaced | None:
    import onnx
    from onnx import helper

    scale: Any = pattern.constants.get(node.input[1]) if node.op_type == "Mul" else None
    add: Any = pattern.reader(node.output[0], "Add") if scale is not None else None
    shift: Any = pattern.constants.get(add.input[1]) if add is not None else None
    shape = pattern.shapes.get(node.input[0])
    if shift is None or shape is None or len(shape) != 4 or not list(scale.dims) == list(shift.dims) == [shape[1], 1, 1]:
        return None
    for tensor in (scale, shift):
        flat = onnx.TensorProto()
        flat.CopyFrom(tensor)
        flat.name, flat.dims[:] = f"{tensor.name}@flat", [shape[1]]
        pattern.add_constant(flat)
    n = shape[1]
    zeros, ones = (pattern.add_constant(helper.make_tensor(f"@{value}x{n}", scale.data_type, [n], [value] * n)) for value in (0, 1))
    weights = [f"{scale.name}@flat", f"{shift.name}@flat", zeros, ones]
    made = helper.make_node("BatchNormalization", [node.input[0], *weights], add.output, name=f"{node.name}@norm", epsilon=0.0)
    return [node, add], made


RULES: tuple[Rule, ...] = (attention, norm)
