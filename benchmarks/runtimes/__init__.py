"""The runtimes: `load(source)` turns a model folder, run or export into a Runtime that draws. Adding one = one file and one line here."""

from pathlib import Path

from edgesafe.errors import EdgeSafeError

from .coreml_runtime import CoreMLRuntime
from .onnxruntime_runtime import OnnxRuntime
from .openvino_runtime import OpenVINORuntime
from .runtime import Runtime
from .torch_runtime import TorchRuntime

RUNTIMES: dict[str, type[Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVINORuntime,
    "torch": TorchRuntime,
    "coreml": CoreMLRuntime,
}  # the first that can is the default


def check(name: str, flag: str = "--runtime") -> type[Runtime]:
    if name not in RUNTIMES:
        raise EdgeSafeError(f"{flag}: unknown runtime {name!r}; known: {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def readers(source: str | Path) -> tuple[list[str], dict[str, str]]:
    """The names of the runtimes that can run `source`, and for the others why not."""
    reasons = {name: cls.why_not(source) for name, cls in RUNTIMES.items()}
    return [name for name, reason in reasons.items() if reason is None], {name: r for name, r in reasons.items() if r is not None}


def load(source: str | Path, runtime: str | None = None, threads: int | None = None) -> Runtime:
    """Open a run, an export, a model folder or a model's id with the named runtime, or with the first that can."""
    if runtime is not None:
        check(runtime)
        if reason := readers(source)[1].get(runtime):
            raise EdgeSafeError(f"--runtime {runtime}: {reason}")
        return RUNTIMES[runtime].open(source, threads)
    able, reasons = readers(source)
    if not able:
        raise EdgeSafeError(f"no runtime here can draw with it: {'; '.join(dict.fromkeys(reasons.values()))}")
    return RUNTIMES[able[0]].open(source, threads)
