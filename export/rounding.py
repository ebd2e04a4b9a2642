"""Rounding of layers simulated in torch: how much each one costs at the output, and which had better stay wider.

    x' = s (clamp(round(x / s) + z, 0, 255) - z)       activations: one scale s and zero point z a tensor, from the range seen
    W' = s_o clamp(round(W / s_o), -127, 127)          weights in 8 bits: for each output channel o, s_o = max|W_o| / 127
    W' = s_b clamp(round(W / s_b), -8, 7)              weights in 4 bits: for each 32 inputs b of a channel, s_b = -(largest by size) / 8

A layer's error at the output is the mean square that rounding it alone makes there. Layers' errors add up nearly as independent noise does:
on the packaged emoji student the sum over 148 layers said 30.1 dB and the int8 file had 30.2. So the layers to leave wider are chosen by
that sum, those first that take most error away for the least cost, until the sum allows the PSNR that is asked for.

Costs one forward pass a group of layers and probe, and one a layer and probe in the groups that matter.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .layout import Call

SPLIT = 0.02  # of the error allowed; a group that makes more is looked at layer by layer
LEAST = 1e-3  # a layer with a smaller share is not worth leaving wider
BLOCK_4 = 32  # inputs that share a scale in 4 bits
MARGIN_DB = 0.7  # on top of the PSNR asked for: what the sum does not see
BLOCK = re.compile(r".*?(?:\.\d+|\.mid_block)(?=\.)")


@dataclass
class Seen:
    """What a layer got and gave over the calls observed. Ranges hold 0, which then rounds to itself."""

    low: float = 0.0
    high: float = 0.0
    out_low: float = 0.0
    out_high: float = 0.0
    macs: int = 0  # multiplications in one call

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.out_low, self.out_high = min(self.out_low, float(y.min())), max(self.out_high, float(y.max()))
        self.macs = y.numel() * weight[0].numel()

    def wider(self, factor: float) -> "Seen":
        return Seen(self.low * factor, self.high * factor, self.out_low * factor, self.out_high * factor, self.macs)


@dataclass(frozen=True)
class Rounding:
    weight: Callable[[Tensor], Tensor]
    inputs: bool  # rounded to 8 bits
    outputs: bool  # of convolutions


@dataclass(frozen=True)
class Choice:
    """Layers by name."""

    narrow: tuple[str, ...]
    wide: dict[str, float]  # layer -> its own share of the error that the PSNR allows, at the worst probe


def probes(calls: Sequence[Call]) -> list[Call]:
    """The first, the middle and the last: of the UNet's the noisiest, the middle and the cleanest step."""
    return [calls[i] for i in sorted({0, len(calls) // 2, len(calls) - 1})]


def first_row(call: Call) -> Call:
    inputs, outputs = call
    return tuple(x[:1] if x.dim() else x for x in inputs), tuple(y[:1] for y in outputs)


def observe(module: nn.Module, layers: Sequence[str], calls: Sequence[Call], advance: Callable[[float], None]) -> dict[str, Seen]:
    seen = {name: Seen() for name in layers}

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: seen[name].add(inputs[0], output, layer.weight)

    hooks = [module.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        for done, (inputs, _) in enumerate(calls, 1):
            with torch.no_grad():
                module(*inputs)
            advance(done / len(calls))
    finally:
        for handle in hooks:
            handle.remove()
    return seen


def errors(
    module: nn.Module,
    names: Sequence[str],
    rounding: Rounding,
    seen: Mapping[str, Seen],
    calls: Sequence[Call],
    psnr_db: float,
    advance: Callable[[float], None],
) -> dict[tuple[str, ...], Tensor]:
    """Layers that share a fate -> the error (calls, outputs) they make. A group with more than SPLIT of what the PSNR allows is split."""
    groups: dict[tuple[str, Any], list[str]] = {}
    for name in names:
        layer, block = module.get_submodule(name), BLOCK.match(name)
        groups.setdefault((block[0] if block else "", getattr(layer, "kernel_size", None)), []).append(name)
    found: dict[tuple[str, ...], Tensor] = {}
    limit = allowed(calls, psnr_db)
    for done, group in enumerate(groups.values(), 1):
        together = error(module, dict.fromkeys(group, rounding), seen, calls)
        if len(group) > 1 and float((together / limit).max()) > SPLIT:
            found |= {(name,): error(module, {name: rounding}, seen, calls) for name in group}
        else:
            found[tuple(group)] = together
        advance(done / len(groups))
    return found


def choose(found: Mapping[tuple[str, ...], Tensor], costs: Mapping[str, int], limit: Tensor, fixed: Tensor | float = 0.0) -> Choice:
    """`found` as from `errors`; `costs` of leaving a layer wider; `limit` and the error `fixed` in any case are (calls, outputs)."""
    shares = {names: row / limit for names, row in found.items()}
    wide = cover(shares, {names: sum(costs[name] for name in names) for names in shares}, fixed / limit)
    kept = tuple(name for names in shares if names not in wide for name in names)
    return Choice(kept, {name: round(float(shares[names].max()), 4) for names in wide for name in names})


def cover(shares: Mapping[Any, Tensor], costs: Mapping[Any, int], fixed: Tensor) -> list[Any]:
    """The rows to take away so that the others and `fixed` sum to at most 1 everywhere.

    Greedy by share per cost; then what proved needless goes back, the dearest first.
    """
    left = fixed + sum(shares.values())
    taken: list[Any] = []
    for key in sorted(shares, key=lambda key: -float(shares[key].max()) / max(costs[key], 1)):
        over = left > 1
        if not over.any():
            break
        if float(shares[key][over].max()) > LEAST:
            taken.append(key)
            left = left - shares[key]
    if (left > 1).any():
        return list(shares)
    for key in sorted(taken, key=lambda key: -costs[key]):
        if bool((left + shares[key] <= 1).all()):
            taken.remove(key)
            left = left + shares[key]
    return taken


def allowed(calls: Sequence[Call], psnr_db: float) -> Tensor:
    """(calls, outputs) the mean square error at which each output has that PSNR = 20 log10(max|r| / rmse), and the margin."""
    peaks = torch.stack([torch.stack([r.abs().max().double() for r in outputs]) for _, outputs in calls])
    return peaks.square() / 10 ** ((psnr_db + MARGIN_DB) / 10)


def error(module: nn.Module, roundings: Mapping[str, Rounding], seen: Mapping[str, Seen], calls: Sequence[Call]) -> Tensor:
    """(calls, outputs)"""
    rows = []
    for inputs, outputs in calls:
        with torch.no_grad(), rounded(module, roundings, seen):
            made = module(*inputs)
        made = made if isinstance(made, tuple) else (made,)
        rows.append(torch.stack([(r.double() - e.double()).square().mean() for r, e in zip(outputs, made, strict=True)]))
    return torch.stack(rows)


@contextmanager
def rounded(module: nn.Module, roundings: Mapping[str, Rounding], seen: Mapping[str, Seen]) -> Iterator[None]:
    """Within the block, these layers compute as if stored so."""
    layers = {name: module.get_submodule(name) for name in roundings}
    weights = {name: layer.weight.data for name, layer in layers.items()}
    handles = []
    try:
        for name, layer in layers.items():
            layer.weight.data = roundings[name].weight(layer.weight.data)
            if roundings[name].inputs:
                handles.append(layer.register_forward_pre_hook(lambda _, x, r=seen[name]: (fake(x[0], r.low, r.high), *x[1:])))
            if roundings[name].outputs and isinstance(layer, nn.Conv2d):
                handles.append(layer.register_forward_hook(lambda _, x, y, r=seen[name]: fake(y, r.out_low, r.out_high)))
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = weights[name]
        for handle in handles:
            handle.remove()


def fake(x: Tensor, low: float, high: float) -> Tensor:
    scale, zero = scale_of(low, high)
    return ((x / scale).round().add(zero).clamp(0, 255).sub(zero)).mul(scale)


def scale_of(low: float, high: float) -> tuple[float, int]:
    """(s, z) of unsigned 8-bit values over [low, high], which holds 0."""
    scale = (high - low) / 255 or 1.0
    return scale, round(-low / scale)


def round_to_8(weight: Tensor) -> Tensor:
    """(out, ...) rounded to 8 bits, a scale for each output channel."""
    scale = weight_scale(weight).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().clamp(-127, 127) * scale


def weight_scale(weight: Tensor) -> Tensor:
    """(out,)"""
    return (weight.flatten(1).abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)


def round_in_blocks(weight: Tensor, bits: int) -> Tensor:
    """(out, in) rounded to `bits`, a scale for each BLOCK_4 inputs."""
    blocks, scales = in_blocks(weight, bits)
    middle = 2 ** (bits - 1)
    return ((blocks / scales).round().clamp(-middle, middle - 1) * scales).flatten(1)[:, : weight.shape[1]]


def in_blocks(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> blocks (out, n, BLOCK_4), filled up with zeros, and scales (out, n, 1): the largest by size gets the lowest number."""
    blocks = nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK_4)).unflatten(1, (-1, BLOCK_4))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    return blocks, torch.where(largest == 0, 1.0, largest / -(2 ** (bits - 1)))


INT8 = Rounding(round_to_8, inputs=True, outputs=True)  # onnxruntime's integer convolution gives integers
INT8_INPUTS = Rounding(round_to_8, inputs=True, outputs=False)  # OpenVINO's gives fp32
WEIGHT_8 = Rounding(round_to_8, inputs=False, outputs=False)
WEIGHT_4 = Rounding(partial(round_in_blocks, bits=4), inputs=False, outputs=False)
