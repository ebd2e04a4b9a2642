"""Packages that are damaged, or that hold what the evaluator does not know: each is refused with the name of what is wrong."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesafe import mil
from edgesafe.errors import EdgeSafeError
from edgesafe.mil.ops import OPERATIONS

MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
X = np.zeros((1, 4, 6, 6), np.float32)


@pytest.fixture(scope="module")
def whole(saver: Any) -> Path:
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)

    def build(x: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        made = mb.conv(x=x, weight=mb.const(val=weight, name="kernel"), pad_type="valid", name="made")
        return mb.silu(x=made, name="out")

    return saver(build, x=X)


@pytest.fixture
def package(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "Unet.mlpackage"))


def edit(package: Path, change: Callable[[Any, Any], None]) -> None:
    """change(specification, its operations)"""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    function = spec.mlProgram.functions["main"]
    change(spec, function.block_specializations[function.opset].operations)
    (package / MODEL).write_bytes(spec.SerializeToString())


def put(file: Path, offset: int, data: bytes) -> None:
    file.write_bytes(file.read_bytes()[:offset] + data + file.read_bytes()[offset + len(data) :])


def refused(package: Path, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        mil.load(package)(x=torch.from_numpy(X))


def test_it_is_whole_at_first(package: Path) -> None:
    assert mil.load(package)(x=torch.from_numpy(X))["out"].shape == (1, 8, 4, 4)


def test_no_package(tmp_path: Path) -> None:
    refused(tmp_path, r"no Core ML package \(no Manifest.json\)")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rootModelIdentifier": "a", "itemInfoEntries": {}}'])
def test_manifest_of_another_kind(package: Path, text: str) -> None:
    (package / "Manifest.json").write_text(text)
    refused(package, "Manifest.json: not the manifest of a Core ML package")


def test_manifest_names_a_file_that_is_not_there(package: Path) -> None:
    (package / MODEL).unlink()
    refused(package, "Manifest.json: it names Data/com.apple.CoreML/model.mlmodel, which is not in the package")


def test_manifest_names_a_file_outside(package: Path) -> None:
    shutil.copy(package / MODEL, package.parent / "elsewhere")
    read = json.loads((package / "Manifest.json").read_text())
    read["itemInfoEntries"][read["rootModelIdentifier"]]["path"] = "../../elsewhere"
    (package / "Manifest.json").write_text(json.dumps(read))
    refused(package, "which is not in the package")


def test_specification_is_not_one(package: Path) -> None:
    (package / MODEL).write_bytes(b"\xff" * 100)
    refused(package, "model.mlmodel: not a Core ML specification")


def test_specification_is_cut(package: Path) -> None:
    (package / MODEL).write_bytes((package / MODEL).read_bytes()[:-20])
    refused(package, "model.mlmodel: not a Core ML specification")


def test_another_kind_of_model(package: Path) -> None:
    edit(package, lambda spec, _: spec.neuralNetwork.SetInParent())
    refused(package, "its model is a neuralNetwork, and only ML programs")


def test_no_main_function(package: Path) -> None:
    def change(spec: Any, _: Any) -> None:
        spec.mlProgram.functions["other"].CopyFrom(spec.mlProgram.functions["main"])
        del spec.mlProgram.functions["main"]

    edit(package, change)
    refused(package, "no function named main")


def test_weight_file_is_gone(package: Path) -> None:
    (package / WEIGHTS).unlink()
    refused(package, "weight.bin: no such file")


@pytest.mark.parametrize(("size", "message"), [(0, "0 bytes, too few"), (-64, "it ends at byte .*, before the end of the tensor kernel")])
def test_weight_file_is_cut(package: Path, size: int, message: str) -> None:
    file = package / WEIGHTS
    file.write_bytes(file.read_bytes()[: size or None] if size else b"")
    refused(package, f"weight.bin: {message}")


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (4, struct.pack("<I", 3), "its header says version 3"),
        (64, b"\0", "no weight begins at byte 64, where the tensor kernel points"),
        (68, struct.pack("<I", 1), r"the tensor kernel is fp32 in the program, and of another data type \(1\) here"),
        (72, struct.pack("<Q", 1150), "the tensor kernel needs 1152 bytes, and 1150 are stored"),
        (80, struct.pack("<Q", 2**40), "before the end of the tensor kernel"),
    ],
)
def test_weight_file_is_altered(package: Path, offset: int, data: bytes, message: str) -> None:
    put(package / WEIGHTS, offset, data)
    refused(package, message)


def kernel(operations: Any) -> Any:
    return next(op for op in operations if op.outputs[0].name == "kernel")


def by_name(operations: Any, name: str) -> Any:
    return next(op for op in operations if op.outputs[0].name == name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ops: setattr(kernel(ops).attributes["val"].blobFileValue, "offset", 10**9), "the tensor kernel points at byte 1000000000"),
        (
            lambda ops: setattr(kernel(ops).attributes["val"].blobFileValue, "fileName", "@model_path/../../../../secret"),
            "which lies outside the package",
        ),
        (lambda ops: setattr(kernel(ops).attributes["val"].type.tensorType, "dataType", 13), "kernel has the data type 13"),
        (lambda ops: by_name(ops, "made").inputs.pop("weight"), r"conv \(of the tensor made\) lacks its parameter 'weight'"),
        (
            lambda ops: by_name(ops, "made").inputs["extra"].arguments.add(name="kernel"),
            r"conv \(of the tensor made\) has a parameter 'extra' that the evaluator does not know",
        ),
        (lambda ops: setattr(by_name(ops, "out").inputs["x"].arguments[0], "name", "gone"), r"silu \(of the tensor out\) reads gone"),
        (
            lambda ops: setattr(by_name(ops, "out"), "type", "topk"),
            r"topk \(of the tensor out\) is an operation that the evaluator does not",
        ),
        (
            lambda ops: setattr(by_name(ops, "made").outputs[0].type.tensorType.dimensions[3].constant, "size", 5),
            r"Unet.mlpackage: conv, tensor made: the shape \(1, 8, 4, 4\) is computed and \(1, 8, 4, 5\) declared for made",
        ),
        (
            lambda ops: setattr(by_name(ops, "made").outputs[0].type.tensorType, "dataType", 23),
            "conv, tensor made: torch.float32 is computed and int32 declared",
        ),
        (
            lambda ops: (
                setattr(kernel(ops).attributes["val"].type.tensorType.dimensions[1].constant, "size", 8)
                or setattr(kernel(ops).attributes["val"].type.tensorType.dimensions[0].constant, "size", 4)
            ),
            r"conv, tensor made: it cannot be computed \(RuntimeError",
        ),
        (lambda ops: ops.pop(), "no operation computes its output out"),
    ],
)
def test_specification_is_altered(package: Path, change: Callable[[Any], None], message: str) -> None:
    edit(package, lambda _, operations: change(operations))
    refused(package, message)


def test_short_constants_are_checked_too(package: Path) -> None:
    def change(_: Any, operations: Any) -> None:
        value = next(op for op in operations if op.type == "const" and op.outputs[0].name != "kernel" and "strides" in op.outputs[0].name)
        value.attributes["val"].immediateValue.tensor.ints.values.append(1)

    edit(package, change)
    refused(package, "strides.* holds 3 values and declares 2")


def test_an_operation_never_seen_is_refused_at_load(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATIONS, "silu")
    with pytest.raises(EdgeSafeError, match=r"\.mlpackage: silu \(of the tensor out\) is an operation that the evaluator does not know"):
        mil.load(whole)
