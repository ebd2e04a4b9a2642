"""ONNX in the layout of Optimum and diffusers; loads unchanged in `optimum.onnxruntime.ORTStableDiffusionPipeline`.

Batch, height and width are dynamic, or with `--static` fixed; names and layouts stand in wrappers.py. Inputs and outputs are fp32 in fp16
exports too, so that the sampling loop around them keeps fp32 and callers need not know. Over 1 GB, weights go to `model.onnx_data` beside
the graph.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import onnx
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import graph, layout, onnx_int4, onnx_int8, wrappers
from .compression import Compression
from .config import ExportConfig
from .half import to_half
from .job import Job
from .layout import BATCH, PARTS, NamedParts, Part, Sizes
from .onnx_session import session

NARROWED = {"int8": ("text_encoder", "unet", "vae_decoder"), "int4": ("text_encoder", "unet")}


@dataclass(frozen=True)
class Onnx:
    precision: str  # "fp32" | "fp16"
    sizes: Sizes
    compression: Compression | None
    gate_db: float  # what a compressed part has to reach; layers stay wide until it does

    name: ClassVar[str] = "onnx"
    default_precision: ClassVar[str] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")
    parts: ClassVar[tuple[str, ...]] = PARTS

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "Onnx":
        layout.refuse(config, "ONNX")
        precision, compression = config.precision_of(cls.default_precision), config.compression()
        if compression and precision == "fp16":
            raise EdgeSafeError(f"--precision fp16 with --quantize {compression.name}: give one; what is not narrowed stays fp32")
        return cls(precision, layout.sizes(config, model, "an ONNX"), compression, config.gate_db)

    @property
    def narrowed(self) -> tuple[str, ...]:
        if self.compression is None:
            return ()
        return NARROWED[self.compression.name]

    @property
    def height(self) -> int:
        return self.sizes.height

    @property
    def width(self) -> int:
        return self.sizes.width

    def notes(self, model: TextToImage) -> tuple[str, ...]:
        return ()

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`."""
        dynamic = [] if self.sizes.fixed else [BATCH, "height", "width"]
        batch = {"batch": self.sizes.batch} if self.sizes.fixed else {}
        return {"height": self.height, "width": self.width, **batch, "dynamic": dynamic, "opset": graph.OPSET}

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None]) -> None:
        for name in PARTS:
            begin(name)
            part = layout.part(name, model, self.sizes)
            (folder / name).mkdir()
            with tempfile.TemporaryDirectory(dir=folder) as scratch, wrappers.plain_attention(model.unet):
                made = graph.trace(part.module, part.example, part.outputs, part.axes, Path(scratch))
            if self.precision == "fp16":
                to_half(made)
            check(name, made.model, part)
            graph.save(made, folder / name / "model.onnx")
            layout.write_json(folder / name / "config.json", part.config)
        layout.write_rest(model, folder)

    def compress(
        self, part: str, wide: Path, narrow: Path, compression: Compression, job: Job, advance: Callable[[float], None]
    ) -> dict[str, Any]:
        method = {"int8": onnx_int8, "int4": onnx_int4}[compression.name]
        declared = layout.part(part, job.model, self.sizes)
        return method.compress(declared, wide, narrow, job.recording.calls[part], self.gate_db, advance)

    def wider(self, compression: Compression) -> tuple[Compression, ...]:
        return (replace(compression, bits=8),) if compression.bits == 4 else ()

    def open(self, folder: Path) -> NamedParts:
        return open_parts(folder)

    def files(self, part: str) -> str:
        return part


def open_parts(folder: Path) -> NamedParts:
    """An ONNX export as parity.Parts, on the CPU with torch's number of threads."""
    opened = {name: session(folder / name / "model.onnx") for name in PARTS}

    def run(name: str, inputs: dict[str, Tensor]) -> list[Tensor]:
        return [torch.from_numpy(array) for array in opened[name].run(None, {key: value.numpy() for key, value in inputs.items()})]

    declared = {name: one.get_inputs()[0].shape[0] for name, one in opened.items()}
    return NamedParts(run, {name: batch for name, batch in declared.items() if isinstance(batch, int)})


def check(name: str, model: onnx.ModelProto, part: Part) -> None:
    """A valid graph, and exactly the inputs and outputs that were meant; `open_parts` reads the file again."""
    onnx.checker.check_model(graph.bare(model), full_check=True)
    found, meant = {}, {port: part.axes.get(port, {}) for port in (*part.example, *part.outputs)}
    for value in [*model.graph.input, *model.graph.output]:
        found[value.name] = {i: dim.dim_param for i, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
    if found != meant:
        raise EdgeSafeError(f"{name}: its inputs, outputs and dynamic sizes are {found}, meant were {meant}. Nothing was written")
