"""What a UNet costs, block by block and unit by unit, and which units stay for a target.

Multiply-accumulates (MACs) of one call at batch 1, without guidance, of text of S tokens; counted in a forward pass on torch's meta device,
so that a model of any size takes about a second and no memory:

    linear                 positions * in * out
    convolution            pixels * (in / groups) * out * kernel
    attention of D channels over N queries and M keys, its two products        2 N M D
    norms, activations, additions                                              none, as usual

A group's units (`units.Group`) leave with rows of the layers before and columns of the layers after them, and block outputs keep their
width, so the cost is linear in the units kept k_g:

    cost(k) = fixed + sum_g k_g c_g
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EdgeSafeError
from .units import Group, slices

TARGETS = ("macs", "params")


@dataclass(frozen=True)
class Size:
    macs: int
    params: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.macs + other.macs, self.params + other.params)


@dataclass(frozen=True)
class Unit:
    """Of one group: what each of its units costs."""

    macs: int
    params: int
    width: int  # channels


@dataclass(frozen=True)
class Cost:
    blocks: dict[str, Size]  # conv_in, time embedding, down.0, ..., mid, up.0, ..., out
    units: dict[str, Unit]  # by group

    @property
    def total(self) -> Size:
        return sum(self.blocks.values(), Size(0, 0))


def cost(unet: nn.Module, latent_shape: Sequence[int], tokens: int, groups: Sequence[Group] = ()) -> Cost:
    """`latent_shape`: (C, h, w); `tokens`: the text's length S."""
    macs = count(unet, latent_shape, tokens)
    blocks: dict[str, Size] = {}
    for name, module in unet.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own or name in macs:
            block = block_of(name)
            blocks[block] = blocks.get(block, Size(0, 0)) + Size(macs.get(name, 0), own)
    return Cost(blocks, {group.name: _unit(unet, group, macs) for group in groups})


def block_of(name: str) -> str:
    """The block that a module or weight belongs to."""
    first, *rest = name.split(".")
    if first in ("down_blocks", "up_blocks"):
        return f"{first.removesuffix('_blocks')}.{rest[0]}"
    return {"conv_in": "conv_in", "mid_block": "mid", "conv_norm_out": "out", "conv_out": "out"}.get(first, "time embedding")


def count(unet: nn.Module, latent_shape: Sequence[int], tokens: int) -> dict[str, int]:
    """MACs of each module that multiplies, by name; an attention's own entry are its two products."""
    macs: dict[str, int] = {}
    lengths: dict[str, int] = {}

    def layer(name: str) -> Callable:
        def hook(module: Any, _inputs: tuple, output: Tensor) -> None:
            places = output[0, 0].numel() if isinstance(module, nn.Conv2d) else output.numel() // module.out_features
            macs[name] = macs.get(name, 0) + places * module.weight.numel()
            lengths[name] = places

        return hook

    def products(name: str) -> Callable:
        def hook(attention: Any, _inputs: tuple, _output: Any) -> None:
            pairs = lengths[f"{name}.to_q"] * lengths[f"{name}.to_k"]
            macs[name] = macs.get(name, 0) + pairs * (attention.to_q.out_features + attention.to_v.out_features)

        return hook

    handles = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            handles.append(module.register_forward_hook(layer(name)))
        elif all(isinstance(getattr(module, part, None), nn.Linear) for part in ("to_q", "to_k", "to_v")):
            handles.append(module.register_forward_hook(products(name)))
    try:
        _pass(unet, latent_shape, tokens)
    finally:
        for handle in handles:
            handle.remove()
    return macs


@torch.no_grad()
def _pass(unet: Any, latent_shape: Sequence[int], tokens: int) -> None:
    """One forward pass on the meta device; the network's own weights stay where they are."""
    weights = {name: tensor.to("meta") for name, tensor in (*unet.named_parameters(), *unet.named_buffers())}
    dtype, config = next(unet.parameters()).dtype, unet.config

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    given: dict[str, Any] = {"return_dict": False}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["added_cond_kwargs"] = {"text_embeds": empty(1, pooled), "time_ids": empty(1, 6)}
    inputs = (empty(1, *latent_shape), torch.ones(1, device="meta"), empty(1, tokens, config.cross_attention_dim))
    torch.func.functional_call(unet, weights, inputs, given)


def _unit(unet: nn.Module, group: Group, macs: Mapping[str, int]) -> Unit:
    """Rows and columns cost alike, so a unit costs its share of every layer that it lies in, and of the attention's products."""
    parts = slices(unet, group)
    layers = {part.weight.rpartition(".")[0] for part in parts}
    spent = sum(macs.get(layer, 0) for layer in layers) + macs.get(group.module, 0)
    params = sum(unet.get_parameter(part.weight).numel() for part in parts)
    channels = next(unet.get_parameter(part.weight).shape[part.dim] for part in parts if part.leaving)
    return Unit(spent // group.count, params // group.count, channels // group.count)


def solve(
    groups: Sequence[Group], scores: Mapping[str, Tensor], cost: Cost, share: float, of: str = "macs", multiple: int = 1
) -> dict[str, Tensor]:
    """Group -> sorted indices of the units that stay, so that at most `share` of all `of` ("macs" | "params") is left.

    Each group keeps its `least` best units; then units come back in the order of score per cost while they fit, so what is left lies
    under the target by less than one unit. `scores`: (count,) a group. `multiple`: widths that stay are multiples of so many channels,
    where the group's own is.

    Raises: EdgeSafeError for a share that cannot be reached.
    """
    if of not in TARGETS:
        raise EdgeSafeError(f"unknown target {of!r}; known: {', '.join(TARGETS)}")
    if not 0 < share <= 1:
        raise EdgeSafeError(f"--{of} {share}: needs a share of what the model has, more than 0 and up to 1, such as 0.5")
    price = {group.name: getattr(cost.units[group.name], of) for group in groups}
    whole = getattr(cost.total, of)
    left = whole - sum(group.count * price[group.name] for group in groups)
    order: dict[str, Tensor] = {}
    kept: dict[str, int] = {}
    offers: list[tuple[float, str, int]] = []  # score per cost, group, units
    for group in groups:
        name, step = group.name, _step(multiple, cost.units[group.name].width, group.count)
        order[name] = scores[name].float().argsort(descending=True, stable=True)
        kept[name] = min(group.count, -(-group.least // step) * step)
        left += kept[name] * price[name]
        for rows in order[name][kept[name] :].split(step):
            offers.append((float(scores[name][rows].double().mean()) / price[name], name, len(rows)))
    budget = share * whole
    if left > budget:
        raise EdgeSafeError(
            f"--{of} {share}: inner widths alone cannot go that low: with the fewest units in every group {left / whole:.0%} is left. "
            "Ask for more, or drop whole blocks: --prune bk-sdm-tiny"
        )
    full: set[str] = set()
    for _, name, units in sorted(offers, key=lambda offer: -offer[0]):
        if name in full or left + units * price[name] > budget:
            full.add(name)
            continue
        kept[name] += units
        left += units * price[name]
    return {name: order[name][:n].sort().values for name, n in kept.items()}


def _step(multiple: int, width: int, count: int) -> int:
    """Units taken at once so that their channels are a multiple of `multiple`; one at a time where the group's own are not."""
    step = math.lcm(multiple, width) // width
    return step if count % step == 0 else 1
