"""What a detector is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from edgesafe.artifact import Manifest
from edgesafe.concepts import Concept

from ..leakage import Cell, Question, Reading


@dataclass(frozen=True)
class Seen:
    """A detector's answer on N pictures."""

    readings: tuple[Reading, ...]
    embedding: Tensor  # (N, D)


class Detector(ABC):
    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def why_not(cls, manifest: Manifest) -> str | None:
        """Why it cannot judge this model's pictures; None if it can."""

    @classmethod
    @abstractmethod
    def open(cls) -> "Detector": ...

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For the report: name, sha256 of the weights, what it is, its own measured errors."""

    @abstractmethod
    def cells(self, concepts: Sequence[Concept], pictures: int, seed: int) -> list[Cell]:
        """What to ask: a cell of `pictures` questions for each concept, for its neighbours, and for all the rest."""

    @abstractmethod
    def see(self, pictures: np.ndarray) -> Seen:
        """uint8 (N, H, W, 3)"""

    @abstractmethod
    def real(self, questions: Sequence[Question], copies: int, seed: int) -> Tensor | None:
        """The embedding (N * copies, D) of real pictures of what the questions ask; None where there are none."""
