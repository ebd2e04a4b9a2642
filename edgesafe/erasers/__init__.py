"""Erasers by name. Adding one = its file, its test, one line in ERASERS or CLOSED_FORM.

One that trains is a `GradientEraser`: the upper level of any solver. One in CLOSED_FORM changes weights once, after the last iteration:
as the whole erasing (`--eraser uce`), or after a solver that erased already (`--set after.name=uce`).
"""

from .closed_form import ClosedForm, Edit, NoEdit
from .esd import ESD
from .gradient import ErasingBatch, GradientEraser

Eraser = GradientEraser | ClosedForm

ERASERS: dict[str, type[GradientEraser]] = {"esd": ESD}
CLOSED_FORM: dict[str, type[ClosedForm]] = {}

__all__ = ["CLOSED_FORM", "ERASERS", "ESD", "ClosedForm", "Edit", "Eraser", "ErasingBatch", "GradientEraser", "NoEdit"]
