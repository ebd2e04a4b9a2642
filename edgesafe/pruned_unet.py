"""A UNet2DConditionModel whose inner layers are narrower; it carries their widths in its own config.

`DiffusionPipeline.from_pretrained(folder)` loads it where edgesafe is installed: model_index.json names
["edgesafe", "PrunedUNet2DConditionModel"]. Its weights are safetensors, as of any diffusers model.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn

from .errors import EdgeSafeError
from .pruners.units import Group, groups, slices


class PrunedUNet2DConditionModel(UNet2DConditionModel):
    __module__ = "edgesafe"  # diffusers writes it to model_index.json, and imports it from there

    def __init__(self, widths: Mapping[str, int] | None = None, **config: Any) -> None:
        """`widths`: group name (pruners/units.py) -> units kept, of groups that are narrower; `config`: of a UNet2DConditionModel."""
        super().__init__(**config)
        self.register_to_config(widths=dict(widths or {}))
        narrow(self, widths or {})

    # diffusers reads the names of a config's entries from here
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *inspect.signature(UNet2DConditionModel.__init__).parameters.values(),
            inspect.Parameter("widths", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
        ]
    )


def narrow(unet: nn.Module, widths: Mapping[str, int]) -> None:
    """Give the groups so many units, in place, with new weights.

    Raises: EdgeSafeError for a group that the UNet does not have, or fewer units than it needs, or more than it has.
    """
    known = {group.name: group for group in groups(unet)}
    for name, kept in widths.items():
        if name not in known:
            raise EdgeSafeError(f"widths: this UNet has no group {name!r}. Its config.json was changed, or is of another version")
        group = known[name]
        if not isinstance(kept, int) or not group.least <= kept <= group.count:
            raise EdgeSafeError(f"widths: {name!r} is {kept!r}, needs {group.least} to {group.count} units")
        if kept < group.count:
            _narrow(unet, group, kept)


def _narrow(unet: nn.Module, group: Group, kept: int) -> None:
    sizes: dict[str, dict[int, int]] = {}
    for part in slices(unet, group):
        layer, _, _ = part.weight.rpartition(".")
        sizes.setdefault(layer, {})[part.dim] = unet.get_parameter(part.weight).shape[part.dim] // group.count * kept
    for layer, size in sizes.items():
        parent, _, name = layer.rpartition(".")
        setattr(unet.get_submodule(parent), name, _layer(unet.get_submodule(layer), size.get(0), size.get(1), group, kept))
    if group.kind == "heads":
        attention: Any = unet.get_submodule(group.module)
        attention.heads = attention.sliceable_head_dim = kept
        attention.inner_dim = attention.inner_kv_dim = attention.to_q.out_features


def _layer(old: Any, out: int | None, into: int | None, group: Group, kept: int) -> nn.Module:
    """A layer as `old` with other numbers of channels."""
    if isinstance(old, nn.GroupNorm):
        return nn.GroupNorm(kept, out or old.num_channels, old.eps, old.affine)
    if isinstance(old, nn.Conv2d):
        form: Any = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
        return nn.Conv2d(into or old.in_channels, out or old.out_channels, **form)
    if isinstance(old, nn.Linear):
        return nn.Linear(into or old.in_features, out or old.out_features, old.bias is not None)
    raise EdgeSafeError(f"widths: {group.name} has a {type(old).__name__}, which cannot be made narrower")
