"""Optimum's ORTStableDiffusionPipeline as its documentation has it, on the same ONNX files and latents."""

from pathlib import Path

import torch

from ..runtimes.onnxruntime_runtime import OnnxRuntime
from .pipeline import PeerPipeline


class OptimumPipeline(PeerPipeline):
    name = "optimum"
    packages = ("optimum", "optimum-onnx", "onnxruntime", "torch", "diffusers", "transformers")

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        return OnnxRuntime.why_not(source)

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "OptimumPipeline":
        return cls(Path(source), threads)

    def __init__(self, folder: Path, threads: int | None) -> None:
        import onnxruntime as ort
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        options = ort.SessionOptions()
        if threads:
            torch.set_num_threads(threads)
            options.intra_op_num_threads = threads
        super().__init__(
            ORTStableDiffusionPipeline.from_pretrained(
                folder, session_options=options, provider="CPUExecutionProvider", local_files_only=True
            )
        )

    @classmethod
    def import_libraries(cls) -> None:
        from optimum.onnxruntime import ORTStableDiffusionPipeline  # noqa: F401
