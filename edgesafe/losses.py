"""The losses of both levels: plain functions of tensors. B rows a batch; `rows` (B,) weighs them, 0 masks a row out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import EdgeSafeError


def row_mean(per_row: Tensor, rows: Tensor) -> Tensor:
    """sum_b rows_b x_b / sum_b rows_b of (B,) values; 0 when every row is masked."""
    return (per_row * rows).sum() / rows.sum().clamp(min=1e-8)


def mse(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    """Mean squared difference of (B, ...), in fp32."""
    return row_mean((a.float() - b.float()).square().flatten(1).mean(1), rows)


def noised(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) eps; alpha_bar (B,) at each row's timestep."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(prediction_type: str, latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network should predict: eps, or v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans & Ho 2022)."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        a = alpha_bar.view(-1, 1, 1, 1)
        return a.sqrt() * noise - (1 - a).sqrt() * latents
    raise EdgeSafeError(f"unknown prediction_type {prediction_type!r}; known: epsilon, v_prediction")


def min_snr_weight(prediction_type: str, alpha_bar: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for eps, / (SNR + 1) for v (arXiv 2303.09556); gamma 0 weighs every timestep 1. (B,)"""
    if gamma == 0:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def denoise(prediction: Tensor, goal: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """L_Diff: weight (B,) times the mean squared error of each row."""
    return row_mean((prediction.float() - goal.float()).square().flatten(1).mean(1) * weight, rows)


def block_sizes(teacher: Sequence[Tensor], rows: Tensor) -> Tensor:
    """The mean square of each of the teacher's F blocks, (F,)."""
    return torch.stack([row_mean(t.float().square().flatten(1).mean(1), rows) for t in teacher])


def feature(student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Tensor, sizes: Tensor | None = None) -> Tensor:
    """L_FeatKD: the mean over blocks of MSE(block) / mean square of the teacher's block.

    Without the division the deepest blocks, of the largest activations, outweigh everything else. `sizes`: the mean squares, if known.
    """
    sizes = block_sizes(teacher, rows) if sizes is None else sizes
    return (torch.stack([mse(s, t, rows) for s, t in zip(student, teacher, strict=True)]) / sizes.clamp(min=1e-8)).mean()


def erasing_target(
    kind: str, eta: float, *, concept: Tensor | None = None, anchor: Tensor | None = None, empty: Tensor | None = None
) -> Tensor:
    """What the student should predict at the concept's prompt, from the frozen model's predictions e_c, e_a, e_0 (B, C, H, W).

    esd:      e_0 - eta (e_c - e_0)     Gandikota 2023, equation 7: the concept's negative
    anchor:   e_a                       concept ablation, Kumari 2023
    anchored: e_a - eta (e_c - e_a)     the anchor, pushed away from the concept; eta = 0 is "anchor"
    """
    if kind == "esd" and concept is not None and empty is not None:
        return empty - eta * (concept - empty)
    if kind == "anchor" and anchor is not None:
        return anchor
    if kind == "anchored" and concept is not None and anchor is not None:
        return anchor - eta * (concept - anchor)
    raise EdgeSafeError(f"unknown erasing target {kind!r}; known: esd, anchor, anchored")


@contextmanager
def tapped(network: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """The outputs of the named modules, filled by the next forward call: `with tapped(unet, names) as outputs: unet(...)`.

    Of a block that returns (hidden, skips) the hidden state is kept.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
