"""ONNX in the layout of Optimum and diffusers; loads unchanged in `optimum.onnxruntime.ORTStableDiffusionPipeline`.

Batch, height and width are dynamic, or with `--static` fixed; names and layouts stand in wrappers.py. Inputs and outputs are fp32 in fp16
exports too, so that the sampling loop around them keeps fp32 and callers need not know. Over 1 GB, weights go to `model.onnx_data` beside
the graph.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import fixed, graph, layout, onnx_int4, onnx_int8, overflow, wrappers
from .compression import Compression
from .job import Job
from .layout import NamedParts, Part
from .layout_target import LayoutTarget
from .onnx_session import session
from .parity import Recording


@dataclass(frozen=True)
class Onnx(LayoutTarget):
    name: ClassVar[str] = "onnx"
    kind: ClassVar[str] = "ONNX"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`."""
        wide = {"fp32_parts": self._wide(model)} if self.precision == "fp16" else {}
        return {**self.sizes.facts(), "opset": graph.OPSET, **wide}

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None], recording: Recording | None = None) -> None:
        for name in self.parts:
            begin(name)
            part = layout.part(name, model, self.sizes)
            (folder / name).mkdir()
            with tempfile.TemporaryDirectory(dir=folder) as scratch, wrappers.plain_attention(model.unet):
                made = graph.trace(part.module, part.example, part.outputs, part.axes, Path(scratch))
            if self.sizes.fixed:
                fixed.fold(made.model)
            check(name, made.model, part)
            path = folder / name / "model.onnx"
            if self.precision == "fp32" or name in self._wide(model):
                graph.save(made, path)
            else:
                calls = recording.calls.get(name, []) if recording else []
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    overflow.write_half(made, layout.compared(name, model, self.sizes), calls, self.gate_db, path, Path(scratch))
            layout.write_json(folder / name / "config.json", part.config)
        layout.write_rest(model, folder)

    def compress(
        self, part: str, wide: Path, narrow: Path, compression: Compression, job: Job, advance: Callable[[float], None]
    ) -> dict[str, Any]:
        method = {"int8": onnx_int8, "int4": onnx_int4}[compression.name]
        declared = layout.compared(part, job.model, self.sizes)
        return method.compress(declared, wide, narrow, job.recording.calls[part], self.gate_db, advance)

    def open(self, folder: Path) -> NamedParts:
        return open_parts(folder, self.parts)

    @staticmethod
    def _wide(model: TextToImage) -> list[str]:
        """Parts that stay fp32 in an fp16 export."""
        return ["vae_encoder", "vae_decoder"] if model.vae_overflows else []


def open_parts(folder: Path, names: Sequence[str]) -> NamedParts:
    """An ONNX export as parity.Parts, on the CPU with torch's number of threads."""
    sessions = {name: session(folder / name / "model.onnx") for name in names}

    def run(name: str, inputs: dict[str, Tensor]) -> list[Tensor]:
        return [torch.from_numpy(array) for array in sessions[name].run(None, {key: value.numpy() for key, value in inputs.items()})]

    declared = {name: one.get_inputs()[0].shape[0] for name, one in sessions.items()}
    return NamedParts(run, {name: batch for name, batch in declared.items() if isinstance(batch, int)})


def check(name: str, model: onnx.ModelProto, part: Part) -> None:
    """A valid graph, and exactly the inputs and outputs that were meant; `open_parts` reads the file again."""
    onnx.checker.check_model(graph.bare(model), full_check=True)
    found, meant = {}, {port: part.axes.get(port, {}) for port in (*part.example, *part.outputs)}
    for value in [*model.graph.input, *model.graph.output]:
        found[value.name] = {i: dim.dim_param for i, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
    if found != meant:
        raise EdgeSafeError(f"{name}: its inputs, outputs and dynamic sizes are {found}, meant were {meant}. Nothing was written")
