"""What erasers without a gradient share: they change a network's weights once, in place, after the last iteration."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..concepts import Concept
from ..data import Show, TextConditions
from ..model import TextToImage


@dataclass(frozen=True)
class Edit:
    """What is edited, and all that an eraser may look at."""

    unet: nn.Module  # changed in place
    net: TextToImage  # its text encoder, tokenizer and scheduler; `net.unet` is the teacher's
    concepts: Sequence[Concept]
    keep: Sequence[str]  # captions of the data that carry no concept
    texts: TextConditions
    seed: int
    show: Show  # a progress bar


class ClosedForm(ABC):
    @abstractmethod
    def edit(self, work: Edit) -> dict[str, float]:
        """Erase; returns what was done, in numbers, for the log."""


@dataclass(frozen=True)
class NoEdit(ClosedForm):
    def edit(self, work: Edit) -> dict[str, float]:
        return {}
