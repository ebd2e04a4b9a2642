"""What a detector is: it tells whether a concept is in a picture, and, where it can, whether the picture is still a good one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    embedding: Tensor | None = None  # (N, D), for FID and KID


class Detector(ABC):
    name: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}  # settings it takes, with their help: {"model": "a CLIP folder or hub id"}

    @classmethod
    @abstractmethod
    def why_not(cls, manifest: Manifest | None, concepts: Sequence[Concept], settings: Mapping[str, str]) -> str | None:
        """Why it does not suit this model (a world or concepts that it does not know, a setting that was not given); None if it does.

        What suits and is not there, a package or a file, is for `open` to say: then the audit shows it as failed.
        """

    @classmethod
    @abstractmethod
    def open(cls, concepts: Sequence[Concept], settings: Mapping[str, str]) -> "Detector":
        """Raises: EdgeSafeError, naming what is missing or has another hash."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """For the report: {"name", "sha256", "what", "threshold", "labels", "own_figures"}; the last are how often it was right on known
        pictures, [{"name", "numerator", "denominator"}], empty where nobody measured it."""

    def knows(self, concept: Concept) -> bool:
        """Whether its readings hold a score for this concept; a concept without one is neither leaked nor removed, but not measured."""
        return True

    @abstractmethod
    def see(self, pictures: np.ndarray, cell: Cell, concepts: Sequence[Concept]) -> Seen:
        """uint8 (N, H, W, 3), a picture for each of the cell's questions; concepts: all that this model should no longer draw."""

    def real(self, questions: Sequence[Question], copies: int, seed: int) -> Tensor | None:
        """The embedding (N * copies, D) of real pictures of what the questions ask; None where there are none."""
        return None
