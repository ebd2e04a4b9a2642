"""Imports of libraries that would call home: OpenVINO sends events to Intel unless its telemetry package is not there."""

import sys
from types import ModuleType


def openvino() -> ModuleType:
    """It falls back to silent stubs where `import openvino_telemetry` fails, as it does for a name that maps to None."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino
