"""What can go from inside a UNet's blocks: groups of like units, and where each unit's weights lie. Block outputs keep their width.

    resnet   the channels between a ResNet's two convolutions, in whole groups of its second GroupNorm: conv1 and time_emb_proj rows,
             norm2 channels, conv2 columns. A group's mean and variance are of its own channels, so the groups that stay keep theirs.
    heads    an attention's heads: to_q, to_k, to_v rows, to_out columns
    ff       the hidden channels of a GEGLU feed-forward: value and gate rows of its first linear layer, columns of its second

A group of `count` units; in every weight that belongs to it unit u holds the rows u s ... (u + 1) s - 1 of each of `halves` equal
parts along `dim`, where s = size / halves / count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..errors import EdgeSafeError

KINDS = ("resnet", "heads", "ff")


@dataclass(frozen=True)
class Group:
    name: str  # module + "." + kind
    module: str  # path in the UNet: a ResnetBlock2D, an Attention, a FeedForward
    kind: str  # "resnet" | "heads" | "ff"
    count: int  # units that can go: GroupNorm groups, heads, hidden channels
    least: int  # units that must stay


@dataclass(frozen=True)
class Slice:
    weight: str  # a parameter's name in the UNet
    dim: int  # along which the units lie
    halves: int = 1  # 2: value and gate
    leaving: bool = False  # columns that read the unit; with these at zero the unit does nothing


def groups(unet: nn.Module) -> tuple[Group, ...]:
    """Every group of the UNet, in the order of its modules; blocks of another kind are left whole.

    Raises: EdgeSafeError where channels do not divide among the units.
    """
    found = []
    for path, kind in _places(unet):
        count = _count(unet.get_submodule(path), kind)
        found.append(Group(f"{path}.{kind}", path, kind, count, least=1))
    for group in found:
        for part in slices(unet, group):
            size = unet.get_parameter(part.weight).shape[part.dim]
            if size % (part.halves * group.count):
                raise EdgeSafeError(
                    f"--prune: unet.{part.weight} has {size} channels, which do not divide among the {part.halves * group.count} units of "
                    f"{group.name}, so none can be cut whole. Use a depth pruner, such as bk-sdm-small"
                )
    return tuple(found)


def slices(unet: nn.Module, group: Group) -> tuple[Slice, ...]:
    """Where the group's units lie, in every weight that has them."""
    entering, leaving, halves = {
        "resnet": (("conv1", "time_emb_proj", "norm2"), "conv2", 1),
        "heads": (("to_q", "to_k", "to_v"), "to_out.0", 1),
        "ff": (("net.0.proj",), "net.2", 2),
    }[group.kind]
    module = unet.get_submodule(group.module)
    rows = [f"{layer}.{name}" for layer in entering if _has(module, layer) for name, _ in module.get_submodule(layer).named_parameters()]
    found = [Slice(f"{group.module}.{name}", 0, halves) for name in rows]
    return (*found, Slice(f"{group.module}.{leaving}.weight", 1, leaving=True))


def by_unit(tensor: Tensor, part: Slice, count: int) -> Tensor:
    """(count, n): each unit's entries of a weight, or of anything shaped as the weight."""
    rows = tensor.movedim(part.dim, 0).reshape(part.halves, count, -1)
    return rows.transpose(0, 1).flatten(1)


def places(part: Slice, size: int, count: int, keep: Tensor) -> Tensor:
    """Indices along `dim`, of `size`, that the kept units (K,) hold."""
    return torch.arange(size).view(part.halves, count, -1)[:, keep].flatten()


def _places(unet: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in unet.named_modules():
        if isinstance(module, ResnetBlock2D) and module.time_embedding_norm == "default" and isinstance(module.norm2, nn.GroupNorm):
            yield path, "resnet"
        elif isinstance(module, BasicTransformerBlock):
            for name in ("attn1", "attn2"):
                if _plain(getattr(module, name)):
                    yield f"{path}.{name}", "heads"
            if isinstance(module.ff, FeedForward) and isinstance(module.ff.net[0], GEGLU):
                yield f"{path}.ff", "ff"


def _plain(attention: nn.Module | None) -> bool:
    """Queries, keys and values of the same heads, and no norm over them."""
    if not isinstance(attention, Attention) or attention.to_k is None or attention.to_out is None:
        return False
    extras = (attention.norm_q, attention.norm_k, attention.add_k_proj)
    return attention.inner_kv_dim == attention.inner_dim and all(extra is None for extra in extras)


def _count(module: Any, kind: str) -> int:
    if kind == "resnet":
        return module.norm2.num_groups
    return module.heads if kind == "heads" else module.net[2].in_features


def _has(module: nn.Module, layer: str) -> bool:
    return getattr(module, layer.partition(".")[0], None) is not None
