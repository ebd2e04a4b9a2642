"""openvino: runs OpenVINO IR in the diffusers layout on the CPU, in fp32 arithmetic.

OpenVINO itself would compute in bf16 where a CPU can, and round the inputs of layers with 4-bit weights to 8 bits; both are off here, as
they are where an export is compared with torch, so that this runtime draws what was compared. The UNet is compiled anew for each set of
sizes: with sizes left open, a call of the packaged teacher takes 1.45 times as long.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe import intel
from edgesafe.errors import EdgeSafeError

from .layout_runtime import Component, LayoutRuntime, Shape

DTYPES = {"f32": torch.float32, "f16": torch.float16, "i64": torch.int64, "i32": torch.int32}


class OpenVINOFile(Component):
    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None) -> None:
        self.path, self.threads = path, threads
        try:
            self.model = intel.core().read_model(path)
            self.request = self._compiled(self.model)
        except RuntimeError as error:
            raise self._cannot_load(error) from error
        found = {value.any_name: i for i, value in enumerate(self.model.outputs)}  # compiling adds names of its own
        if missing := [name for name in outputs if name not in found]:
            raise EdgeSafeError(f"{path}: no output named {missing[0]!r}, only {', '.join(found)}. Export the run again")
        self.wanted = [found[name] for name in outputs]
        self.dtypes = {value.any_name: DTYPES[value.element_type.get_type_name()] for value in self.model.inputs}
        self.inputs = tuple(self.dtypes)
        rows = self.model.inputs[0].partial_shape[0]
        self.batch = rows.get_length() if rows.is_static else None

    def _compiled(self, model: Any) -> Any:
        """An InferRequest."""
        return intel.compiled(model, self.threads).create_infer_request()

    def _cannot_load(self, error: Exception) -> EdgeSafeError:
        why = f"openvino {intel.openvino().__version__} cannot load it ({str(error).strip()})"
        return EdgeSafeError(f"{self.path}: {why}. Export the run again")

    def request_for(self, feeds: dict[str, Tensor]) -> Any:
        return self.request

    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        arrays = {name: feeds[name].to(dtype).contiguous().numpy() for name, dtype in self.dtypes.items()}
        try:
            made = self.request_for(feeds).infer(arrays, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error
        return [torch.from_numpy(made[index].copy()).float() for index in self.wanted]


class OpenVINOUNet(OpenVINOFile):
    """Compiled when the first call tells its sizes; the last ones are kept."""

    def _compiled(self, model: Any) -> Any:
        self.sizes: tuple[Shape, ...] | None = None

    def request_for(self, feeds: dict[str, Tensor]) -> Any:
        sizes = tuple(tuple(feeds[name].shape) for name in self.inputs)
        if sizes != self.sizes:
            self.request = None  # so that two are never in memory
            fixed = self.model.clone()
            fixed.reshape({name: list(size) for name, size in zip(self.inputs, sizes, strict=True)})
            try:
                self.request = intel.compiled(fixed, self.threads).create_infer_request()
            except RuntimeError as error:
                raise self._cannot_load(error) from error
            self.sizes = sizes
        return self.request


class OpenVINORuntime(LayoutRuntime):
    name = "openvino"
    packages = ("openvino", "torch", "diffusers", "transformers")
    kind, file, component, unet_component = "OpenVINO", "openvino_model.xml", OpenVINOFile, OpenVINOUNet

    @classmethod
    def import_libraries(cls) -> None:
        super().import_libraries()
        intel.openvino()
