"""Erasers by name. Adding one = its file, its test, one line in ERASERS.

An eraser that trains is a frozen dataclass with `parameters`, the weights it may move, and `loss(student, frozen, batch) -> L_CU`.
"""

from .esd import ESD, ErasingBatch

Eraser = ESD

ERASERS: dict[str, type[Eraser]] = {"esd": ESD}

__all__ = ["ERASERS", "ESD", "Eraser", "ErasingBatch"]
