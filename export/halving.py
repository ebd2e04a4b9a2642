"""coremltools' fp16 pass, twice as fast and without a second copy of the weights.

Its own pass copies every weight to look for numbers beyond fp16, and keeps all fp16 copies until the file is written: 1.7 GB for a 860 M
UNet. Here each large weight becomes a constant of one repeated number that takes no memory, its mark; conversion goes on as ever, and
`fill` then writes the real weights over the marks in the saved file, one by one. A weight that is not found there as it was left (name,
shape, every element the mark) is an error, so no later pass can have changed it unseen.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe.errors import EdgeSafeError

from .blob import RECORD, SENTINEL
from .mlpackage import BLOB, Package

ANGLES = ("sin", "cos")
UPSTREAM = ("mul", "add", "cast", "expand_dims", "reshape", "squeeze", "tile")  # between the timestep and the sine
LARGEST, INFINITE = 65504.0, 1e38  # of fp16; coremltools takes what lies beyond the second as an infinity on purpose
LARGE = 2**16  # elements; smaller weights are converted as ever
MARKS = 0x7BFF  # finite positive fp16 numbers, 1 to this as bits


@dataclass(frozen=True)
class Held:
    name: str  # of the constant in the saved program
    mark: int  # bits of the fp16 number that stands for it
    weight: np.ndarray  # fp32, the module's own memory


def passes(held: list[Held]) -> Any:
    """coremltools' pipeline with this pass in the place of its own; the pass appends to `held`."""
    import coremltools as ct

    pipeline = ct.PassPipeline.DEFAULT
    place = pipeline.passes.index("common::add_fp16_cast")
    pipeline.remove_pass(place)
    pipeline.insert_pass(place, _registered())
    pipeline.set_options(_registered(), {"held": held})
    return pipeline


def fill(package: Path, held: Iterable[Held]) -> None:
    """Raises: EdgeSafeError, where a weight is not as the pass left it."""
    constants = {op.outputs[0].name: op.attributes["val"] for op in Package(package).block.operations if op.type == "const"}
    with open(package / BLOB, "r+b") as file:
        for row in held:
            if row.name not in constants or not _is_marked(file, constants[row.name], row):
                raise EdgeSafeError(f"{package.name}: coremltools changed {row.name}. Use the version that constraints.txt names")
            file.seek(-row.weight.size * 2, 1)
            file.write(memoryview(np.ascontiguousarray(row.weight, np.float16)).cast("B"))


def _is_marked(file: Any, value: Any, row: Held) -> bool:
    """Leaves the file after the weight's last byte."""
    file.seek(value.blobFileValue.offset)
    sentinel, _, size, start, _ = RECORD.unpack(file.read(RECORD.size))
    shape = tuple(side.constant.size for side in value.type.tensorType.dimensions)
    if sentinel != SENTINEL or shape != row.weight.shape or size != 2 * row.weight.size:
        return False
    file.seek(start)
    return bool((np.frombuffer(file.read(size), np.uint16) == row.mark).all())


@functools.cache
def _registered() -> str:
    import coremltools as ct
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    @register_pass(namespace="edgesafe", name="halve")
    class Halve(ct.transform.FP16ComputePrecision):
        """All to fp16 but sine, cosine and what their angle is made from: near 999 fp16 goes in steps of 0.5."""

        held: list[Held]

        def __init__(self) -> None:
            super().__init__(op_selector=lambda operation: operation not in self._full)
            self.held = []

        def apply(self, prog: Any) -> None:
            self._full = _angles(prog)
            super().apply(prog)

        @staticmethod
        def fp16_overflow(op: Any) -> bool:
            given = [var for inputs in op.inputs.values() for var in (inputs if isinstance(inputs, list | tuple) else (inputs,))]
            return any(_beyond(var.op.val.val) for var in given if _is_weight(var))

        def _check_underflow_to_zero(self, new_var: Any, var: Any) -> None:
            """Called with each weight's fp16 copy and the weight."""
            if _is_weight(var) and var.val.size >= LARGE and len(self.held) < MARKS:
                row = Held(re.sub(r"\W", "_", new_var.name), len(self.held) + 1, var.val)
                new_var._sym_val.val = np.broadcast_to(np.array(row.mark, np.uint16).view(np.float16), var.val.shape)
                self.held.append(row)
            elif var.val is None or np.size(var.val) < LARGE:
                super()._check_underflow_to_zero(new_var, var)

    return "edgesafe::halve"


def _angles(prog: Any) -> set[Any]:
    full: set[Any] = set()
    queue = [op for function in prog.functions.values() for op in function.operations if op.op_type in ANGLES]
    while queue:
        op = queue.pop()
        if op not in full:
            full.add(op)
            queue += [v.op for v in op.get_flattened_inputs() if v.op is not None and v.op.op_type in UPSTREAM]
    return full


def _is_weight(var: Any) -> bool:
    return var.op is not None and var.op.op_type == "const" and var.is_tensor_or_scalar_of(dtype="fp32")


def _beyond(value: Any) -> bool:
    value = np.asarray(value)
    if not value.size or max(value.max(), -value.min()) <= LARGEST:
        return False
    sizes = np.abs(value)
    return bool(np.max(sizes[sizes < INFINITE], initial=0.0) > LARGEST)
