"""Rewrites a saved `.mlpackage` with narrower weights: the program's protobuf and the weight file, one weight in memory at a time.

A `const` that convolutions, linear layers or embeddings read becomes an operation of the same output name that a device computes when it
loads the program, in the forms in which coremltools writes them:
  iOS 16, 17   constexpr_lut_to_dense (indices, lut, shape), constexpr_affine_dequantize (quantized_data, scale, zero_point, axis)
  iOS 18       constexpr_lut_to_dense (indices, lut), constexpr_blockwise_shift_scale (data, scale); as inputs, not attributes
All else is copied as it is.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe.errors import ArtifactError
from edgesafe.mil.package import Package as Saved

from .blob import Reader, Writer, pack
from .palettes import Form, Palette

SPEC, BLOB, MANIFEST = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"
NAMED_BLOB = "@model_path/weights/weight.bin"
READERS = {("conv", "weight"), ("linear", "weight"), ("gather", "x")}  # all have their output channels first
FLOOR = 2048  # elements; smaller weights stay
FLOATS = {10: "float16", 11: "float32"}  # MIL.proto's DataType
TYPES = FLOATS | {21: "int8", 23: "int32", 25: "int4", 31: "uint8", 33: "uint32", 35: "uint4", 38: "uint6"}
NUMBERS = {name: number for number, name in TYPES.items()}
NEWEST = "CoreML8"  # iOS 18's operations


@dataclass(frozen=True)
class Weight:
    name: str
    shape: tuple[int, ...]
    dtype: str  # "float16" | "float32"
    reader: str  # "conv" | "linear" | "gather"
    offset: int  # of its record in the weight file

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


class Package:
    """A saved program whose weights can be looked at one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        missing = [name for name in (SPEC, BLOB, MANIFEST) if not (path / name).is_file()]
        if missing:
            raise ArtifactError(f"{path}: no {missing[0]} in it, so not a whole ML program package")
        self.spec = Saved(path).specification()
        (self.block,) = [block for f in self.spec.mlProgram.functions.values() for block in f.block_specializations.values()]
        self.newest = all(f.opset >= NEWEST for f in self.spec.mlProgram.functions.values())
        self.weights = {weight.name: weight for weight in self._weights()}

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def array(self, weight: Weight) -> np.ndarray:
        with Reader(self.path / BLOB) as blob:
            return _array(blob, weight)

    def _weights(self) -> Iterator[Weight]:
        readers: dict[str, set[tuple[str, str]]] = {}
        for operation in self.block.operations:
            for key, argument in operation.inputs.items():
                for binding in argument.arguments:
                    readers.setdefault(binding.name, set()).add((operation.type, key))
        for operation in self.block.operations:
            if operation.type != "const" or operation.attributes["val"].WhichOneof("value") != "blobFileValue":
                continue
            name, tensor = operation.outputs[0].name, operation.attributes["val"].type.tensorType
            shape, read_by = tuple(side.constant.size for side in tensor.dimensions), readers.get(name, set())
            if read_by and read_by <= READERS and tensor.dataType in FLOATS and len(shape) > 1 and np.prod(shape) > FLOOR:
                offset = operation.attributes["val"].blobFileValue.offset
                yield Weight(name, shape, FLOATS[tensor.dataType], min(read_by)[0], offset)


