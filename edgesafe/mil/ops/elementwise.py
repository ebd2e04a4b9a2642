"""Arithmetic, comparison, logic and functions of each element by itself; two operands broadcast as in numpy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..datatypes import NAMES

DTYPES = {name: kind.carrier for name, kind in NAMES.items()}


def real_div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def clip(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def threshold(x: Tensor, *, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


def inverse(x: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


def log(x: Tensor, *, epsilon: float = 1e-45) -> Tensor:
    return (x + epsilon).log()


def rsqrt(x: Tensor, *, epsilon: float = 1e-12) -> Tensor:
    return (x + epsilon).rsqrt()


def cast(x: Tensor, *, dtype: str) -> Tensor:
    return x.to(DTYPES[dtype])


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    return apply


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return apply


UNARY = (
    "abs acos asin atan atanh ceil cos cosh erf exp exp2 floor logical_not round sign sin sinh sqrt square tan tanh"
).split()  # MIL's names are torch's
BINARY: dict[str, Any] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "pow": torch.pow,
    "mod": torch.remainder,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: unary(getattr(torch, name)) for name in UNARY},
    **{name: binary(function) for name, function in BINARY.items()},
    "real_div": real_div,
    "floor_div": floor_div,
    "clip": clip,
    "threshold": threshold,
    "inverse": inverse,
    "log": log,
    "rsqrt": rsqrt,
    "cast": cast,
    "select": select,
}
