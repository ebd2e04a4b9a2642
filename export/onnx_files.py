"""ONNX files that are narrowed: reading and writing graphs whose weights may lie beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn

from . import layout, narrowing
from .graph import DATA_LIMIT
from .layout import Part
from .narrowing import Run, Step
from .onnx_session import session


def read(folder: Path) -> ModelProto:
    """The graph of folder/model.onnx; weights in `model.onnx_data` stay there."""
    return onnx.load(str(folder / "model.onnx"), load_external_data=False)


def array(tensor: TensorProto, folder: Path) -> np.ndarray:
    return numpy_helper.to_array(tensor, base_dir=str(folder))


def take_in(model: ModelProto, folder: Path) -> None:
    """Weights that nothing reads go; those that still lie in `folder` beside the graph become part of it."""
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    for tensor in kept:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(array(tensor, folder), tensor.name))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def write(model: ModelProto, folder: Path) -> None:
    """folder/model.onnx, and over DATA_LIMIT the weights in model.onnx_data."""
    path = folder / "model.onnx"
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < DATA_LIMIT:
        path.write_bytes(model.SerializeToString())
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024)


def layers(model: ModelProto, module: nn.Module) -> tuple[list[str], dict[str, NodeProto]]:
    """Names of the layers that may be narrow, and module's name -> node of each Conv and MatMul with a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    modules = [name for name, _ in module.named_modules()]
    steps, nodes = [], {}
    for node in model.graph.node:
        name = None
        if node.op_type in ("Conv", "MatMul") and node.input[1] in weights:
            scope = ".".join(node.name.strip("/").split("/")[:-1])  # /module/unet/conv_in/Conv
            name = narrowing.module_name(scope, modules)
            nodes[name] = node
        values = () if node.op_type == "Shape" else tuple(node.input)  # of a shape nothing of the values comes through
        steps.append(Step(values, tuple(node.output), name, node.op_type == "Conv"))
    fed = {value.name for value in model.graph.input} - narrowing.TIMED
    return narrowing.inner(steps, fed), nodes


@dataclass(frozen=True)
class Rewriting:
    """A part's fp32 folder `wide`, of which `write` makes the folder `narrow`."""

    names: list[str]  # of the layers that may be narrow
    nodes: dict[str, NodeProto]
    write: Callable[[Mapping[str, Any]], None]  # layer -> what `quantize` takes for its node
    opened: Callable[[], Run]  # what `write` wrote


def rewriting(part: Part, wide: Path, narrow: Path, quantize: Callable[[ModelProto, Mapping[str, Any], Path], None]) -> Rewriting:
    """`quantize(graph, what by node name, wide)` changes the graph in place."""
    names, nodes = layers(read(wide), part.module)
    narrow.mkdir(parents=True)
    layout.write_json(narrow / "config.json", part.config)

    def write_narrow(asked: Mapping[str, Any]) -> None:
        model = read(wide)
        quantize(model, {nodes[name].name: how for name, how in asked.items()}, wide)
        write(model, narrow)

    return Rewriting(names, nodes, write_narrow, partial(opened, narrow / "model.onnx"))


def opened(path: Path) -> Run:
    one = session(path)
    names = [value.name for value in one.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        made = one.run(names, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(names, map(torch.from_numpy, made), strict=True))

    return run
