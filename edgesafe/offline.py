"""Imports of libraries that would call home: OpenVINO and NNCF send events to Intel unless their telemetry package is not there."""

import sys
from types import ModuleType


def openvino() -> ModuleType:
    _hide_telemetry()
    import openvino

    return openvino


def nncf() -> ModuleType:
    _hide_telemetry()
    import nncf

    return nncf


def _hide_telemetry() -> None:
    """Both fall back to silent stubs where `import openvino_telemetry` fails, as it does for a name that maps to None."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
