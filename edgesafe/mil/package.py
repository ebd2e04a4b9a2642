"""A `.mlpackage` folder: its Manifest.json, the specification that it names, and the weight files beside that."""

import json
import logging
from pathlib import Path
from typing import Any

from edgesafe.errors import EdgeSafeError

from .blob import Blob

AGAIN = "Copy or export the package again"


class Package:
    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._model = _model_file(path)
        self._blobs: dict[str, Blob] = {}

    def specification(self) -> Any:
        """CoreML.Specification.Model. Raises: EdgeSafeError for a damaged file and for anything but an ML program with a main function."""
        for name in ("coremltools", "coremltools.converters"):
            logging.getLogger(name).setLevel(logging.ERROR)  # it warns of every torch newer than the last it was tried with
        from coremltools.proto import Model_pb2
        from google.protobuf.message import DecodeError

        spec = Model_pb2.Model()
        try:
            spec.ParseFromString(self._model.read_bytes())
        except DecodeError as error:
            raise EdgeSafeError(f"{self._model}: not a Core ML specification ({error}). {AGAIN}") from error
        if spec.WhichOneof("Type") != "mlProgram":
            raise EdgeSafeError(f"{self._model}: its model is a {spec.WhichOneof('Type')}, and only ML programs can be evaluated")
        if "main" not in spec.mlProgram.functions:
            raise EdgeSafeError(f"{self._model}: the program has no function named main")
        function = spec.mlProgram.functions["main"]
        if function.opset not in function.block_specializations:
            raise EdgeSafeError(f"{self._model}: its main function has no block for {function.opset!r}. {AGAIN}")
        return spec

    def blob(self, file_name: str) -> Blob:
        """The weight file that the specification calls `@model_path/weights/weight.bin`."""
        if file_name not in self._blobs:
            root = self._model.parent.resolve()
            path = (root / file_name.removeprefix("@model_path/")).resolve()
            if not path.is_relative_to(root):
                raise EdgeSafeError(f"{self._model}: it names the weight file {file_name!r}, which lies outside the package. {AGAIN}")
            self._blobs[file_name] = Blob(path)
        return self._blobs[file_name]


def _model_file(package: Path) -> Path:
    manifest = package / "Manifest.json"
    if not manifest.is_file():
        raise EdgeSafeError(f"{package}: no Core ML package (no Manifest.json). {AGAIN}")
    try:
        read = json.loads(manifest.read_text(encoding="utf-8"))
        path = package / "Data" / read["itemInfoEntries"][read["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeSafeError(f"{manifest}: not the manifest of a Core ML package ({type(error).__name__}: {error}). {AGAIN}") from error
    if not path.is_file() or not path.resolve().is_relative_to(package.resolve()):
        raise EdgeSafeError(f"{manifest}: it names {path.relative_to(package)}, which is not in the package. {AGAIN}")
    return path
