"""onnxruntime: runs the Optimum/diffusers ONNX layout on the CPU, without Optimum.

One warm session a component. Inputs and outputs are bound to torch's own memory, so nothing is copied between the sampler
and the UNet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from .runtime import Runtime, latent_shape, read_json

DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}
COMPONENTS = ("text_encoder", "unet", "vae_decoder")


class Component:
    """One ONNX file as a function of torch tensors."""

    def __init__(self, path: Path, output: str, threads: int | None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own graph passes
        if threads:
            options.intra_op_num_threads = threads
        self.path, self.errors = path, _errors()
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self.errors as error:
            why = f"onnxruntime {ort.__version__} cannot load it ({str(error).strip()})"
            raise EdgeSafeError(f"{path}: {why}. Export the run again") from error
        self.inputs = {node.name: DTYPES[node.type] for node in self.session.get_inputs()}
        outputs = {node.name: node.type for node in self.session.get_outputs()}
        if output not in outputs:
            raise EdgeSafeError(f"{path}: no output named {output!r}, only {', '.join(outputs)}. Export the run again")
        self.output, self.dtype = output, DTYPES[outputs[output]]

    def __call__(self, shape: tuple[int, ...], **feeds: Tensor) -> Tensor:
        """shape: of the output, which is new memory at each call because schedulers keep what they were given."""
        if missing := set(self.inputs) - set(feeds):
            raise EdgeSafeError(f"{self.path}: it needs {', '.join(sorted(missing))}, and this runtime gives only {', '.join(feeds)}")
        binding = self.session.io_binding()
        kept = []  # the tensors whose memory the session reads
        for name, dtype in self.inputs.items():
            tensor = feeds[name].to(dtype).contiguous()
            kept.append(tensor)
            binding.bind_input(name, "cpu", 0, _numpy_dtype(dtype), tuple(tensor.shape), tensor.data_ptr())
        out = torch.empty(shape, dtype=self.dtype)
        binding.bind_output(self.output, "cpu", 0, _numpy_dtype(self.dtype), shape, out.data_ptr())
        try:
            self.session.run_with_iobinding(binding)
        except self.errors as error:
            raise EdgeSafeError(f"{self.path}: {str(error).strip()}") from error
        return out.float()


def _errors() -> tuple[type[Exception], ...]:
    """Everything that onnxruntime raises: its classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return RuntimeError, *(cls for cls in vars(state).values() if isinstance(cls, type) and issubclass(cls, Exception))


def _numpy_dtype(dtype: torch.dtype) -> Any:
    import numpy as np

    return {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.int32: np.int32}[dtype]


class OnnxRuntime(Runtime):
    name = "onnxruntime"
    packages = ("onnxruntime", "torch", "diffusers", "transformers")

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        folder = Path(source)
        missing = [f"{part}/model.onnx" for part in COMPONENTS if not (folder / part / "model.onnx").is_file()]
        return f"{source} is no ONNX export (no {', '.join(missing)})" if missing else None

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "OnnxRuntime":
        return cls(Path(source), threads)

    def __init__(self, folder: Path, threads: int | None) -> None:
        from transformers import CLIPTokenizer

        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        text, unet, vae = (read_json(folder / part / "config.json") for part in COMPONENTS)
        self.latent_shape = latent_shape(unet)
        self.text_width, self.scaling_factor = text["hidden_size"], vae["scaling_factor"]
        self.upscale = 2 ** (len(vae["block_out_channels"]) - 1)  # px a latent
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = Component(folder / "text_encoder" / "model.onnx", "last_hidden_state", threads)
        self.unet = Component(folder / "unet" / "model.onnx", "out_sample", threads)
        self.vae_decoder = Component(folder / "vae_decoder" / "model.onnx", "sample", threads)

    @classmethod
    def import_libraries(cls) -> None:
        import onnxruntime  # noqa: F401
        from diffusers import DDIMScheduler  # noqa: F401
        from transformers import CLIPTokenizer  # noqa: F401

    def encode(self, prompts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder((*ids.shape, self.text_width), input_ids=ids)

    def unet_call(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return self.unet(tuple(sample.shape), sample=sample, timestep=timestep, encoder_hidden_states=states)

    def decode(self, latents: Tensor) -> Tensor:
        n, _, h, w = latents.shape
        return self.vae_decoder((n, 3, h * self.upscale, w * self.upscale), latent_sample=latents / self.scaling_factor)
