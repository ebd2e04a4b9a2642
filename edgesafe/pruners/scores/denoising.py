"""What gradient scores ask of the data: the denoising loss of a batch, and its gradients by the units' weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ... import losses, model
from ...data import Batch
from ...model import predictor
from ..pruned import Calibration
from ..units import Group, slices


def loss(calibration: Calibration, unet: nn.Module, batch: Batch, timesteps: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the prediction (eps or v) at x_t. timesteps (B,), noise (B, C, h, w)."""
    teacher = calibration.teacher
    alpha = model.alphas_cumprod(teacher)[timesteps]
    device = next(unet.parameters()).device
    noisy = losses.noised(batch.latents, noise, alpha).to(device)
    goal = losses.target(teacher.prediction_type, batch.latents, noise, alpha).to(device)
    return (predictor(unet)(noisy, timesteps.to(device), *calibration.texts(batch.captions)) - goal).square().mean()


@contextmanager
def watched(unet: nn.Module, groups: Sequence[Group]) -> Iterator[dict[str, Tensor]]:
    """The groups' weights by name, with gradients for as long as the block lasts."""
    weights: dict[str, Tensor] = {part.weight: unet.get_parameter(part.weight) for group in groups for part in slices(unet, group)}
    before = {name: weight.requires_grad for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        yield weights
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])
