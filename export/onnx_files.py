"""ONNX files that are narrowed: reading and writing graphs whose weights may lie beside them, and meeting the gate."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from . import layout, parity
from .graph import DATA_LIMIT
from .layout import Part
from .onnx_session import session
from .rounding import Call, Choice

ATTEMPTS = 3


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


def reach(gate_db: float, attempt: Callable[[float], Choice], part: Part, folder: Path, calls: Sequence[Call]) -> tuple[Choice, float]:
    """`attempt` writes folder/model.onnx aiming at a PSNR; where the file itself stays below the gate it is asked for as much more.

    Returns the last attempt's choice and its worst PSNR over `calls` in dB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layout.write_json(folder / "config.json", part.config)
    asked_db = gate_db
    for _ in range(ATTEMPTS):
        choice = attempt(asked_db)
        found_db = measure(folder / "model.onnx", part, calls)
        if found_db >= gate_db:
            break
        asked_db += gate_db - found_db
    return choice, found_db


def measure(path: Path, part: Part, calls: Iterable[Call]) -> float:
    """The worst PSNR of the file over these calls, in dB."""
    opened, worst = session(path), parity.IDENTICAL_DB
    for inputs, outputs in calls:
        feeds = {name: value.to(part.example[name].dtype).numpy() for name, value in zip(part.example, inputs, strict=True)}
        for reference, got in zip(outputs, opened.run(list(part.outputs), feeds), strict=True):
            worst = min(worst, parity.compare(path.parent.name, reference, torch.from_numpy(got))[0])
    return worst
