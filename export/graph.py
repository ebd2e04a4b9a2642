"""From a torch module to an ONNX graph: trace it, then clear away what the exporter leaves behind.

torch's TorchScript exporter is used and not its newer one (dynamo=True): with dynamic sizes the newer one took 40 s of CPU time against 2 s
for a 16-attention UNet, and its graph was 3 to 7 % slower in onnxruntime than this one.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 20  # the first with Gelu as one node
BIG = 2**14  # elements; weights from here on stay out of the graph until it is saved
DATA_LIMIT = 2**30  # bytes; beyond, weights go to a file of their own. One protobuf file cannot pass 2 GiB
ALIGNMENT = 4096  # bytes; so that a runtime can map a weight from the file
LARGEST_HALF = 65504.0
SMALL = 64  # elements; shape inference reads the values of shapes, which are no longer than this
Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Weight:
    """A weight that the graph names and does not hold: made when it is saved, one at a time."""

    source: Tensor  # the module's own
    transposed: bool = False
    half: bool = False

    def array(self) -> np.ndarray:
        tensor = self.source.detach().to(torch.float16 if self.half else torch.float32)
        if self.half:
            tensor = tensor.clamp(-LARGEST_HALF, LARGEST_HALF)
        return (tensor.t() if self.transposed else tensor).contiguous().numpy()


@dataclass
class Traced:
    """`model` declares each of `weights` as an initializer with a type and a shape and no data."""

    model: ModelProto
    weights: dict[str, Weight]

    def copy(self) -> "Traced":
        model = ModelProto()
        model.CopyFrom(self.model)
        return Traced(model, dict(self.weights))


class _Fed(nn.Module):
    """`module` with its big weights as arguments after its own, so that the exporter sees inputs where they would be copied."""

    def __init__(self, module: nn.Module, arguments: int, names: list[str]) -> None:
        super().__init__()
        self.module, self.arguments, self.names = module, arguments, names

    def forward(self, *inputs: Tensor) -> Any:
        owners = [(self.module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in self.names]
        kept = [owner._parameters[leaf] for owner, leaf in owners]  # torch.func.functional_call refuses while tracing
        try:
            for (owner, leaf), weight in zip(owners, inputs[self.arguments :], strict=True):
                owner._parameters[leaf] = weight
            return self.module(*inputs[: self.arguments])
        finally:
            for (owner, leaf), weight in zip(owners, kept, strict=True):
                owner._parameters[leaf] = weight


def trace(module: nn.Module, example: dict[str, Tensor], outputs: Iterable[str], axes: Axes, scratch: Path) -> Traced:
    """`example` holds an example of each input, in the order of the module's arguments; `axes` names the sizes that may differ at run time.

    The trace runs on zeros that take no memory in place of the big weights, so it needs no more than the module's own memory.
    `scratch` is an empty folder for the exporter's file.
    """
    module.eval()
    big = {name: weight for name, weight in module.named_parameters() if weight.numel() >= BIG}
    zeros = [torch.zeros(1, dtype=weight.dtype).expand(weight.shape) for weight in big.values()]
    path = scratch / "model.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # its deprecation, and one line for each `if` on a size, which the parity check answers for
        torch.onnx.export(
            _Fed(module, len(example), list(big)),
            (*example.values(), *zeros),
            str(path),
            input_names=[*example, *big],
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    weights = {name: Weight(weight) for name, weight in big.items()}
    _declare(model.graph, weights)
    _fold_transposes(model.graph, weights)
    tidy(model.graph)
    del model.graph.value_info[:]
    model.producer_name, model.producer_version, model.doc_string = "edgesafe", "", ""
    return Traced(model, weights)


def _declare(graph: GraphProto, weights: dict[str, Weight]) -> None:
    """The inputs that are weights become initializers."""
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(
        TensorProto(name=name, data_type=TensorProto.FLOAT, dims=weight.source.shape) for name, weight in weights.items()
    )


def _fold_transposes(graph: GraphProto, weights: dict[str, Weight]) -> None:
    """A Linear is MatMul(x, Transpose(W)): store W' instead."""
    turned = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights}
    others = {name for node in graph.node if node.op_type != "Transpose" for name in node.input}
    rename = {output: name for name, output in turned.items() if name not in others and weights[name].source.dim() == 2}
    kept = [node for node in graph.node if not (node.op_type == "Transpose" and node.output[0] in rename)]
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = rename.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
    for tensor in graph.initializer:
        if tensor.name in rename.values():
            weights[tensor.name] = Weight(weights[tensor.name].source, transposed=True)
            rows, columns = tensor.dims
            tensor.dims[:] = [columns, rows]