def rewrite(package: Package, to: Path, narrow: Callable[[Weight, np.ndarray], Form | None], advance: Callable[[float], None]) -> None:
    """Write `package` to the new folder `to`; `narrow` gives a weight's new form, or None to keep it; `advance` gets the share done."""
    spec = type(package.spec)()
    spec.CopyFrom(package.spec)
    (block,) = [block for f in spec.mlProgram.functions.values() for block in f.block_specializations.values()]
    (to / BLOB).parent.mkdir(parents=True)
    shutil.copyfile(package.path / MANIFEST, to / MANIFEST)
    moved: dict[int, int] = {}
    total, done = (package.path / BLOB).stat().st_size, 0
    with Reader(package.path / BLOB) as old, Writer(to / BLOB) as new:
        for operation in block.operations:
            weight = package.weights.get(operation.outputs[0].name) if operation.outputs else None
            form = None
            if weight is not None:
                form = narrow(weight, _array(old, weight))
                done += weight.bytes
                advance(min(done / total, 1.0))
            if form is not None:
                _replace(operation, form, new, package.newest)
                continue
            for reference in _references(operation):
                if reference.offset not in moved:
                    moved[reference.offset] = new.raw(*old.raw(reference.offset))
                reference.offset = moved[reference.offset]
    with open(to / SPEC, "wb") as file:
        file.write(spec.SerializeToString())
    advance(1.0)


def _array(blob: Reader, weight: Weight) -> np.ndarray:
    return np.frombuffer(blob.raw(weight.offset)[2], weight.dtype).reshape(weight.shape)


def _references(operation: Any) -> Iterator[Any]:
    """Every blobFileValue of an operation and of the blocks inside it."""
    values = [*operation.attributes.values()]
    values += [binding.value for argument in operation.inputs.values() for binding in argument.arguments]
    for value in values:
        if value.WhichOneof("value") == "blobFileValue":
            yield value.blobFileValue
    for block in operation.blocks:
        for inner in block.operations:
            yield from _references(inner)


def _replace(operation: Any, form: Form, blob: Writer, newest: bool) -> None:
    """Turn a const into the operation that makes the same tensor from `form`."""
    shape, groups = form.codes.shape, len(form.lut if isinstance(form, Palette) else form.scale)
    floats = (form.lut if isinstance(form, Palette) else form.scale).dtype.name
    del operation.attributes["val"]
    if isinstance(form, Palette):
        operation.type = "constexpr_lut_to_dense"
        if newest:
            _input(operation, "indices", f"uint{form.bits}", shape, blob.array(form.codes, f"uint{form.bits}"))
            _input(operation, "lut", floats, (groups, *[1] * (len(shape) - 1), 2**form.bits, 1), blob.array(form.lut))
        else:
            packed = pack(form.codes.ravel(), form.bits)
            _stored(operation.attributes["indices"], "uint8", packed.shape, blob.array(packed))
            _stored(operation.attributes["lut"], floats, (2**form.bits,), blob.array(form.lut))
            _type(operation.attributes["shape"], "uint32", (len(shape),))
            operation.attributes["shape"].immediateValue.tensor.bytes.values = np.array(shape, np.uint32).tobytes()
    elif newest:
        operation.type = "constexpr_blockwise_shift_scale"
        _input(operation, "data", f"int{form.bits}", shape, blob.array(form.codes, f"int{form.bits}"))
        _input(operation, "scale", floats, (*form.scale.shape, *[1] * (len(shape) - 2)), blob.array(form.scale))
    else:
        operation.type = "constexpr_affine_dequantize"
        _stored(operation.attributes["quantized_data"], "int8", shape, blob.array(form.codes))
        _stored(operation.attributes["zero_point"], "int8", (groups,), blob.array(np.zeros(groups, np.int8)))
        _stored(operation.attributes["scale"], floats, (groups,), blob.array(form.scale))
        _type(operation.attributes["axis"], "int32", ())
        operation.attributes["axis"].immediateValue.tensor.ints.values.append(0)


def _type(value: Any, kind: str, shape: tuple[int, ...]) -> None:
    value.type.tensorType.dataType, value.type.tensorType.rank = NUMBERS[kind], len(shape)
    for side in shape:
        value.type.tensorType.dimensions.add().constant.size = side


def _stored(value: Any, kind: str, shape: tuple[int, ...], offset: int) -> None:
    _type(value, kind, shape)
    value.blobFileValue.fileName, value.blobFileValue.offset = NAMED_BLOB, offset


def _input(operation: Any, key: str, kind: str, shape: tuple[int, ...], offset: int) -> None:
    _stored(operation.inputs[key].arguments.add().value, kind, shape, offset)
