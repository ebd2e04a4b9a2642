"""OpenVINO in exact arithmetic, without its side effects: it sends events to Intel, and it can make a later signal kill the process."""

import sys
from functools import cache
from types import ModuleType
from typing import Any

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


def openvino() -> ModuleType:
    """Without telemetry: it falls back to silent stubs where `import openvino_telemetry` fails, as for a name that maps to None."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


@cache
def core() -> Any:
    """The process's one `openvino.Core`, never freed.

    The CPU plugin gives the thread a signal stack of its own and unmaps it when the last user of the plugin goes, without setting the
    former one again; Python runs its handlers on that stack, so that the next Ctrl-C is a segmentation fault.
    """
    return openvino().Core()


def compiled(model: Any, threads: int | None) -> Any:
    """An openvino.CompiledModel of a file or a model, on the CPU in fp32 arithmetic.

    By itself OpenVINO computes in bf16 where a CPU can, and rounds the inputs of layers with 4-bit weights to 8 bits.
    """
    return core().compile_model(model, "CPU", EXACT | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))
