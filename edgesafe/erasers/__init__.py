"""Erasers by name. Adding one = its file, its test, one line in ERASERS or CLOSED_FORM.

One that trains is a `GradientEraser`: the upper level of any solver. One in CLOSED_FORM changes weights once, after the last iteration:
as the whole erasing (`--eraser uce`), or after a solver that erased already (`--set after.name=uce`).
"""

from .ablation import Ablation
from .adversarial import Adversarial
from .closed_form import ClosedForm, Edit, NoEdit
from .concept_prune import ConceptPrune
from .esd import ESD
from .gradient import ErasingBatch, GradientEraser
from .rece import RECE
from .uce import UCE

Eraser = GradientEraser | ClosedForm

ERASERS: dict[str, type[GradientEraser]] = {"esd": ESD, "ablation": Ablation, "adversarial": Adversarial}
CLOSED_FORM: dict[str, type[ClosedForm]] = {"uce": UCE, "rece": RECE, "concept-prune": ConceptPrune}

__all__ = [
    "CLOSED_FORM", "ERASERS", "ESD", "RECE", "UCE", "Ablation", "Adversarial", "ClosedForm", "ConceptPrune", "Edit", "Eraser",
    "ErasingBatch", "GradientEraser", "NoEdit",
]  # fmt: skip
