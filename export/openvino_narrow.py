"""OpenVINO in 8 and 4 bits: layers of a saved graph rewritten in the form that its CPU turns into integer kernels.

    int8    FakeQuantize(x, 256 levels) and Constant(int8) -> Convert -> Multiply(a scale a channel), into Convolution or MatMul
    int4    weights only: Constant(int4) -> Convert -> Multiply(a scale for 32 inputs) -> Reshape; other layers' weights in int8

NNCF's own quantize with the same calls measured 25.9 dB on the packaged emoji student against 32.6 here with every layer in int8, and took
16 to 35 s against 2: it rounds more activations than need be. So it is not used.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe import intel

from . import layout, narrowing, rounding
from .layout import Part
from .narrowing import Run, Step
from .openvino import FILE, run_compiled
from .rounding import Call, Seen


def compress(
    part: Part, wide: Path, narrow: Path, bits: int, calls: Sequence[Call], gate_db: float, advance: Callable[[float], None]
) -> dict[str, Any]:
    """From the fp32 folder `wide` to `narrow`; facts for the manifest. Raises: EdgeSafeError where no layer can be so narrow."""
    ov = intel.openvino()
    names, nodes = layers(intel.core().read_model(wide / FILE), part)
    linear = [
        name for name in names if nodes[name].get_type_name() == "MatMul" and nodes[name].input_value(1).shape[1] % rounding.BLOCK_4 == 0
    ]
    narrow.mkdir(parents=True)
    layout.write_json(narrow / "config.json", part.config)

    def write(asked: Mapping[str, Any]) -> None:
        model = intel.core().read_model(wide / FILE)
        rewrite(model, part, asked)
        ov.save_model(model, narrow / FILE, compress_to_fp16=False)

    def opened() -> Run:
        compiled = intel.compiled(narrow / FILE, torch.get_num_threads())

        def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            made = zip(compiled.outputs, run_compiled(compiled, inputs), strict=True)
            return {name: tensor for value, tensor in made for name in value.names}

        return run

    if bits == 8:
        return narrowing.int8(part, names, rounding.INT8_INPUTS, calls, gate_db, write, opened, advance)
    return narrowing.int4(part, names, linear, calls, gate_db, write, opened, advance)


def layers(model: Any, part: Part) -> tuple[list[str], dict[str, Any]]:
    """Names of the layers that may be narrow, and module's name -> node of each Convolution and MatMul with a weight."""
    modules = [name for name, _ in part.module.named_modules()]
    steps, nodes = [], {}
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), None
        if kind in ("Convolution", "MatMul") and node.input_value(1).get_node().get_type_name() == "Constant":
            name = narrowing.module_name(node.get_friendly_name().split("/")[0].removeprefix("__module."), modules)
            nodes[name] = node
        values = 0 if kind == "ShapeOf" else node.get_input_size()  # of a shape nothing of the values comes through
        inputs = tuple(_key(node.input_value(i)) for i in range(values))
        steps.append(Step(inputs, tuple(_key(node.output(i)) for i in range(node.get_output_size())), name, kind == "Convolution"))
    fed = {_key(value) for value in model.inputs if value.any_name not in narrowing.TIMED}
    return narrowing.inner(steps, fed), nodes


def rewrite(model: Any, part: Part, asked: Mapping[str, Seen | int]) -> None:
    """Changes `model` in place: for each layer the ranges of its activations, for 8 bits, or the bits of its weights alone."""
    from openvino import opset13 as ops

    _, nodes = layers(model, part)
    made: dict[tuple[str, float, float], Any] = {}
    for name, how in asked.items():
        node = nodes[name]
        if isinstance(how, Seen):
            source = node.input_value(0)
            key = _key(source), how.low, how.high
            if key not in made:
                scale, zero = rounding.scale_of(how.low, how.high)
                ends = [ops.constant(value, dtype="float32") for value in (-zero * scale, (255 - zero) * scale)]
                made[key] = ops.fake_quantize(source, *ends, *ends, 256)
            node.input(0).replace_source_output(made[key].output(0))
        weight = torch.from_numpy(node.input_value(1).get_node().data.copy())
        stored = in_4(weight) if how == 4 else in_8(weight)
        node.input(1).replace_source_output(stored.output(0))
    model.validate_nodes_and_infer_types()


def in_8(weight: Tensor) -> Any:
    from openvino import opset13 as ops

    scale = rounding.weight_scale(weight).reshape(-1, *[1] * (weight.dim() - 1))
    stored = (weight / scale).round().clamp(-127, 127).to(torch.int8)
    return ops.multiply(ops.convert(ops.constant(stored.numpy()), "f32"), ops.constant(scale.numpy()))


def in_4(weight: Tensor) -> Any:
    """(out, in), where in is a multiple of the block."""
    ov = intel.openvino()
    from openvino import opset13 as ops

    blocks, scales = rounding.in_blocks(weight, 4)
    stored = (blocks / scales).round().clamp(-8, 7).to(torch.int8).to(torch.uint8) & 15
    packed = (stored.flatten()[0::2] | stored.flatten()[1::2] << 4).numpy()
    constant = ov.op.Constant(ov.Tensor(packed, ov.Shape(list(blocks.shape)), ov.Type.i4), shared_memory=False)
    wide = ops.multiply(ops.convert(constant, "f32"), ops.constant(scales.numpy()))
    return ops.reshape(wide, ops.constant(list(weight.shape), dtype="int64"), special_zero=False)


def _key(value: Any) -> str:
    return f"{value.get_node().get_friendly_name()}:{value.get_index()}"
