"""Drawing the questions' pictures. Each is kept as a PNG under a folder named by everything that it depends on.

So a control is drawn once for all its exports, and a bench that was stopped goes on where it was.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgesafe import artifact

from . import runtimes
from .leakage import Question
from .runtimes.runtime import Runtime
from .sources import Source


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn."""

    steps: int
    guidance: float
    sampler: str
    batch: int = 16


@dataclass(frozen=True)
class Gallery:
    root: Path  # of the kept pictures
    drawing: Drawing
    threads: int

    def pictures(
        self, source: Source, runtime: str, questions: Sequence[Question], progress: Callable[[int], None]
    ) -> tuple[np.ndarray, int]:
        """uint8 (N, H, W, 3) and how many of them were kept from before; progress(n newly done)."""
        places = {(q.prompt, q.seed): self._place(source, runtime, q) for q in questions}
        found = {key: picture for key, place in places.items() if (picture := _read(place)) is not None}
        missing = [key for key in places if key not in found]
        progress(len(questions) - len(missing))
        if missing:
            model = runtimes.load(source.place, runtime, self.threads)
            for i in range(0, len(missing), self.drawing.batch):
                part = missing[i : i + self.drawing.batch]
                for key, picture in zip(part, self._draw(model, part), strict=True):
                    found[key] = picture
                    _write(places[key], picture)
                progress(len(part))
        return np.stack([found[q.prompt, q.seed] for q in questions]), len(places) - len(missing)

    def _draw(self, model: Runtime, keys: Sequence[tuple[str, int]]) -> np.ndarray:
        d = self.drawing
        prompts, seeds = [prompt for prompt, _ in keys], [seed for _, seed in keys]
        return model.generate(prompts, seeds, steps=d.steps, guidance=d.guidance, sampler=d.sampler, batch=d.batch)

    def _place(self, source: Source, runtime: str, question: Question) -> Path | None:
        """None for a source without a hash, whose pictures are not kept."""
        if source.sha256 is None:
            return None
        d = self.drawing
        facts = [source.sha256, runtime, artifact.versions(*runtimes.RUNTIMES[runtime].packages), d.steps, d.guidance, d.sampler]
        return self.root / _digest(facts) / f"{_digest([question.prompt, question.seed])}.png"


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _read(place: Path | None) -> np.ndarray | None:
    if place is None or not place.is_file():
        return None
    with Image.open(place) as image:
        return np.asarray(image.convert("RGB"))


def _write(place: Path | None, picture: np.ndarray) -> None:
    if place is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    with open(part, "wb") as file:
        Image.fromarray(picture).save(file, "PNG")
    os.replace(part, place)
