"""ConceptPrune: find the few weights of the feed-forward layers that serve a concept, and take them out (ICLR 2025, arXiv 2405.19237).

    S_ij = |W_ij| * ||A_j||_2                                             how much hidden channel j says to output i (Wanda's score)
    M    = union over t < T of { (i, j): S_ij(target) among the top `ratio` of its row i, and S_ij(target) > S_ij(base) }

W (O, H) the second linear of a feed-forward layer, A (rows, H) its input, the GEGLU's activations, each token's row of norm 1, over all
prompts and both halves of guidance at one sampling step t; target the prompts with the concept, base the same with its anchor, from
the same noises. Feed-forward layers are found as a GEGLU with a linear after it in one container, whatever their number and names.
What stands at M afterwards (`fill`): "noise", normal with the deviation of the row's other weights, since zeros tell where the concept
was and can be filled in again without data (arXiv 2603.06640); "zero", the paper's; "channels", noise in whole columns, those of the
`ratio` most chosen channels. Cost: T guided steps for each of 2 x `pairs` prompts of a concept, no gradient.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers.models.activations import GEGLU
from torch import Generator, Tensor, nn

from .. import sampling
from ..concepts import Concept
from ..data import generator
from ..errors import EdgeSafeError
from ..model import predictor
from .closed_form import ClosedForm, Edit

BATCH = 16  # prompts drawn at once
FILLS = ("noise", "channels", "zero")


@dataclass(frozen=True)
class ConceptPrune(ClosedForm):
    ratio: float = 0.01  # share of each row's weights, at every step, for a style
    object_ratio: float = 0.02  # the same for an object
    timesteps: int = 10  # T, of the first sampling steps, the noisiest
    steps: int = 50  # DDIM steps of the whole way
    guidance: float = sampling.DEFAULT_GUIDANCE
    pairs: int = 20  # prompts of a concept, each with its anchor's
    fill: str = "noise"  # "noise" | "channels" | "zero"

    def __post_init__(self) -> None:
        for name in ("ratio", "object_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgeSafeError(f"eraser.{name} {getattr(self, name)}: needs 0 to 1")
        if not 1 <= self.timesteps <= self.steps:
            raise EdgeSafeError(f"eraser.timesteps {self.timesteps}: needs 1 to eraser.steps, {self.steps}")
        if self.pairs < 1:
            raise EdgeSafeError(f"eraser.pairs {self.pairs}: needs 1 or more")
        if self.fill not in FILLS:
            raise EdgeSafeError(f"eraser.fill {self.fill!r} is unknown; known: {', '.join(FILLS)}")

    @torch.no_grad()
    def edit(self, work: Edit) -> dict[str, float]:
        layers = second_linears(work.unet)
        if self.fill == "zero":
            warnings.warn("eraser.fill zero: the zeros tell who holds the file where the concept was; fill noise does not", stacklevel=2)
        chosen = {name: torch.zeros_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
        for concept in work.concepts:
            for name, mask in self.serving(work, layers, concept).items():
                chosen[name] |= mask
        for name, mask in chosen.items():
            refill(layers[name].weight, mask, None if self.fill == "zero" else generator(work.seed, "concept-prune fill", name))
        taken, all_weights = sum(int(mask.sum()) for mask in chosen.values()), sum(mask.numel() for mask in chosen.values())
        return {"layers": len(layers), "weights": taken, "share": taken / all_weights}

    def serving(self, work: Edit, layers: Mapping[str, nn.Linear], concept: Concept) -> dict[str, Tensor]:
        """Layer -> (O, H) whether the weight serves the concept."""
        order = torch.randperm(len(concept.pairs), generator=generator(work.seed, "concept-prune pairs", concept.name))[: self.pairs]
        target, base = (self.norms(work, layers, [concept.pairs[i][side] for i in order.tolist()]) for side in (0, 1))
        ratio = self.object_ratio if concept.kind == "object" else self.ratio
        found = {}
        for name, layer in layers.items():
            mask = union(layer.weight, target[name], base[name], ratio)
            found[name] = whole_channels(mask, ratio) if self.fill == "channels" else mask
        return found

    def norms(self, work: Edit, layers: Mapping[str, nn.Linear], prompts: Sequence[str]) -> dict[str, Tensor]:
        """Layer -> ||A_j|| (T, H) at each of the first T steps of drawing the prompts, each from its place's own noise."""
        unet, empty = predictor(work.unet), work.texts([""])
        with listening(layers, self.timesteps) as heard:
            for start in work.show(range(0, len(prompts), BATCH), "listening to the feed-forward layers"):
                asked = prompts[start : start + BATCH]
                seeds = [(work.seed << 20) + start + i for i in range(len(asked))]
                noise = sampling.starting_latents(seeds, work.net.latent_shape).to(next(work.unet.parameters()).device)
                schedule = sampling.scheduler("ddim", work.net.scheduler_config)
                way = sampling.denoise(unet, work.texts(asked), empty, noise, schedule, self.steps, self.guidance)
                for heard.step in range(self.timesteps):
                    next(way)
        return {name: squares.sqrt() for name, squares in heard.squares.items()}


