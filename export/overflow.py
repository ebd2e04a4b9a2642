"""Which values of a part fp16 cannot hold, and an fp16 file that keeps them in fp32: no picture turns black.

Most models have none, and then the plain fp16 file is all. Else the fp32 graph runs on recorded calls with the largest magnitude of every
value as one more output; what comes within a factor ROOM of fp16's largest number stays fp32, with the nodes that make and read it.
"""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from . import graph, onnx_files, parity, rounding
from .graph import LARGEST_HALF, Traced
from .half import float_activations, to_half
from .layout import Part
from .rounding import Call

ROOM = 4.0  # for other pictures than the recorded ones


def write_half(traced: Traced, part: Part, calls: Sequence[Call], gate_db: float, path: Path, scratch: Path) -> tuple[str, ...]:
    """The part in fp16 at `path`; names of the values that stayed fp32. `part` has the outputs that `calls` hold; `scratch` is empty."""
    probes, plain = [part.cut(call) for call in (rounding.probes(calls) if calls else ())], traced.copy()
    _save(traced, frozenset(), path)
    if not probes or fits(path, part, probes, gate_db):  # opening a large file takes a large memory
        return ()
    large = find(plain.copy(), probes, part, scratch)
    _save(plain, large, path)
    return tuple(sorted(large))


def _save(traced: Traced, large: frozenset[str], path: Path) -> None:
    to_half(traced, large)
    onnx.checker.check_model(graph.bare(traced.model), full_check=True)
    graph.save(traced, path)


def fits(path: Path, part: Part, calls: Sequence[Call], gate_db: float) -> bool:
    run = onnx_files.opened(path)
    for call in calls:
        made = run(part.feeds(call[0]))
        for name, reference in zip(part.outputs, call[1], strict=True):
            if not made[name].isfinite().all() or parity.compare(part.name, reference, made[name])[0] < gate_db:
                return False
    return True


def find(traced: Traced, calls: Sequence[Call], part: Part, scratch: Path) -> frozenset[str]:
    """Values and weights by name. Changes `traced`."""
    model = traced.model
    results = {value.name for value in model.graph.output}
    names = sorted(float_activations(model))
    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}_size"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name}_size"], [f"{name}_peak"], keepdims=0))
        model.graph.output.append(helper.make_empty_tensor_value_info(f"{name}_peak"))
    graph.save(traced, scratch / "model.onnx")
    run, largest = onnx_files.opened(scratch / "model.onnx"), dict.fromkeys(names, 0.0)
    for call in calls:
        made = run(part.feeds(call[0]))
        largest = {name: max(peak, float(made[f"{name}_peak"])) for name, peak in largest.items()}
    weights = {name: float(weight.source.abs().max()) for name, weight in traced.weights.items()}
    return frozenset(name for name, peak in (largest | weights).items() if peak * ROOM > LARGEST_HALF) - results
