"""ONNX in the layout of Optimum and diffusers; loads unchanged in `optimum.onnxruntime.ORTStableDiffusionPipeline`.

Batch, height and width are dynamic, or with `--static` fixed; names and layouts stand in wrappers.py. Inputs and outputs are fp32 in fp16
exports too, so that the sampling loop around them keeps fp32 and callers need not know. Over 1 GB, weights go to `model.onnx_data` beside
the graph.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import graph, layout, wrappers
from .config import ExportConfig
from .half import to_half
from .layout import BATCH, PARTS, NamedParts, Part, Sizes


@dataclass(frozen=True)
class Onnx:
    precision: str  # "fp32" | "fp16"
    sizes: Sizes

    name: ClassVar[str] = "onnx"
    default_precision: ClassVar[str] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")
    parts: ClassVar[tuple[str, ...]] = PARTS

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "Onnx":
        for flag, value in (("--batch", None if config.static else config.batch), ("--deployment", config.deployment)):
            if value is not None:
                raise EdgeSafeError(f"{flag} is for --target coreml: an ONNX export takes any batch. Leave it out")
        return cls(config.precision_of(cls.default_precision), layout.sizes(config, model, "an ONNX"))

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
            graph.save(made, folder / name / "model.onnx")
            check(folder / name / "model.onnx", part)
            layout.write_json(folder / name / "config.json", part.config)
        layout.write_rest(model, folder)

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


def session(path: Path) -> Any:
    """An onnxruntime.InferenceSession."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(path: Path, part: Part) -> None:
    """Read the file again: a valid graph, and exactly the inputs and outputs that were meant."""
    onnx.checker.check_model(str(path), full_check=True)
    declared = onnx.load(str(path), load_external_data=False).graph
    found, meant = {}, {name: part.axes.get(name, {}) for name in (*part.example, *part.outputs)}
    for value in [*declared.input, *declared.output]:
        found[value.name] = {i: dim.dim_param for i, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_param}
    if found != meant:
        raise EdgeSafeError(
            f"{path.parent.name}: its inputs, outputs and dynamic sizes are {found}, meant were {meant}. Nothing was written"
        )
