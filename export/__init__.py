"""Exports: a run or a diffusers pipeline as ONNX or Core ML files that others' tools load, each compared with torch.

To add a target: a file with a frozen dataclass as run.Target describes it, and a line in run.TARGETS.
"""

from .config import ExportConfig
from .run import TARGETS, run

__all__ = ["TARGETS", "ExportConfig", "run"]
