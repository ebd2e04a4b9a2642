"""Activation functions; parameters are MIL's: alpha, beta."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor, *, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * (1.702 * x).sigmoid()
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def relu(x: Tensor) -> Tensor:
    return x.relu()


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


def elu(x: Tensor, *, alpha: float) -> Tensor:
    return F.elu(x, alpha)


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.prelu(x, alpha)  # one slope a channel


def clamped_relu(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return F.leaky_relu(x, alpha).clamp(max=beta)


def linear_activation(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def scaled_tanh(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * (beta * x).tanh()


def sigmoid_hard(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "gelu": gelu,
    "silu": silu,
    "sigmoid": sigmoid,
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "prelu": prelu,
    "clamped_relu": clamped_relu,
    "linear_activation": linear_activation,
    "scaled_tanh": scaled_tanh,
    "sigmoid_hard": sigmoid_hard,
    "softplus": softplus,
    "softsign": softsign,
    "softmax": softmax,
}
