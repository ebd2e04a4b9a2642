"""Constants as the program writes them: short ones in the specification, long ones in a weight file, compressed ones as expressions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from . import constexpr
from .datatypes import FP16, KINDS, STRING, Kind, unpack
from .package import Package

# what holds a constant expression's elements; the rest are scales, tables and masks
PAYLOADS = ("quantized_data", "indices", "indices_nonzero_data", "data", "nonzero_data", "source_val")


@dataclass(frozen=True)
class Stored:
    """One value; `raw` holds its bytes, packed below 8 bits, or its strings."""

    kind: Kind
    shape: tuple[int, ...]
    raw: Any
    in_file: bool

    @property
    def bits(self) -> int:
        return self.kind.bits

    @property
    def nbytes(self) -> int:
        return len(self.raw)

    def array(self) -> np.ndarray:
        """Unpacked; a view of the file where nothing is packed."""
        if self.kind is STRING:
            return np.array(self.raw, np.str_).reshape(self.shape)
        if self.kind.bits < 8:
            return unpack(self.raw, self.kind.bits, math.prod(self.shape), self.kind.signed).reshape(self.shape)
        return self.raw.view(self.kind.stored).reshape(self.shape)

    def plain(self) -> Any:
        """As Python numbers, booleans or strings, in lists."""
        return self.array().tolist()


@dataclass(frozen=True)
class Computed:
    """One output of a `constexpr_*` operation."""

    kind: Kind
    shape: tuple[int, ...]
    operation: str
    inputs: Mapping[str, "Stored | Computed"]
    position: int  # among the operation's outputs

    @property
    def bits(self) -> int:
        if isinstance(lut := self.inputs.get("lut"), Stored) and "shape" in self.inputs:  # iOS 16 packs indices into plain bytes
            return (len(lut.array()) - 1).bit_length()
        return next(self.inputs[name].bits for name in PAYLOADS if name in self.inputs)

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.inputs.values())

    def array(self) -> np.ndarray:
        """Dequantised; fp32 where fp16 is declared, not yet rounded to it."""
        made = constexpr.OPERATIONS[self.operation](**{name: value.array() for name, value in self.inputs.items()})
        return made[self.position] if isinstance(made, tuple) else made


Value = Stored | Computed


def tensor(value: Value) -> Tensor:
    """In the type that carries it: fp16 as the same numbers in fp32."""
    array = value.array()
    if not value.kind.floating:
        return torch.from_numpy(array.astype(_NUMPY[value.kind.carrier], copy=False))
    made = torch.from_numpy(np.asarray(array, order="C"))
    return made.half().float() if value.kind is FP16 else made.float()


_NUMPY = {
    torch.bool: np.bool_,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


def read(package: Package, value: Any, what: str) -> Stored:
    """A MIL.proto Value. `what`: the tensor, for errors. Raises: EdgeSafeError where it does not hold what its type says."""
    kind, shape = declared(package, value.type, what)
    count = math.prod(shape)
    if value.WhichOneof("value") == "blobFileValue":
        mapped = package.blob(value.blobFileValue.fileName).read(value.blobFileValue.offset, kind, count, what)
        return Stored(kind, shape, mapped, in_file=True)
    written = value.immediateValue.tensor
    field = written.WhichOneof("value")
    if field is None:
        raise EdgeSafeError(f"{package.path}: {what} has no value. The package is damaged: export the model again")
    values = getattr(written, field).values
    raw: Any = list(values)
    found: int | str = len(values)
    if field == "bytes":
        raw = np.frombuffer(bytearray(values), np.uint8)  # bytearray: writable
        found = count if len(raw) == -(-count * kind.bits // 8) else f"{len(raw)} bytes of"
    elif kind is not STRING:
        raw = np.array(raw, kind.stored).view(np.uint8).reshape(-1)
    if found != count:
        raise EdgeSafeError(f"{package.path}: {what} holds {found} values and declares {count}. The package is damaged: export it again")
    return Stored(kind, shape, raw, in_file=False)


def declared(package: Package, value_type: Any, what: str) -> tuple[Kind, tuple[int, ...]]:
    """(kind, shape) of a tensor; a size that is not fixed is -1."""
    if value_type.WhichOneof("type") != "tensorType":
        raise EdgeSafeError(f"{package.path}: {what} is a {value_type.WhichOneof('type')}, and only tensors can be evaluated")
    if value_type.tensorType.dataType not in KINDS:
        raise EdgeSafeError(f"{package.path}: {what} has the data type {value_type.tensorType.dataType}, which is not known here")
    dims = tuple(dim.constant.size if dim.WhichOneof("dimension") == "constant" else -1 for dim in value_type.tensorType.dimensions)
    return KINDS[value_type.tensorType.dataType], dims
