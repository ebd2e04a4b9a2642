"""Diffusion completion: the un-erased model lays out the picture in its first steps, the artifact does the rest.
(Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?", arXiv 2505.17013, who hand over after 5 and after 10 of 50 steps.)

    e_i = e_control(z_i, t_i, prompt)   for calls i < k = round(share n)
    e_i = e_artifact(z_i, t_i, prompt)  for the rest of the n calls of the UNet

Both with guidance, each with its own text encoder; one sampler runs through, so what it remembers of earlier calls is handed over too.
share 0 is the artifact alone, 1 the control with the artifact's decoder. Costs what a plain picture costs, and the control in memory.
The control completes its own pictures to its own pictures, so its plain figures stand beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.sampling import UNetCall

from ..leakage import Cell, Question
from ..runtimes.runtime import Runtime, to_uint8
from .control import control, why_not
from .probe import Probe, Target


@dataclass(frozen=True)
class Completion(Probe):
    share: float = 0.2  # of the UNet calls, that the un-erased model does: 5 of 25

    name: ClassVar[str] = "completion"
    attacker: ClassVar[str] = "files"
    needs: ClassVar[frozenset[str]] = frozenset({"control"})
    control_asked: ClassVar[str] = "plain"
    what: ClassVar[str] = "the concept by its own name, the first steps drawn by the un-erased model"
    source_of_method: ClassVar[str] = "Lu et al. 2025, When Are Concepts Erased From Diffusion Models?, arXiv 2505.17013"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise EdgeSafeError(f"completion: share {self.share} must be from 0 to 1")

    def why_not(self, target: Target) -> str | None:
        return super().why_not(target) or why_not(target)

    def draw(self, model: Runtime, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:
        d, first = target.drawing, control(target)
        _fitting(first, model)
        prompts = [q.prompt for q in questions]
        text = (*model.conditions(prompts), *first.conditions(prompts))
        empty = (*(own := model.conditions([""])), *first.conditions([""]))
        scheduler = sampling.scheduler(d.sampler, model.scheduler_config)
        scheduler.set_timesteps(d.steps)
        unet = handed_over(first.unet_call, model.unet_call, round(self.share * len(scheduler.timesteps)), len(own))
        latents = sampling.starting_latents([q.seed for q in questions], model.latent_shape)
        latents = sampling.sample(unet, text, empty, latents, scheduler, d.steps, d.guidance)
        return to_uint8(model.developed(latents))


def handed_over(first: UNetCall, then: UNetCall, calls: int, columns: int) -> UNetCall:
    """A UNet that is `first` for so many calls; of what it reads of the prompts, `then` has the first `columns`, `first` the others."""
    made = 0

    def unet(sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        nonlocal made
        made += 1
        return first(sample, timestep, *given[columns:]) if made <= calls else then(sample, timestep, *given[:columns])

    return unet


def _fitting(first: Runtime, model: Runtime) -> None:
    """Raises: EdgeSafeError where the two do not speak of the same latents."""
    sides = [(tuple(r.latent_shape), r.scheduler_config.get("prediction_type", "epsilon")) for r in (first, model)]
    if sides[0] != sides[1]:
        (a, b), (c, d) = sides
        raise EdgeSafeError(f"completion: the control has latents {a} and predicts {b}, the artifact {c} and {d}; both must be equal")
