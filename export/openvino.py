"""OpenVINO IR in the layout of diffusers, by its own converter: {text_encoder,unet,vae_encoder,vae_decoder}/openvino_model.{xml,bin}.

Batch, height and width are dynamic; names and layouts stand in wrappers.py. fp16 is how the weights are stored (OpenVINO's
`compress_to_fp16`): a CPU widens them while loading and computes in fp32, a GPU computes in fp16. On CPUs with bf16 instructions OpenVINO
computes in bf16 unless INFERENCE_PRECISION_HINT says f32, as it does here, so that parity is the file's and not the rounding's.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgesafe import offline
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import layout
from .config import ExportConfig
from .layout import BATCH, PARTS, NamedParts, Part, Sizes

FILE = "openvino_model.xml"


@dataclass(frozen=True)
class OpenVINO:
    precision: str  # of the stored weights: "fp32" | "fp16"
    sizes: Sizes

    name: ClassVar[str] = "openvino"
    default_precision: ClassVar[str] = "fp32"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "openvino", "nncf")
    parts: ClassVar[tuple[str, ...]] = PARTS

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> "OpenVINO":
        if config.static:
            raise EdgeSafeError("--static is for --target onnx: OpenVINO fixes sizes while it loads (`reshape`). Leave it out")
        layout.refuse(config, "OpenVINO")
        return cls(config.precision_of(cls.default_precision), layout.sizes(config, model, "an OpenVINO"))

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
        return {"height": self.height, "width": self.width, "dynamic": [BATCH, "height", "width"], "arithmetic": "fp32 on CPU"}

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None]) -> None:
        ov = offline.openvino()
        for name in PARTS:
            begin(name)
            part = layout.part(name, model, self.sizes)
            path = folder / name / FILE
            ov.save_model(convert(part), path, compress_to_fp16=self.precision == "fp16")  # makes the folder
            check(path, part)
            layout.write_json(folder / name / "config.json", part.config)
        layout.write_rest(model, folder)

    def open(self, folder: Path) -> NamedParts:
        compiled = {name: compile_file(folder / name / FILE) for name in PARTS}

        def run(name: str, inputs: dict[str, Tensor]) -> list[Tensor]:
            made = compiled[name]({key: value.numpy() for key, value in inputs.items()})
            return [torch.from_numpy(array.copy()) for array in made.values()]

        return NamedParts(run, {})

    def files(self, part: str) -> str:
        return part


def convert(part: Part) -> Any:
    """The part as an openvino.Model whose weights are the module's own memory."""
    ov = offline.openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    shapes = [_shape(value, part.axes.get(name, {})) for name, value in part.example.items()]
    example = tuple(part.example.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's on tracing: its deprecation, and one line for each `if` on a size
        # check_trace would run the module twice more; the parity check is the better one.
        decoder = TorchScriptPythonDecoder(part.module.eval(), example_input=example, trace_kwargs={"check_trace": False})
        model = ov.convert_model(decoder, example_input=example, input=shapes)
    for value, name in zip([*model.inputs, *model.outputs], [*part.example, *part.outputs], strict=True):
        value.get_tensor().set_names({name})
    return model


def compile_file(path: Path) -> Any:
    """An openvino.CompiledModel on the CPU, with torch's number of threads, in fp32 arithmetic."""
    asked = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return offline.openvino().Core().compile_model(path, "CPU", asked)


def check(path: Path, part: Part) -> None:
    """Read the file again: exactly the inputs, outputs and dynamic sizes that were meant."""
    read = offline.openvino().Core().read_model(path)
    found = {value.any_name: str(value.partial_shape) for value in read.inputs}
    meant = {name: str(_shape(value, part.axes.get(name, {}))) for name, value in part.example.items()}
    outputs = tuple(value.any_name for value in read.outputs)
    if found != meant or outputs != part.outputs:
        raise EdgeSafeError(
            f"{path.parent.name}: its inputs are {found} and its outputs {outputs}, meant were {meant} and {part.outputs}. "
            "Nothing was written"
        )


def _shape(value: Tensor, dynamic: dict[int, str]) -> Any:
    return offline.openvino().PartialShape([-1 if i in dynamic else size for i, size in enumerate(value.shape)])
