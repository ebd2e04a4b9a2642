"""BK-SDM (Kim et al., ECCV 2024, arXiv 2305.15798): drop whole blocks of a Stable Diffusion UNet; the student is a stock config.

A stage of the down path has pairs (resnet, attention) 0, 1; of the up path 0, 1, 2.

    base    one layer a block: keep pair 0 of each down stage, pairs 0 and 2 of each up stage
    small   base, without the mid block
    tiny    small, without the innermost stage: student up.{0,1,2} <- teacher up.{1,2,3}; needs the last two widths equal

Every student weight is a teacher weight; `Pruned.weights` says which. Parameters of an SD 1.4 UNet (860 M): 580, 483, 324 M.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel

from ..errors import EdgeSafeError
from .pruned import Calibration, Pruned, same_shape

VARIANTS = ("base", "small", "tiny")
KEPT_UP = (0, 2)  # pairs of a teacher's up stage, in the student's order
BY_STAGE = ("only_cross_attention", "attention_head_dim", "cross_attention_dim", "transformer_layers_per_block", "num_attention_heads")


@dataclass(frozen=True)
class BKSDM:
    variant: str  # "base" | "small" | "tiny"

    calibrates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise EdgeSafeError(f"unknown BK-SDM variant {self.variant!r}; known: {', '.join(VARIANTS)}")

    def config(self, teacher: dict[str, Any]) -> dict[str, Any]:
        """The student's UNet2DConditionModel config."""
        config = {key: value for key, value in teacher.items() if not key.startswith("_")}
        layers, stages = config["layers_per_block"], len(config["block_out_channels"])
        if stages != 4 or (layers != 2 and list(layers if isinstance(layers, list | tuple) else []) != [2] * 4):
            raise EdgeSafeError(
                f"--prune bk-sdm-{self.variant}: needs a UNet of 4 levels with layers_per_block 2; this one has {stages} and {layers}. "
                "If it is pruned already, give it as --student, with its --teacher; other shapes, such as Stable Diffusion XL's, "
                "by --prune width or none"
            )
        if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is None:
            raise EdgeSafeError(f"--prune bk-sdm-{self.variant}: this UNet has no mid block, so it is pruned already. Give it as --student")
        config["layers_per_block"] = 1
        if self.variant != "base":
            config["mid_block_type"] = None
        if self.variant == "tiny":
            widths = list(config["block_out_channels"])
            if widths[-1] != widths[-2]:
                raise EdgeSafeError(f"--prune bk-sdm-tiny: the last two of block_out_channels {widths} must be equal. Use bk-sdm-small")
            config["block_out_channels"] = widths[:-1]
            config["down_block_types"] = list(config["down_block_types"])[:-1]
            config["up_block_types"] = list(config["up_block_types"])[1:]
            for key in BY_STAGE:
                if isinstance(config.get(key), list | tuple):
                    config[key] = list(config[key])[:-1]
        return config

    def teacher_name(self, name: str) -> str:
        """The teacher's name of a student's weight or module."""
        stage = re.match(r"up_blocks\.(\d+)(?:\.(resnets|attentions)\.(\d+))?", name)
        if not stage:
            return name
        index, kind, pair = stage.groups()
        mapped = f"up_blocks.{int(index) + (self.variant == 'tiny')}"
        if kind:
            mapped += f".{kind}.{KEPT_UP[int(pair)]}"
        return mapped + name[stage.end() :]

    def features(self, student: dict[str, Any]) -> dict[str, str]:
        """Where feature KD compares: student module -> teacher module, as BK-SDM has them (no mid block)."""
        if self.variant == "tiny":
            # The teacher's down.2 ends in a downsampler that the student lacks, so its last attention stands for it.
            inner = {"down_blocks.2.attentions.0.proj_out": "down_blocks.2.attentions.1.proj_out"}
            outer = {f"down_blocks.{i}": f"down_blocks.{i}" for i in (0, 1)}
            return outer | inner | {f"up_blocks.{i}": f"up_blocks.{i + 1}" for i in range(3)}
        return {f"{side}_blocks.{i}": f"{side}_blocks.{i}" for side in ("down", "up") for i in range(4)}

    def prune(self, teacher: UNet2DConditionModel, calibration: Calibration | None = None) -> Pruned:
        if teacher.config.get("widths"):
            raise EdgeSafeError(f"--prune bk-sdm-{self.variant}: this UNet is narrower already. Prune depth first, then --prune width")
        config = self.config(dict(teacher.config))
        with torch.device("meta"):
            student = UNet2DConditionModel.from_config(config)
        source = teacher.state_dict()
        weights = {name: self.teacher_name(name) for name in student.state_dict()}
        student.load_state_dict({name: source[origin].clone() for name, origin in weights.items()}, assign=True)
        return Pruned(student.eval(), weights, self.features(config))

    def made(self, student: dict[str, Any], teacher: dict[str, Any]) -> bool:
        """Whether a student of this config can be this pruner's of that teacher: recognises released BK-SDM checkpoints."""
        try:
            expected = self.config(teacher)
        except EdgeSafeError:
            return False
        return same_shape(student, expected)
