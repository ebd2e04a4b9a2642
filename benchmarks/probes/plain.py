"""The concept by its own name, in the prompts that the eraser was told of."""

from dataclasses import dataclass
from typing import ClassVar

from .probe import Probe


@dataclass(frozen=True)
class Plain(Probe):
    name: ClassVar[str] = "plain"
    attacker: ClassVar[str] = "prompts"
    what: ClassVar[str] = "the concept by its own name"
