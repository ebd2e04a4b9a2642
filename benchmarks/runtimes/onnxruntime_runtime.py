"""onnxruntime: runs the Optimum/diffusers ONNX layout on the CPU, without Optimum.

One warm session a component, of the UNet one for each set of sizes (unet_plan.py). Inputs and outputs are bound to torch's own memory, so
nothing is copied between the sampler and the UNet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from . import onnx_file
from .layout_runtime import Component, LayoutRuntime, Shape
from .specialise import SAMPLE, TIMESTEP
from .unet_plan import Plan, bind, dtype_of

SMALL = 2**28  # bytes of a UNet's file: of a smaller one several plans are kept open
PLANS = 4
KEPT_APART = ["MatMulAddFusion"]  # a product and its bias as one Gemm: that takes two dimensions, so two reshapes, which cost more


class OnnxFile(Component):
    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None) -> None:
        self.path, self.threads = path, threads
        self.session = self._open(str(path))
        self.dtypes = {node.name: dtype_of(node.type) for node in self.session.get_inputs()}
        self.inputs = tuple(self.dtypes)
        rows = self.session.get_inputs()[0].shape[0]
        self.batch = rows if isinstance(rows, int) else None
        found = {node.name: node.type for node in self.session.get_outputs()}
        self.outputs = {name: dtype_of(found[name]) for name in _there(path, outputs, list(found))}

    def _open(self, model: str | bytes, threads: int | None = None, spins: bool = False) -> Any:
        import onnxruntime as ort

        options = self._options(threads, spins)
        if isinstance(model, bytes):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.path.parent))
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=KEPT_APART)
        except errors() as error:
            raise cannot_load(self.path, error) from error

    def _options(self, threads: int | None, spins: bool) -> Any:
        """`spins`: its threads wait for the next call awake, which makes short calls in a row faster, and slows down all else meanwhile."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own graph passes
        options.intra_op_num_threads = threads or self.threads or 0  # 0: as onnxruntime chooses
        options.add_session_config_entry("session.force_spinning_stop", "0" if spins else "1")
        return options

    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        binding = self.session.io_binding()
        kept = [bind(binding.bind_input, name, feeds[name].to(dtype).contiguous()) for name, dtype in self.dtypes.items()]
        outputs = zip(self.outputs.items(), shapes, strict=True)
        made = [bind(binding.bind_output, name, torch.empty(shape, dtype=dtype)) for (name, dtype), shape in outputs]
        try:
            self.session.run_with_iobinding(binding)
        except errors() as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error
        del kept  # the session read their memory until here
        return [out.float() for out in made]


class OnnxUNet(OnnxFile):
    """Opened when the first call tells its sizes."""

    def __init__(self, path: Path, outputs: Sequence[str], threads: int | None) -> None:
        self.path, self.threads = path, threads
        try:
            self.model = onnx_file.read(path)
        except ValueError as error:
            raise cannot_load(path, error) from error
        ports = {value.name: value.type.tensor_type for value in self.model.graph.input}
        rows = ports[SAMPLE].shape.dim[0]
        self.inputs, self.batch = tuple(ports), rows.dim_value if rows.HasField("dim_value") else None
        (self.output,) = _there(path, outputs, [value.name for value in self.model.graph.output])
        self.kept = PLANS if sum(file.stat().st_size for file in path.parent.iterdir()) < SMALL else 1
        self.plans: dict[tuple[Any, ...], Plan] = {}  # the last used one last

    def run(self, shapes: Sequence[Shape], feeds: dict[str, Tensor]) -> list[Tensor]:
        sample, given = feeds[SAMPLE], {name: value for name, value in feeds.items() if name not in (SAMPLE, TIMESTEP)}
        half = len(sample) // 2
        shared = len(sample) % 2 == 0 and torch.equal(sample[:half], sample[half:])  # guidance
        sizes = {name: tuple(feeds[name].shape) for name in self.inputs}
        key = shared, *sizes.values()
        if key not in self.plans:
            for old in list(self.plans)[: len(self.plans) + 1 - self.kept]:
                del self.plans[old]
        plan = self.plans.pop(key, None) or Plan(self.model, sizes, shared, self._open)
        self.plans[key] = plan
        try:
            return [plan(sample, feeds[TIMESTEP], given, shapes[0])]
        except errors() as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error


def errors() -> tuple[type[Exception], ...]:
    """Everything that onnxruntime raises: its classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return RuntimeError, *(cls for cls in vars(state).values() if isinstance(cls, type) and issubclass(cls, Exception))


def cannot_load(path: Path, error: Exception) -> EdgeSafeError:
    import onnxruntime as ort

    return EdgeSafeError(f"{path}: onnxruntime {ort.__version__} cannot load it ({str(error).strip()}). Export the run again")


def _there(path: Path, wanted: Sequence[str], found: Sequence[str]) -> Sequence[str]:
    if missing := [name for name in wanted if name not in found]:
        raise EdgeSafeError(f"{path}: no output named {missing[0]!r}, only {', '.join(found)}. Export the run again")
    return wanted


class OnnxRuntime(LayoutRuntime):
    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "torch", "diffusers", "transformers")
    kind, file, component, unet_component = "ONNX", "model.onnx", OnnxFile, OnnxUNet

    @classmethod
    def import_libraries(cls) -> None:
        super().import_libraries()
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
