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
import torch
from torch import nn

from edgesafe.errors import EdgeSafeError

ANGLES = ("sin", "cos")
UPSTREAM = ("mul", "add", "cast", "expand_dims", "reshape", "squeeze", "tile", "const")  # between the timestep and the sine
# all that Stable Diffusion 1 and 2 UNets, VAEs and CLIP text encoders convert to, for iOS 16, 17 and 18
OPERATIONS = frozenset(
    (
        "add batch_norm cast concat const conv cos equal expand_dims gather gather_nd gelu greater_equal layer_norm linear matmul mul pad "
        "real_div reduce_argmax reduce_mean reshape scaled_dot_product_attention select sigmoid silu sin slice_by_index softmax split sqrt "
        "square squeeze stack sub transpose upsample_nearest_neighbor"
    ).split()
)


@dataclass(frozen=True)
class Port:
    """An input or output: float32, of a fixed shape."""

    name: str
    shape: tuple[int, ...]


def convert(module: nn.Module, inputs: Sequence[Port], outputs: Sequence[Port], precision: str, deployment: str, path: Path) -> None:
    """Trace `module` and write it to `path`."""
    ct = _coremltools()
    example = tuple(torch.ones(port.shape) for port in inputs)
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # coremltools draws bars of its own
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
        model = ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[ct.TensorType(port.name, port.shape, np.float32) for port in inputs],
            outputs=[ct.TensorType(port.name, dtype=np.float32) for port in outputs],
            minimum_deployment_target=getattr(ct.target, deployment),
            compute_precision=ct.transform.FP16ComputePrecision(_may_halve) if precision == "fp16" else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))


def _may_halve(operation: Any) -> bool:
    """False for sine, cosine and what their angle is made from."""
    if operation.op_type in ANGLES:
        return False
    return not (
        operation.op_type in UPSTREAM and any(not _may_halve(reader) for output in operation.outputs for reader in output.child_ops)
    )


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
    unknown = sorted(set(found) - OPERATIONS)
    if unknown:
        raise EdgeSafeError(f"{path.name}: operations that no Stable Diffusion part converts to: {', '.join(unknown)}. Nothing was written")
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
