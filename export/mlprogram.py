"""One torch module -> one `.mlpackage`, and reading it again: what it declares and which operations it holds.

In fp16 the angle of the time embedding and its sine and cosine stay fp32: near 999 fp16 goes in steps of 0.5. Inputs and outputs are
declared float32, which is what Apple's Swift package sends and expects.
"""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgesafe.errors import EdgeSafeError
from edgesafe.mil.ops import OPERATIONS

from . import halving, tracing


@dataclass(frozen=True)
class Port:
    """An input or output: float32, of a fixed shape."""

    name: str
    shape: tuple[int, ...]


def convert(
    module: nn.Module,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    precision: str,
    deployment: str,
    path: Path,
    lowerings: tracing.Lowerings | None = None,
) -> None:
    """Trace `module` and write it to `path`; `lowerings`: torch functions in whose place others are written."""
    ct = _coremltools()
    held: list[halving.Held] = []
    half = {"compute_precision": ct.precision.FLOAT16, "pass_pipeline": halving.passes(held)}
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # coremltools draws bars of its own
        warnings.simplefilter("ignore")
        ct.convert(
            tracing.trace(module, [port.shape for port in inputs], lowerings or {}),
            convert_to="mlprogram",
            inputs=[ct.TensorType(port.name, port.shape, np.float32) for port in inputs],
            outputs=[ct.TensorType(port.name, dtype=np.float32) for port in outputs],
            minimum_deployment_target=getattr(ct.target, deployment),
            skip_model_load=True,
            package_dir=str(path),  # MLModel.save would copy it once more
            **(half if precision == "fp16" else {"compute_precision": ct.precision.FLOAT32}),
        )
    halving.fill(path, held)


def check(path: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> Counter[str]:
    """Read the package again; its operations by type. Raises: EdgeSafeError, where it is not what was meant."""
    ct = _coremltools()
    spec = ct.utils.load_spec(str(path))
    for declared, ports, what in ((spec.description.input, inputs, "input"), (spec.description.output, outputs, "output")):
        found = {row.name: (tuple(row.type.multiArrayType.shape), row.type.multiArrayType.dataType) for row in declared}
        meant = {port.name: (port.shape, ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32) for port in ports}
        if found != meant:
            raise EdgeSafeError(f"{path.name}: its {what}s are {found}, meant were {meant}. Nothing was written")
    found = operations(spec)
    unknown = sorted(set(found) - set(OPERATIONS) - {"const"})
    if unknown:
        raise EdgeSafeError(f"{path.name}: operations that edgesafe.mil cannot evaluate: {', '.join(unknown)}. Nothing was written")
    return found


def operations(spec: Any) -> Counter[str]:
    return Counter(operation.type for operation in main_block(spec).operations)


def main_block(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def _coremltools() -> Any:
    for name in ("coremltools", "coremltools.converters"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns of every torch newer than the last it was tried with
    import coremltools

    return coremltools
