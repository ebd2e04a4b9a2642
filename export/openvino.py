"""OpenVINO IR in the layout of diffusers, by its own converter: {text_encoder,unet,vae_encoder,vae_decoder}/openvino_model.{xml,bin}.

Batch, height and width are dynamic; names and layouts stand in wrappers.py. fp16 is how the weights are stored (OpenVINO's
`compress_to_fp16`): a CPU widens them while loading and computes in fp32, a GPU computes in fp16. Parity is measured in exact arithmetic
(intel.compiled), so that it is the file's own.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from edgesafe import intel
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import layout
from .compression import Compression
from .job import Job
from .layout import NamedParts, Part
from .layout_target import LayoutTarget
from .parity import Recording

FILE = "openvino_model.xml"


@dataclass(frozen=True)
class OpenVINO(LayoutTarget):
    """`precision` is that of the stored weights."""

    name: ClassVar[str] = "openvino"
    kind: ClassVar[str] = "OpenVINO"
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "openvino")

    def facts(self, model: TextToImage) -> dict[str, Any]:
        """For the manifest's `target`."""
        return {**self.sizes.facts(), "arithmetic": "fp32 on CPU"}

    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None], recording: Recording | None = None) -> None:
        ov = intel.openvino()
        for name in self.parts:
            begin(name)
            part = layout.part(name, model, self.sizes)
            path = folder / name / FILE
            ov.save_model(convert(part), path, compress_to_fp16=self.precision == "fp16")  # makes the folder
            check(path, part)
            layout.write_json(folder / name / "config.json", part.config)
        layout.write_rest(model, folder)

    def compress(
        self, part: str, wide: Path, narrow: Path, compression: Compression, job: Job, advance: Callable[[float], None]
    ) -> dict[str, Any]:
        from . import openvino_narrow

        declared, bits = layout.compared(part, job.model, self.sizes), compression.bits or 8
        return openvino_narrow.compress(declared, wide, narrow, bits, job.recording.calls[part], self.gate_db, advance)

    def open(self, folder: Path) -> NamedParts:
        compiled = {name: intel.compiled(folder / name / FILE, torch.get_num_threads()) for name in self.parts}
        declared = {name: one.inputs[0].partial_shape[0] for name, one in compiled.items()}
        fixed = {name: size.get_length() for name, size in declared.items() if size.is_static}
        return NamedParts(lambda name, inputs: run_compiled(compiled[name], inputs), fixed)


def convert(part: Part) -> Any:
    """The part as an openvino.Model whose weights are the module's own memory."""
    ov = intel.openvino()
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


def run_compiled(compiled: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    made = compiled({name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(array.copy()) for array in made.values()]


def check(path: Path, part: Part) -> None:
    """Read the file again: exactly the inputs, outputs and dynamic sizes that were meant."""
    read = intel.core().read_model(path)
    found = {value.any_name: str(value.partial_shape) for value in read.inputs}
    meant = {name: str(_shape(value, part.axes.get(name, {}))) for name, value in part.example.items()}
    outputs = tuple(value.any_name for value in read.outputs)
    if found != meant or outputs != part.outputs:
        raise EdgeSafeError(
            f"{path.parent.name}: its inputs are {found} and its outputs {outputs}, meant were {meant} and {part.outputs}. "
            "Nothing was written"
        )


def _shape(value: Tensor, dynamic: dict[int, str]) -> Any:
    return intel.openvino().PartialShape([-1 if i in dynamic else size for i, size in enumerate(value.shape)])
