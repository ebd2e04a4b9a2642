"""What a probe is: one way of asking for an erased concept. A subclass is a frozen dataclass whose fields are its hyper-parameters.

A probe may change three things, and whichever it leaves alone stays that of the plain probe:
    questions   what is asked: other words, found by reading or by search
    model       who is asked: the same files after somebody worked on them
    draw        how it is drawn: another loop around the same UNet, or text states that no prompt gives
"""

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from ..gallery import Drawing
from ..leakage import Cell, Question
from ..runtimes.runtime import Runtime
from ..sources import Source


@dataclass(frozen=True)
class Target:
    """The model under attack and what an attacker may use."""

    source: Source
    runtime: str  # that draws with it
    twin: Source | Exception  # the torch weights behind an export (the run, or the source itself); why not, otherwise
    control: Source | Exception  # the un-erased model
    concepts: tuple[Concept, ...]  # all that was erased
    drawing: Drawing
    threads: int
    seed: int
    cache: Path  # a folder for what is learned, by this probe alone; survives a stop
    progress: Callable[[str], None] = lambda what: None  # what is going on, for the bar's description


class Probe(ABC):
    name: ClassVar[str]
    attacker: ClassVar[str]  # who can do it: "prompts" (an app's user) | "files" (anyone who unzips the app)
    needs: ClassVar[frozenset[str]] = frozenset()  # of {"twin", "control"}
    control_asked: ClassVar[str] = "same"  # the control gets the "same" questions drawn the same way, or its "plain" figures stand beside
    what: ClassVar[str]  # one sentence for the report
    source_of_method: ClassVar[str] = ""  # the paper

    def why_not(self, target: Target) -> str | None:
        """Why it cannot be tried on this target; None if it can."""
        for need in sorted(self.needs):
            found = getattr(target, need)
            if isinstance(found, Exception):
                return f"it needs {NEEDS[need]}: {found}"
        return None

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        """The plain questions of an erased cell -> as many to ask, with `plain` set and seeds kept."""
        return cell.questions

    def model(self, target: Target, cell: Cell) -> tuple[Source, str]:
        """The model that is asked and the runtime that draws with it."""
        return target.source, target.runtime

    def draw(self, model: Runtime, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:
        """uint8 (N, H, W, 3); `questions` are one batch of what `questions` gave."""
        d = target.drawing
        prompts, seeds = [q.prompt for q in questions], [q.seed for q in questions]
        return model.generate(prompts, seeds, steps=d.steps, guidance=d.guidance, sampler=d.sampler, batch=d.batch)

    def found(self, target: Target, cell: Cell) -> str:
        """What it learned for these questions, in words for the report; "" for a probe that learns nothing."""
        return ""

    @property
    def redraws(self) -> bool:
        """Whether a picture depends on more than model, prompt, seed and drawing: then its kept copy is this probe's own."""
        return type(self).draw is not Probe.draw

    def settings(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


NEEDS = {"twin": "the torch weights behind the export", "control": "the un-erased model"}


def there(source: Source | Exception) -> Source:
    if isinstance(source, Exception):
        raise source if isinstance(source, EdgeSafeError) else EdgeSafeError(str(source))
    return source