def second_linears(unet: nn.Module) -> dict[str, nn.Linear]:
    """Name -> the linear after the GEGLU of each feed-forward layer."""
    found = {}
    for path, container in unet.named_modules():
        parts = list(container.named_children())
        gates = [i for i, (_, part) in enumerate(parts) if isinstance(part, GEGLU)]
        for name, part in parts[gates[0] + 1 :] if gates else ():
            if isinstance(part, nn.Linear):
                found[f"{path}.{name}"] = part
                break
    if not found:
        raise EdgeSafeError("--eraser concept-prune: this UNet has no feed-forward layer with a GEGLU; erase with another, such as uce")
    return found


@dataclass
class Heard:
    squares: dict[str, Tensor]  # layer -> (T, H) float64, sum over rows of A_j^2
    step: int = field(default=0)  # the sampling step that runs


@contextmanager
def listening(layers: Mapping[str, nn.Linear], timesteps: int) -> Iterator[Heard]:
    """While it lasts, every forward pass adds to the sums of the step that it is told."""
    heard = Heard({n: torch.zeros(timesteps, m.in_features, dtype=torch.float64, device=m.weight.device) for n, m in layers.items()})

    def listen(name: str):
        def hook(_layer: nn.Module, inputs: tuple[Tensor]) -> None:
            heard.squares[name][heard.step] += token_squares(inputs[0])

        return hook

    handles = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def token_squares(activations: Tensor) -> Tensor:
    """A (..., H) -> sum over rows of A_j^2, (H,), each row of norm 1 first."""
    return nn.functional.normalize(activations.flatten(0, -2).double(), dim=1).square().sum(0)


def serves(weight: Tensor, target: Tensor, base: Tensor, ratio: float) -> Tensor:
    """(O, H): S(target) is in the top `ratio` of its row and above S(base); weight (O, H), target and base ||A_j|| (H,)."""
    size = weight.double().abs()
    wanted, plain = size * target, size * base
    top = wanted.topk(round(ratio * weight.shape[1]), dim=1).indices
    return torch.zeros_like(weight, dtype=torch.bool).scatter(1, top, True) & (wanted > plain)


def union(weight: Tensor, target: Tensor, base: Tensor, ratio: float) -> Tensor:
    """(O, H): the weight serves the concept at one of T steps; target and base (T, H)."""
    return torch.stack([serves(weight, a, b, ratio) for a, b in zip(target, base, strict=True)]).any(0)


def whole_channels(mask: Tensor, ratio: float) -> Tensor:
    """(O, H): the columns that the most rows of the mask chose, `ratio` of all at most; none that no row chose."""
    votes = mask.sum(0)
    top = votes.topk(round(ratio * mask.shape[1])).indices
    columns = torch.zeros_like(votes, dtype=torch.bool).scatter(0, top, True) & (votes > 0)
    return columns.expand_as(mask)


def refill(weight: Tensor, mask: Tensor, noise: Generator | None) -> None:
    """In place at the mask: normal with the deviation of the row's other weights, or 0 without a generator."""
    if noise is None:
        weight.masked_fill_(mask, 0)
        return
    others = (~mask).sum(1, keepdim=True).clamp(min=1)
    deviation = (weight.float().square() * ~mask).sum(1, keepdim=True).div(others).sqrt()
    drawn = torch.randn(weight.shape, generator=noise).to(weight.device) * deviation
    weight.copy_(torch.where(mask, drawn.to(weight.dtype), weight))
