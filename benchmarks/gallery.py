"""Drawing the questions' pictures. Each is kept as a PNG under a folder named by everything that it depends on.

So a control is drawn once for all its exports, and an audit that was stopped goes on where it was. Several processes may draw into one
gallery: each batch is drawn by the one that claims it first, and a claim ends with its process, however that ends.

A list of questions is always cut into the same batches, and a batch is drawn whole or not at all, so that pictures do not depend on
where an audit stopped or on how many processes drew them. (torch: batches of another size change one value in ten thousand by one of
256 levels, another order within a batch changes none.)
"""

import fcntl
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edgesafe import artifact

from . import runtimes
from .leakage import Cell
from .runtimes.runtime import Runtime
from .sources import Source

if TYPE_CHECKING:
    from .probes import Probe, Target

OPEN = 2  # models kept open: the export and its control

Progress = Callable[[int], None]  # pictures newly there


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn."""

    steps: int
    guidance: float
    sampler: str
    batch: int = 16


@dataclass(frozen=True)
class Order:
    """Pictures to draw: a probe's questions, and the model that is asked."""

    probe: "Probe"
    target: "Target"
    plain: Cell  # what the probe was given
    cell: Cell  # the same with the questions that it asks
    source: Source
    runtime: str


@dataclass(frozen=True)
class Gallery:
    root: Path  # of the kept pictures
    drawing: Drawing
    threads: int
    opened: OrderedDict[tuple[str, str], Runtime] = field(default_factory=OrderedDict, compare=False)
    locks: list[int] = field(default_factory=list, compare=False)  # the one file descriptor, once there is a claim

    def sit(self, probe: "Probe", target: "Target", cell: Cell, progress: Progress) -> np.ndarray:
        """uint8 (N, H, W, 3): what the target draws when `probe` asks for the cell's concept. progress: also for pictures kept before."""
        return self.draw(self.order(probe, target, cell), progress)

    def order(self, probe: "Probe", target: "Target", cell: Cell) -> Order:
        """What the probe asks of which model. It may have to learn that first: one process does, the others wait for it."""
        with self.claim(["learn", str(target.cache)]):
            asked = replace(cell, questions=probe.questions(target, cell))
            return Order(probe, target, cell, asked, *probe.model(target, cell))

    def draw(self, order: Order, progress: Progress = lambda n: None) -> np.ndarray:
        """uint8 (N, H, W, 3)"""
        return np.stack([picture for batch in self._batches(order, progress, True) for picture in batch])

    def share(self, order: Order, progress: Progress = lambda n: None) -> None:
        """Draw the batches that no other process has drawn or is drawing."""
        if order.source.sha256 is not None:  # else nothing is kept, so nothing can be shared
            for _ in self._batches(order, progress, False):
                pass

    def missing(self, order: Order) -> int:
        """How many of the pictures are not kept yet."""
        return sum(place is None or not place.is_file() for place in self._places(order))

    def model(self, source: Source, runtime: str) -> Runtime:
        """Opened once, and closed when two others were opened since."""
        key = (source.place, runtime)
        if key not in self.opened:
            while len(self.opened) >= OPEN:
                self.opened.popitem(last=False)
            self.opened[key] = runtimes.load(source.place, runtime, self.threads)
        self.opened.move_to_end(key)
        return self.opened[key]

    @contextmanager
    def claim(self, what: object, wait: bool = True) -> Iterator[bool]:
        """Whether this process alone works on `what` in the block; without `wait`, False where another one does.

        One file serves all claims by its byte ranges, and the system frees them when the process ends.
        """
        if not self.locks:
            self.root.mkdir(parents=True, exist_ok=True)
            self.locks.append(os.open(self.root / ".claims", os.O_RDWR | os.O_CREAT, 0o644))
        offset = int(_digest(what)[:15], 16)  # 60 bits
        try:
            fcntl.lockf(self.locks[0], fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, offset)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self.locks[0], fcntl.LOCK_UN, 1, offset)

    def _batches(self, order: Order, progress: Progress, wait: bool) -> Iterator[list[np.ndarray]]:
        places, questions, n = self._places(order), order.cell.questions, self.drawing.batch
        for i in range(0, len(questions), n):
            part, where = questions[i : i + n], places[i : i + n]
            found = [_read(place) for place in where]
            if any(picture is None for picture in found):
                with self.claim([str(place) for place in where], wait) as mine:
                    if not mine:
                        continue
                    found = [_read(place) for place in where]  # another process may have drawn them meanwhile
                    if any(picture is None for picture in found):
                        drawn = order.probe.draw(self.model(order.source, order.runtime), order.target, order.plain, part)
                        for j, picture in enumerate(drawn):
                            if found[j] is None:
                                _write(where[j], picture)
                                found[j] = picture
            progress(len(part))
            yield [picture for picture in found if picture is not None]

    def _places(self, order: Order) -> list[Path | None]:
        """None for a source without a hash, whose pictures are not kept."""
        if order.source.sha256 is None:
            return [None] * len(order.cell.questions)
        d, packages = self.drawing, runtimes.RUNTIMES[order.runtime].packages
        facts = [order.source.sha256, order.runtime, artifact.versions(*packages), d.steps, d.guidance, d.sampler]
        redraws = order.probe.redraws
        folder = self.root / _digest([*facts, *own_facts(order)] if redraws else facts)
        keys = [[q.prompt, q.seed, q.origin] if redraws else [q.prompt, q.seed] for q in order.cell.questions]
        return [folder / f"{_digest(key)}.png" for key in keys]


def own_facts(order: Order) -> list[Any]:
    """What else a picture depends on that a probe draws in a way of its own: its settings, the models it needs, and what it learned."""
    from .probes import learned  # probes import this module

    probe, target = order.probe, order.target
    beside = [None if isinstance(s := getattr(target, need), Exception) else s.sha256 or s.place for need in sorted(probe.needs)]
    marks = [learned.place(probe, target, "", cell=cell).name for cell in (None, order.plain)]
    files = target.cache.rglob("*") if target.cache.is_dir() else []
    used = sorted(path for path in files if path.is_file() and any(mark in path.name for mark in marks))
    return [probe.name, probe.settings(), beside, [artifact.sha256(path) for path in used]]


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _read(place: Path | None) -> np.ndarray | None:
    """None where there is no picture, or a damaged one, which is drawn again."""
    if place is None or not place.is_file():
        return None
    try:
        with Image.open(place) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError):  # what Pillow raises for a file that is no PNG, or half of one
        return None


def _write(place: Path | None, picture: np.ndarray) -> None:
    if place is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{os.getpid()}.part")
    with open(part, "wb") as file:
        Image.fromarray(picture).save(file, "PNG")
    os.replace(part, place)
