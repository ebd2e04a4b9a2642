"""Trace a module without computing it: on tensors that have a shape and no data, after which the traced module gets the real weights.

A forward of a 860 M UNet takes half a minute of CPU time and 1.4 GB; only the list of operations with their sizes is wanted from it.
torch's tracer writes operations down before they are computed, so computing may be replaced by working out the result's shape. That is
done on another thread, because torch's shape functions are Python that reads sizes, and the tracer would write those reads down too.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Lowerings = Mapping[Callable[..., Tensor], Callable[..., Tensor]]  # a torch function -> what is traced in its place


def trace(module: nn.Module, given: Sequence[tuple[int, ...]], lowerings: Lowerings) -> torch.jit.ScriptModule:
    """`given`: shapes of the inputs, float32. The result has the module's own weights, and differs from an ordinary trace in names only."""
    bare = _without_data(module.eval())
    example = tuple(torch.empty(shape, device="meta") for shape in given)
    with warnings.catch_warnings(), torch.no_grad(), ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("ignore")  # torch's deprecation, and one line for each `if` on a size, which the parity check answers for
        with _Shapes(pool), _Lowered({torch.conv2d: _conv2d, **lowerings}):
            traced = torch.jit.trace(bare, example, check_trace=False)
    inside = dict(module.named_modules())
    for name, part in traced.named_modules():
        own = inside[name]
        for key, value in (*own.named_parameters(recurse=False), *own.named_buffers(recurse=False)):
            part._c.setattr(key, value)
    return traced


def shapes(module: nn.Module, given: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of what the module returns, a tuple, for inputs of the shapes `given`; nothing is computed."""
    with torch.no_grad():
        return [tuple(made.shape) for made in _without_data(module)(*(torch.empty(shape, device="meta") for shape in given))]


def _without_data(module: nn.Module) -> nn.Module:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(x): _bare(x) for x in tensors})


def _bare(x: Tensor) -> Tensor:
    made = x.detach().to("meta")
    return nn.Parameter(made, requires_grad=False) if isinstance(x, nn.Parameter) else made


class _Shapes(TorchDispatchMode):
    def __init__(self, pool: Executor) -> None:
        super().__init__()
        self._pool = pool

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.is_view:  # needs the tracer's own thread, and reads no sizes
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._convolution.default:  # has no shape function; the last arguments only choose a kernel
            func, args = torch.ops.aten.convolution.default, args[:9]
        return self._pool.submit(func, *args, **(kwargs or {})).result()


class _Lowered(TorchFunctionMode):
    def __init__(self, lowerings: Lowerings) -> None:
        super().__init__()
        self._lowerings = lowerings

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self._lowerings.get(func, func)(*args, **(kwargs or {}))


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """The tracer writes down `_convolution` and not `conv2d`, which calls it."""
    flags = dict(benchmark=False, deterministic=False, cudnn_enabled=True, allow_tf32=True)
    return torch._convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups, **flags)
