"""openvino: runs OpenVINO IR in the diffusers layout on the CPU, in fp32 arithmetic.

OpenVINO itself would compute in bf16 where a CPU can, and round the inputs of layers with 4-bit weights to 8 bits; both are off here, as
they are where an export is compared with torch, so that this runtime draws what was compared.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgesafe import intel
from edgesafe.errors import EdgeSafeError

from .layout_runtime import Component, LayoutRuntime, Shape

DTYPES = {"f32": torch.float32, "f16": torch.float16, "i64": torch.int64, "i32": torch.int32}


class OpenVINOFile(Component):
    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None) -> None:
        ov = intel.openvino()
        try:
            model = intel.core().read_model(path)
            self.compiled = intel.compiled(model, threads)
        except RuntimeError as error:
            why = f"openvino {ov.__version__} cannot load it ({str(error).strip()})"
            raise EdgeSafeError(f"{path}: {why}. Export the run again") from error
        found = {value.any_name: i for i, value in enumerate(model.outputs)}  # compiling adds names of its own
        if missing := [name for name in outputs if name not in found]:
            raise EdgeSafeError(f"{path}: no output named {missing[0]!r}, only {', '.join(found)}. Export the run again")
        self.path, self.wanted = path, [found[name] for name in outputs]
        self.dtypes = {value.any_name: DTYPES[value.element_type.get_type_name()] for value in model.inputs}
        self.inputs = tuple(self.dtypes)
        rows = model.inputs[0].partial_shape[0]
        self.batch = rows.get_length() if rows.is_static else None

    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        try:
            made = self.compiled({name: feeds[name].to(dtype).contiguous().numpy() for name, dtype in self.dtypes.items()})
        except RuntimeError as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error
        return [torch.from_numpy(made[index].copy()).float() for index in self.wanted]


class OpenVINORuntime(LayoutRuntime):
    name = "openvino"
    packages = ("openvino", "torch", "diffusers", "transformers")
    kind, file, component, unet_component = "OpenVINO", "openvino_model.xml", OpenVINOFile, OpenVINOFile

    @classmethod
    def import_libraries(cls) -> None:
        super().import_libraries()
        intel.openvino()
