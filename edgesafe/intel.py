"""OpenVINO without its two side effects: it sends events to Intel, and it can make a later signal kill the process."""

import sys
from functools import cache
from types import ModuleType
from typing import Any


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
