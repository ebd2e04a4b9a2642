"""The paper table's cells: what the judge sees in the pictures of a model, each made once and kept in a safetensors file.

Pictures are kept by the gallery, and a cell with a hash of all that its figures depend on: a cell of another plan counts as not there. One
that fails is kept with its reason, and tried again at the next start.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgesafe import checkpoint
from edgesafe.concepts import carriers
from edgesafe.emoji import judge
from edgesafe.errors import EdgeSafeError

from . import leakage, paper_plan, paper_scores, questions, sources
from .cells import attempt
from .gallery import Gallery
from .leakage import Question
from .paper_models import Cell, Models, slug
from .paper_plan import BASES, LEARNED, PROBED, Sizes, Topic
from .paper_questions import ask, topic_concepts
from .paper_scores import KEPT, Figure, Seen, Yardstick
from .probes import PROBES, Probe, Target
from .survival_models import digest

ANCHOR = "anchor"  # the set of the anchor's prompts, drawn by the distilled model alone


@dataclass
class Cells(Models):
    started: float = field(default_factory=time.time)
    worked_out: dict[tuple[str, Topic, bool], dict[str, Figure]] = field(default_factory=dict, repr=False)

    @cached_property
    def judge(self) -> judge.Judge:
        return judge.load()

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery(self.config.work / "pictures", self.config.drawing, self.config.threads)

    def file(self, cell: Cell) -> Path:
        return self.config.work / "cells" / f"{cell.id}.safetensors"

    def make(self, cell: Cell) -> dict[str, Any]:
        """Measure and keep it; a failure is kept with its reason, and tried again at the next start."""
        seen: dict[str, Seen] = {}

        def measure() -> dict[str, Any]:
            source = self.source(cell)
            seen.update(self._look(cell, source))
            return {"source": source.place, "source_sha256": source.sha256}

        facts = attempt(measure, id=cell.id, key=self.key(cell)) | {"at": time.time()}
        groups = {name: found.tensors() for name, found in seen.items()} if facts["status"] == "measured" else {}
        checkpoint.save(self.file(cell), groups, facts)
        return facts

    def facts(self, cell: Cell) -> dict[str, Any] | None:
        """As it was last written, if it is still of what the plan says."""
        path = self.file(cell)
        if not path.is_file():
            return None
        facts = _facts(path, path.stat().st_mtime_ns)
        return facts if facts["key"] == self.key(cell) else None

    def measured(self, cell: Cell) -> bool:
        facts = self.facts(cell)
        return facts is not None and facts["status"] == "measured"

    def settled(self, cell: Cell) -> bool:
        """Measured, or tried in vain since this process started."""
        facts = self.facts(cell)
        return facts is not None and (facts["status"] == "measured" or facts["at"] >= self.started)

    def sets(self, cell: Cell) -> dict[str, Seen] | None:
        if not self.measured(cell):
            return None
        groups, _ = checkpoint.load(self.file(cell))
        return {name: Seen(**tensors) for name, tensors in groups.items()}

    def yardstick(self, topic: Topic, stage: str) -> Yardstick:
        """Raises: EdgeSafeError while the distilled model is not measured on it."""
        reference = Cell("tuning" if stage == "captions" else stage, "distilled", topic)
        found = self.sets(reference)
        if found is None:
            raise EdgeSafeError(f"{reference.id} is not measured, and everything is compared with it. Start the command again")
        asked = self.asked(topic, stage)
        real = {name: _renders(self.judge, asked[name]) for name in ("concept", *KEPT) if asked.get(name)}
        return Yardstick(asked, found, real)

    def columns(self, cell: Cell, intervals: bool = True) -> dict[str, Figure] | None:
        """All columns of a measured cell; None for another. Worked out once."""
        if not self.measured(cell):
            return None
        known = (self.key(cell), cell.topic, intervals)
        if known not in self.worked_out:
            sets, yard = self.sets(cell), self.yardstick(cell.topic, cell.stage)
            if sets is None:
                return None
            self.worked_out[known] = paper_scores.erased(yard, sets["concept"]) | paper_scores.kept(yard, sets, intervals)
        return self.worked_out[known]

    def asked(self, topic: Topic, stage: str) -> dict[str, tuple[Question, ...]]:
        return ask(topic, self.sizes(stage))

    def sizes(self, stage: str) -> Sizes:
        return Sizes(PROBED, 0, 0, 0) if stage == "harder" else self.config.drawn[stage]

    def _look(self, cell: Cell, source: sources.Source) -> dict[str, Seen]:
        torch.set_num_threads(self.config.threads)
        concepts = topic_concepts(cell.topic)
        asked = dict(self.asked(cell.topic, cell.stage))
        if cell.row == "distilled" and cell.probe == "plain":
            asked[ANCHOR] = tuple(replace(q, prompt=q.anchor, plain=q.origin) for q in asked["concept"])
        pictures = {name: self.pictures(cell, source, name, found) for name, found in asked.items() if found}
        return {name: paper_scores.see(self.judge, drawn, asked[name], concepts) for name, drawn in pictures.items()}

    def pictures(self, cell: Cell, source: sources.Source, name: str, asked: Sequence[Question]) -> np.ndarray:
        """uint8 (N, H, W, 3): what the cell's model draws of a set's questions; those of a measured cell are kept."""
        probe, concepts = _probe(cell.probe), topic_concepts(cell.topic)
        # A probe that learns does so of one concept; the others draw a question the same whatever the cell is.
        groups = [[q for q in asked if carriers(q.prompt, [c])] for c in concepts] if name == "concept" else [list(asked)]
        base = self.base("distilled") if "control" in probe.needs else None
        control = sources.describe(self.place(base)) if base else EdgeSafeError(f"{probe.name} needs no control")
        drawn: dict[Question, Any] = {}
        for concept, part in zip(concepts, groups, strict=False):
            if not part:
                continue
            held = leakage.Cell("erased" if name == "concept" else "rest", concept, tuple(part))
            cache = self.config.work / "learned" / f"{cell.row}-{slug(cell.topic.name)}-{probe.name}"
            target = Target(source, "torch", source, control, concepts, self.config.drawing, self.config.threads, 0, cache)
            drawn |= dict(zip(part, self.gallery.sit(probe, target, held, lambda n: None), strict=True))
        return np.stack([drawn[q] for q in asked])

    def key(self, cell: Cell) -> str:
        """Of all that its figures depend on."""
        training, d = self.training(cell), self.config.drawing
        model = training.key if training else BASES[cell.row]
        asked = [[q.prompt, q.seed] for found in self.asked(cell.topic, cell.stage).values() for q in found]
        probe = [cell.probe, _probe(cell.probe).settings()]
        return digest([model, asked, probe, d.steps, d.guidance, d.sampler, judge.sha256()])


@cache
def _probe(name: str) -> Probe:
    if name not in PROBES:
        raise EdgeSafeError(f"no probe {name!r} in this installation; known: {', '.join(PROBES)}")
    return replace(PROBES[name](), steps=paper_plan.LEARNED_STEPS) if name == LEARNED else PROBES[name]()  # type: ignore[type-var]


@cache
def _renders(judge_: judge.Judge, asked: tuple[Question, ...]) -> torch.Tensor:
    return paper_scores.renders(judge_, questions.judged_world(), asked)


@cache
def _facts(path: Path, _mtime: int) -> dict[str, Any]:
    return checkpoint.load(path)[1]
