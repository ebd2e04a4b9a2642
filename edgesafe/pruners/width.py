"""Width: narrower inner layers. Every unit (units.py) gets a score; those of the least score per cost go, until the target is met.

    worth of unit u of group g    I_u / c_g         I: scores/;  c: MACs or parameters of one unit of g, whichever the target counts

Inner widths only, as APTP prunes them (Ganjdanesh et al., ICLR 2025, arXiv 2406.12042, section 3): block outputs keep their width, so
feature KD compares them as they are. Every weight that stays is the teacher's own. Costs what the score costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from .. import pruned_unet  # the module, not the class: it imports units.py itself
from ..errors import EdgeSafeError
from . import plan
from .cost import cost, solve
from .inner_widths import InnerWidths
from .none import NoPruning
from .pruned import Calibration, Pruned
from .scores import SCORES
from .units import groups, places, slices

RANKS = ("score", "global", "group")


@dataclass(frozen=True)
class Width(InnerWidths):
    score: str = "taylor"  # "taylor" | "taylor-gate" | "spdm" | "magnitude"
    rank: str = "score"  # "global": scores as they are; "group": every group loses the same share; "score": as the score has it
    pictures: int = 256  # that the score taylor looks at

    name: ClassVar[str] = "width"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in SCORES:
            raise EdgeSafeError(f"--score {self.score!r} is unknown; known: {', '.join(SCORES)}")
        if self.rank not in RANKS:
            raise EdgeSafeError(f"width.rank {self.rank!r} is unknown; known: {', '.join(RANKS)}")
        if self.pictures < 1:
            raise EdgeSafeError(f"width.pictures {self.pictures}: needs 1 or more")

    def prune(self, teacher: UNet2DConditionModel, calibration: Calibration | None = None) -> Pruned:
        if calibration is None:
            raise EdgeSafeError("--prune width looks at pictures: it needs --data")
        of, share = self.target
        net, found, score = calibration.teacher, groups(teacher), SCORES[self.score]
        scored = score.score(replace(calibration, pictures=self.pictures), teacher, found)
        spent = cost(teacher, net.latent_shape, net.tokenizer.model_max_length, found)
        if (self.rank if self.rank != "score" else score.rank) == "group":
            scored = {name: standing(units) * getattr(spent.units[name], of) for name, units in scored.items()}
        keep = solve(found, scored, spent, share, of, self.multiple)
        plan.show(calibration.console, net, partial(cut, keep=keep), "width")
        return cut(teacher, keep)


def standing(scores: Tensor) -> Tensor:
    """(count,) -> how far up its group each unit stands, in (0, 1): 1/2n, 3/2n, ..."""
    return (scores.argsort(stable=True).argsort() + 0.5) / len(scores)


def cut(unet: UNet2DConditionModel, keep: Mapping[str, Tensor]) -> Pruned:
    """A narrower copy. `keep`: group name -> sorted indices (K,) of the units that stay; a group not named stays whole."""
    known = {group.name: group for group in groups(unet)}
    weights = {name: tensor.detach() for name, tensor in unet.state_dict().items()}
    widths = dict(unet.config.get("widths") or {})
    for name, units in keep.items():
        group = known[name]
        if len(units) == group.count:
            continue
        widths[name] = len(units)
        for part in slices(unet, group):
            whole = weights[part.weight]
            rows = places(part, whole.shape[part.dim], group.count, units).to(whole.device)
            weights[part.weight] = whole.index_select(part.dim, rows)
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")} | {"widths": widths}
    with torch.device("meta"):
        student = pruned_unet.PrunedUNet2DConditionModel.from_config(config)
    student.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    kept = {name: units.tolist() for name, units in keep.items()}
    return Pruned(student.eval(), {name: name for name in weights}, NoPruning().features(config), kept)
