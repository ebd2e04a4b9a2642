"""From a torch module to an ONNX graph: trace it, then clear away what the exporter leaves behind.

torch's TorchScript exporter is used and not its newer one (dynamo=True): with dynamic sizes the newer one took 40 s of CPU time against 2 s
for a 16-attention UNet, and its graph was 3 to 7 % slower in onnxruntime than this one.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

OPSET = 20  # the first with Gelu as one node
Axes = dict[str, dict[int, str]]


def trace(module: nn.Module, example: dict[str, Tensor], outputs: Iterable[str], axes: Axes, scratch: Path) -> ModelProto:
    """`example` holds an example of each input, in the order of the module's arguments; `axes` names the sizes that may differ at run time.

    `scratch` is an empty folder for the exporter's files, which may be more than 2 GB and so more than one.
    """
    path = scratch / "model.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # its deprecation, and one line for each `if` on a size, which the parity check answers for
        torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    tidy(model.graph)
    del model.graph.value_info[:]
    model.producer_name, model.producer_version, model.doc_string = "edgesafe", "", ""
    return model


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
