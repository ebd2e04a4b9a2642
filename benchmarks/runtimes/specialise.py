"""A UNet's ONNX graph cut for drawing: fixed sizes, and nothing computed twice.

    given   what depends on the conditions alone: the keys and values of cross-attention       once a prompt
    timed   what depends on the timestep alone: its embedding and the embedding's projections  once a timestep
    main    the rest: sample, and the outputs of `given` and `timed`, to the prediction        each step

With guidance both halves of the batch hold the same latents, so all before the first look at the conditions is computed for one half
(`shared`). onnx_fusions.py makes one node of several where onnxruntime has one. A graph whose sizes ONNX's inference cannot follow, as
those of Optimum's exporter, runs whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import onnx_fusions

SAMPLE, TIMESTEP = "sample", "timestep"
ONE = "@one"  # behind the names of what is computed for one half
Sizes = Mapping[str, Sequence[int]]  # input -> its dimensions


@dataclass(frozen=True)
class Graphs:
    """An onnx.ModelProto each; None where nothing is to be computed there."""

    main: Any
    given: Any | None
    timed: Any | None
    rows: int  # of the sample that `main` takes


def specialise(model: Any, sizes: Sizes, shared: bool) -> Graphs:
    """`model`: an onnx.ModelProto. `sizes`: of every input, with all rows; `shared` halves the rows of the sample alone.

    What depends on the timestep alone has one row, which onnxruntime spreads over all. A file that fixes its rows keeps them everywhere.
    """
    whole, single = Folded(model, sizes), {name: (1, *size[1:]) if size else () for name, size in sizes.items()}
    fixed = next(value for value in model.graph.input if value.name == SAMPLE).type.tensor_type.shape.dim[0].HasField("dim_value")
    outputs = [value.name for value in model.graph.output]
    rounded = any(node.op_type == "QuantizeLinear" for node in whole.nodes)  # onnxruntime would place some roundings otherwise
    if not whole.complete:
        return Graphs(whole.model(whole.nodes, outputs, sizes, whole.constants), None, None, sizes[SAMPLE][0])
    kinds = whole.kinds

    def once(name: str) -> bool:
        behind = kinds.get(name, frozenset())
        return len(behind) > 0 and SAMPLE not in behind and (TIMESTEP not in behind or behind == {TIMESTEP})

    def early(name: str) -> bool:
        return SAMPLE in kinds.get(name, ()) and kinds[name] <= {SAMPLE, TIMESTEP}

    nodes, constants, main_sizes = whole.before(outputs, once), whole.constants, dict(sizes)
    late = [node for node in nodes if not early(node.output[0])]
    meeting = list(dict.fromkeys(name for node in late for name in node.input if early(name)))
    if shared and late and SAMPLE not in meeting and not fixed and not rounded:
        main_sizes[SAMPLE] = (sizes[SAMPLE][0] // 2, *sizes[SAMPLE][1:])
        half = Folded(model, {name: (size[0] // 2, *size[1:]) if size else () for name, size in sizes.items()}, ONE)
        first = half.before([name + ONE for name in meeting], lambda name: once(name.removesuffix(ONE)))
        for node in first:
            node.input[:] = [base if once(base := name.removesuffix(ONE)) else name for name in node.input]
        nodes, constants = [*first, *(_doubled(name) for name in meeting), *late], half.constants | constants
    read = [name for name in dict.fromkeys(name for node in nodes for name in node.input) if once(name) and name not in sizes]
    given, timed = ([name for name in read if (TIMESTEP in kinds[name]) == is_timed] for is_timed in (False, True))
    one = whole if fixed else Folded(model, single)
    ports = [whole.values[name] for name in given] + [one.values[name] for name in timed]
    return Graphs(
        whole.model(nodes, outputs, main_sizes, constants, ports),
        whole.model(whole.before(given), given, sizes, constants) if given else None,
        one.model(one.before(timed), timed, one.sizes, one.constants) if timed else None,
        main_sizes[SAMPLE][0],
    )


class Folded:
    """The graph with its sizes fixed, and each `Shape` in it a constant. `mark` goes behind the name of all that is computed in it."""

    def __init__(self, model: Any, sizes: Sizes, mark: str = "") -> None:
        import onnx
        from onnx import numpy_helper

        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        for value in fixed.graph.input:
            _set_shape(value, sizes[value.name])
        del fixed.graph.value_info[:]
        for value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True).graph
        if spread := _spread(graph):
            for value in spread:
                _set_shape(value, sizes[SAMPLE][:1])
            fixed.graph.value_info.extend(spread)
            graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True).graph
        self.sizes, self.ir_version = dict(sizes), model.ir_version
        self.imports = {one.domain: one.version for one in model.opset_import} | {onnx_fusions.MICROSOFT: 1}
        self.values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes: list[Any] = []
        kept = {"", *self.constants, *self.values.keys() & sizes.keys()}
        for node in graph.node:
            node.input[:] = [name if name in kept else name + mark for name in node.input]
            value = node.attribute[0].t if node.op_type == "Constant" and node.attribute[0].name == "value" else None
            if node.op_type == "Shape" and (known := fixed_shape(self.values.get(node.input[0].removesuffix(mark)))) is not None:
                ends = {attribute.name: attribute.i for attribute in node.attribute}
                value = numpy_helper.from_array(np.array(known[ends.get("start", 0) : ends.get("end")], np.int64))
            node.output[:] = [name + mark for name in node.output]
            if value is None:
                node.name += mark
                self.nodes.append(node)
            else:
                constant = onnx.TensorProto()
                constant.CopyFrom(value)
                constant.name = node.output[0]
                self.constants[constant.name] = constant
        self.complete = all(node.op_type != "Shape" for node in self.nodes)
        shapes = {name + mark * (name not in kept): fixed_shape(value) for name, value in self.values.items()}
        self.nodes, new = onnx_fusions.fuse(self.nodes, self.constants, shapes, [value.name + mark for value in graph.output])
        self.constants |= new
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.kinds = {name: frozenset[str]() for name in ("", *self.constants)}  # tensor -> the inputs behind it
        self.kinds |= {name: frozenset((name,)) for name in sizes}
        for node in self.nodes:
            behind = frozenset[str]().union(*(self.kinds[name] for name in node.input))
            self.kinds |= dict.fromkeys(node.output, behind)

    def before(self, names: Sequence[str], stop: Callable[[str], bool] = lambda name: False) -> list[Any]:
        """The nodes that computing `names` takes, in order, from the inputs and from what `stop` names."""
        wanted, needed = list(names), set()
        while wanted:
            node = self.maker.get(wanted.pop())
            if node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                wanted += [name for name in node.input if not stop(name)]
        return [node for node in self.nodes if node.output[0] in needed]

    def model(
        self, nodes: Sequence[Any], outputs: Sequence[str], sizes: Sizes, constants: Mapping[str, Any], ports: Sequence[Any] = ()
    ) -> Any:
        """An onnx.ModelProto of these nodes, whose inputs are those of the whole that they read, and `ports`."""
        from onnx import helper

        read = {name for node in nodes for name in node.input}
        inputs = [self.values[name] for name in sizes if name in read]
        for value in inputs:
            _set_shape(value, sizes[value.name])
        weights = [tensor for name, tensor in constants.items() if name in read]
        made = [self.values[name] for name in outputs]
        graph = helper.make_graph(nodes, "specialised", [*inputs, *ports], made, weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid(*one) for one in self.imports.items()], ir_version=self.ir_version
        )


def _spread(graph: Any) -> list[Any]:
    """Where the timestep is spread over the rows by torch's `expand`, whose way of finding their number inference does not follow."""
    values = {value.name: value for value in graph.value_info}
    expands = [node for node in graph.node if node.op_type == "Expand" and fixed_shape(values.get(node.input[0])) == (1,)]
    return [values[node.output[0]] for node in expands if fixed_shape(values.get(node.output[0])) is None]


def _doubled(name: str) -> Any:
    from onnx import helper

    return helper.make_node("Concat", [name + ONE, name + ONE], [name], name=name + "@both", axis=0)


def fixed_shape(value: Any | None) -> tuple[int, ...] | None:
    """The sizes of an onnx.ValueInfoProto, if all are known."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value for size in sizes) if all(size.HasField("dim_value") for size in sizes) else None


def _set_shape(value: Any, sizes: Sequence[int]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        shape.dim.add().dim_value = size
