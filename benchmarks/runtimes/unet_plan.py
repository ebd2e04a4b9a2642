"""A UNet in onnxruntime for one set of sizes: what depends on the prompt or on the timestep alone is computed once and kept.

The memory between the sessions is allocated once: `given` and `timed` write where `main` reads (specialise.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .specialise import SAMPLE, TIMESTEP, Sizes, specialise

DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}
TIMES = 128  # timesteps whose part is kept: 9 MiB of Stable Diffusion 1.5
ALIGNED = 64  # bytes


class Plan:
    def __init__(self, model: Any, sizes: Sizes, shared: bool, open_session: Callable[..., Any]) -> None:
        """open_session(bytes, threads=None, spins=False): an onnxruntime.InferenceSession of a serialised model."""
        graphs = specialise(model, sizes, shared)
        self.rows = graphs.rows
        self.output = model.graph.output[0].name
        self.main = open_session(graphs.main.SerializeToString(), spins=True)
        self.given, self.timed = (
            open_session(graph.SerializeToString(), threads=1) if graph is not None else None for graph in (graphs.given, graphs.timed)
        )
        ports = [port for session in (self.main, self.given, self.timed) if session for port in session.get_inputs()]
        self.dtypes = {port.name: dtype_of(port.type) for port in ports}
        self.out_dtype = dtype_of(self.main.get_outputs()[0].type)
        self.binding = self.main.io_binding()
        self.reads = {port.name for port in self.main.get_inputs()}
        self.given_binding, self.given_memory = self._between(self.given)
        self.timed_binding, self.timed_memory = self._between(self.timed)
        self.conditions: dict[str, Tensor] = {}  # as they were given last
        self.read: dict[str, Tensor] = {}  # what a session reads of them
        self.times: dict[float, Tensor] = {}
        self.time: float | None = None  # whose part lies in timed_memory

    def __call__(self, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        self._give(conditions)
        self._set_time(timestep)
        sample = bind(self.binding.bind_input, SAMPLE, sample[: self.rows].to(self.dtypes[SAMPLE]).contiguous())
        made = bind(self.binding.bind_output, self.output, torch.empty(shape, dtype=self.out_dtype))
        self.main.run_with_iobinding(self.binding)
        return made.float()

    def _give(self, conditions: Mapping[str, Tensor]) -> None:
        """Compute anew only what other conditions ask for."""
        if self.conditions.keys() == conditions.keys() and all(torch.equal(self.conditions[name], x) for name, x in conditions.items()):
            return
        self.conditions = {name: value.clone() for name, value in conditions.items()}
        self.read = {name: value.to(self.dtypes[name]).contiguous() for name, value in self.conditions.items() if name in self.dtypes}
        for name in self.read.keys() & self.reads:
            bind(self.binding.bind_input, name, self.read[name])
        if self.given is not None:
            for port in self.given.get_inputs():
                bind(self.given_binding.bind_input, port.name, self.read[port.name])
            self.given.run_with_iobinding(self.given_binding)

    def _set_time(self, timestep: Tensor) -> None:
        time = float(timestep)
        if time == self.time:
            return
        if TIMESTEP in self.reads:
            self.time_read = bind(self.binding.bind_input, TIMESTEP, timestep.to(self.dtypes[TIMESTEP]).contiguous())
        if self.timed is not None:
            if time in self.times:
                self.timed_memory.copy_(self.times[time])
            else:
                value = bind(self.timed_binding.bind_input, TIMESTEP, timestep.to(self.dtypes[TIMESTEP]).contiguous())
                self.timed.run_with_iobinding(self.timed_binding)
                del value  # read until here
                if len(self.times) == TIMES:
                    del self.times[next(iter(self.times))]
                self.times[time] = self.timed_memory.clone()
        self.time = time

    def _between(self, session: Any | None) -> tuple[Any, Tensor]:
        """The session's binding and the memory that it writes and `main` reads."""
        if session is None:
            return None, torch.empty(0, dtype=torch.uint8)
        binding, ports = session.io_binding(), session.get_outputs()
        sizes = [dtype_of(port.type).itemsize * torch.Size(port.shape).numel() for port in ports]
        places = [0]
        for size in sizes:
            places.append(-(-(places[-1] + size) // ALIGNED) * ALIGNED)
        memory = torch.empty(places[-1], dtype=torch.uint8)
        for port, place, size in zip(ports, places, sizes, strict=False):
            view = memory[place : place + size].view(dtype_of(port.type)).view(port.shape)
            bind(binding.bind_output, port.name, view)
            bind(self.binding.bind_input, port.name, view)
        return binding, memory


def bind(to: Callable[..., None], name: str, tensor: Tensor) -> Tensor:
    """`to`: bind_input or bind_output of an onnxruntime.IOBinding, which does not keep the tensor alive."""
    to(name, "cpu", 0, _numpy_dtype(tensor.dtype), tuple(tensor.shape), tensor.data_ptr())
    return tensor


def dtype_of(kind: str) -> torch.dtype:
    """onnxruntime's name of a tensor's type as torch's."""
    return DTYPES[kind]


def _numpy_dtype(dtype: torch.dtype) -> Any:
    import numpy as np

    return {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.int32: np.int32}[dtype]
