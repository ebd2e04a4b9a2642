"""The paper table's models: runs of edgesafe's own trainer, made where they are missing.

A run lies in a folder named by a hash of all that the plan says of it and of the model it starts from, so that cells share it, a stopped
training goes on, and a changed plan makes another one.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from edgesafe import artifact, presets, sampling, trainer
from edgesafe.erasers import CLOSED_FORM

from . import sources
from .gallery import Drawing
from .paper_plan import BASES, DRAWN, ROWS, SHARED, Layer, Sizes, Topic
from .survival_models import claim, digest

SECONDS = {"start": 15.0, "iteration": 0.4, "edit": 10.0}  # of one core


@dataclass(frozen=True)
class Cell:
    stage: str  # of the study: tuning, test, harder, captions
    row: str
    topic: Topic
    candidate: str | None = None  # of an erased row
    captions: str | None = None  # in place of the row's own
    probe: str = "plain"

    @property
    def id(self) -> str:
        parts = (self.stage, self.row, self.topic.name, self.candidate, self.captions, None if self.probe == "plain" else self.probe)
        return "_".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts if part)


@dataclass(frozen=True)
class Training:
    """A model to be trained: the whole layer of its settings, and the one it starts from, where that has to be trained before."""

    name: str
    layer: Layer
    start: "Training | None" = None

    @property
    def key(self) -> str:
        return digest([self.layer, self.start.key if self.start else None])

    @property
    def seconds(self) -> float:
        edit = SECONDS["edit"] if self.layer.get("eraser", {}).get("name") in CLOSED_FORM else 0.0
        return SECONDS["start"] + self.layer["steps"] * SECONDS["iteration"] + edit


@dataclass(frozen=True)
class Config:
    work: Path = Path("work/paper")
    threads: int = 1
    only: tuple[str, ...] = ()  # parts of cells' names
    drawn: Mapping[str, Sizes] = field(default_factory=lambda: DRAWN)
    drawing: Drawing = field(default_factory=lambda: Drawing(sampling.DEFAULT_STEPS, sampling.DEFAULT_GUIDANCE, sampling.DEFAULT_SAMPLER))
    shrink: Layer = field(default_factory=dict)  # laid over every training


@dataclass
class Models:
    config: Config = field(default_factory=Config)

    def training(self, cell: Cell) -> Training | None:
        """What has to be trained for it; None for a model that is there."""
        if cell.candidate is None:
            return self.base(cell.row)
        row = ROWS[cell.row]
        start = self.base(row.start) if row.start else None
        erase = {"erase": cell.topic.erase} | ({"anchor": cell.topic.anchor} if cell.topic.anchor else {})
        layer = {**SHARED, "seed": 0, "steps": row.steps, **row.shared, **row.candidates[cell.candidate], **erase}
        layer |= {"concept_captions": cell.captions} if cell.captions else {}
        return Training(f"{cell.row}-{slug(cell.topic.name)}", {**layer, **self._shrunk(row.steps)}, start)

    def source(self, cell: Cell) -> sources.Source:
        training = self.training(cell)
        return sources.describe(self.place(training) if training else str(BASES[cell.row]))

    def place(self, training: Training) -> Path:
        """The finished run, trained where it is missing; a stopped one goes on."""
        out = self.folder(training)
        with claim(out.with_suffix(".lock")):
            if not self.there(training):
                layer = dict(training.layer)
                if training.start:
                    layer["student"] = str(self.place(training.start))
                settings = presets.resolve("paper", [("paper_plan.py", layer)])
                begun = (out / "config.json").is_file() and (out / "metrics.jsonl").is_file()
                if out.exists() and not begun:
                    shutil.rmtree(out)
                trainer.train(settings, out, begun, Console(quiet=True))
                for folder in ("checkpoint", "logs"):  # a hundred megabytes that a finished run needs no more
                    shutil.rmtree(out / folder, ignore_errors=True)
        return out

    def base(self, name: str) -> Training | None:
        made = BASES[name]
        return None if isinstance(made, str) else Training(name, {**made, **self._shrunk(made["steps"])})

    def _shrunk(self, steps: int) -> Layer:
        shrink = self.config.shrink
        return {**shrink, "steps": min(steps, shrink["steps"])} if "steps" in shrink else shrink

    def folder(self, training: Training) -> Path:
        return self.config.work / "runs" / f"{training.name}-{training.key}"

    def there(self, training: Training) -> bool:
        return (self.folder(training) / artifact.MANIFEST).is_file()


def slug(text: str) -> str:
    return text.replace(" ", "-")
