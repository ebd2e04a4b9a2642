"""An ONNX file as a function, by onnxruntime on the CPU."""

from pathlib import Path
from typing import Any

import torch


def session(path: Path) -> Any:
    """An onnxruntime.InferenceSession with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings are about its own graph passes
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