def bare(model: ModelProto) -> ModelProto:
    """The graph with its weights as inputs without data: checkers and shape inference take no more than 2 GB, and copy what they take."""
    made = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.name = model.graph.name
    made.graph.node.extend(model.graph.node)
    made.graph.input.extend(model.graph.input)
    made.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= SMALL:
            made.graph.initializer.append(tensor)
        else:
            made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return made


def save(traced: Traced, path: Path) -> None:
    """One file, or over DATA_LIMIT the graph beside its weights in `<name>_data`; either way one weight in memory at a time."""
    model, weights = traced.model, traced.weights
    late = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    sizes = {tensor.name: int(np.prod(tensor.dims)) * (2 if weights[tensor.name].half else 4) for tensor in late}
    if sum(sizes.values()) + model.ByteSize() < DATA_LIMIT:
        with open(path, "wb") as file:
            _stream(file, model, late, weights, sizes)
        return
    with open(path.with_name(f"{path.name}_data"), "wb") as file:
        for tensor in late:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            place = {"location": f"{path.name}_data", "offset": file.tell(), "length": sizes[tensor.name]}
            weights[tensor.name].array().tofile(file)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items())
    path.write_bytes(model.SerializeToString())


def _stream(file: BinaryIO, model: ModelProto, late: list[TensorProto], weights: dict[str, Weight], sizes: dict[str, int]) -> None:
    """What SerializeToString would give with the weights in the model, without two copies of them (protobuf's wire format)."""
    heads = [tensor.SerializeToString() + _key(TensorProto, "raw_data") + _varint(sizes[tensor.name]) for tensor in late]
    lengths = [len(head) + sizes[tensor.name] for head, tensor in zip(heads, late, strict=True)]
    key = _key(GraphProto, "initializer")
    early, around = GraphProto(), ModelProto()
    early.CopyFrom(model.graph)
    del early.initializer[:]
    early.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in weights)
    around.CopyFrom(model)
    around.ClearField("graph")
    graph = early.SerializeToString()
    total = len(graph) + sum(len(key) + len(_varint(length)) + length for length in lengths)
    file.write(around.SerializeToString() + _key(ModelProto, "graph") + _varint(total) + graph)
    for tensor, head, length in zip(late, heads, lengths, strict=True):
        file.write(key + _varint(length) + head)
        weights[tensor.name].array().tofile(file)


def _key(message: type, field: str) -> bytes:
    """Of a field that holds bytes or a message: its number and wire type 2."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def tidy(graph: GraphProto) -> None:
    """Constants become initializers, equal ones once; nodes that change nothing (Identity, division by one) go, and what only they read."""
    values: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    once: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    rename: dict[str, str] = {}
    kept = []
    results = {output.name for output in graph.output}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = rename.get(name, name)
        name = node.output[0] if node.output else ""
        if node.op_type == "Constant" and node.attribute[0].name == "value" and name not in results:
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = name
            key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
            if key in once:
                rename[name] = once[key]
            else:
                once[key] = name
                values[name] = tensor
        elif name not in results and (node.op_type == "Identity" or (node.op_type == "Div" and _is_one(values.get(node.input[1])))):
            rename[name] = node.input[0]
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for name, tensor in values.items() if name in read)


def _is_one(tensor: TensorProto | None) -> bool:
    return tensor is not None and not tensor.dims and float(numpy_helper.to_array(tensor)) == 1.0
