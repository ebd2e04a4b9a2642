"""onnxruntime: runs the Optimum/diffusers ONNX layout on the CPU, without Optimum.

One warm session a component. Inputs and outputs are bound to torch's own memory, so nothing is copied between the sampler
and the UNet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from .layout_runtime import Component, LayoutRuntime, Shape

DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}


class OnnxFile(Component):
    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own graph passes
        if threads:
            options.intra_op_num_threads = threads
        self.path, self.errors = path, _errors()
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self.errors as error:
            why = f"onnxruntime {ort.__version__} cannot load it ({str(error).strip()})"
            raise EdgeSafeError(f"{path}: {why}. Export the run again") from error
        self.dtypes = {node.name: DTYPES[node.type] for node in self.session.get_inputs()}
        self.inputs = tuple(self.dtypes)
        rows = self.session.get_inputs()[0].shape[0]
        self.batch = rows if isinstance(rows, int) else None
        found = {node.name: node.type for node in self.session.get_outputs()}
        if missing := [name for name in outputs if name not in found]:
            raise EdgeSafeError(f"{path}: no output named {missing[0]!r}, only {', '.join(found)}. Export the run again")
        self.outputs = {name: DTYPES[found[name]] for name in outputs}

    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        binding = self.session.io_binding()
        kept = []  # the tensors whose memory the session reads
        for name, dtype in self.dtypes.items():
            tensor = feeds[name].to(dtype).contiguous()
            kept.append(tensor)
            binding.bind_input(name, "cpu", 0, _numpy_dtype(dtype), tuple(tensor.shape), tensor.data_ptr())
        made = []
        for (name, dtype), shape in zip(self.outputs.items(), shapes, strict=True):
            made.append(torch.empty(shape, dtype=dtype))
            binding.bind_output(name, "cpu", 0, _numpy_dtype(dtype), shape, made[-1].data_ptr())
        try:
            self.session.run_with_iobinding(binding)
        except self.errors as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error
        return [out.float() for out in made]


def _errors() -> tuple[type[Exception], ...]:
    """Everything that onnxruntime raises: its classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return RuntimeError, *(cls for cls in vars(state).values() if isinstance(cls, type) and issubclass(cls, Exception))


def _numpy_dtype(dtype: torch.dtype) -> Any:
    import numpy as np

    return {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.int32: np.int32}[dtype]


class OnnxRuntime(LayoutRuntime):
    name = "onnxruntime"
    packages = ("onnxruntime", "torch", "diffusers", "transformers")
    kind, file, component = "ONNX", "model.onnx", OnnxFile

    @classmethod
    def import_libraries(cls) -> None:
        super().import_libraries()
        import onnxruntime  # noqa: F401
