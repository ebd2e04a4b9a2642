"""The paper table's cells: a cell is a model, trained where it is missing, and what the judge sees in its pictures; each made once.

Models are runs of edgesafe's own trainer, in folders named by a hash of all that the plan says of them and of the model they start from;
pictures are kept by the gallery; a cell is one safetensors file. So a stopped study goes on where it was, and one started twice shares
the work. Test cells exist only for rows whose search is frozen: `Study.freeze` writes what was chosen, and never changes it again.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from edgesafe import artifact, checkpoint, presets, sampling, trainer
from edgesafe.concepts import carriers
from edgesafe.emoji import judge
from edgesafe.erasers import CLOSED_FORM, ERASERS
from edgesafe.errors import EdgeSafeError
from edgesafe.solvers import SOLVERS

from . import leakage, paper_plan, paper_scores, questions, sources
from .cells import attempt
from .gallery import Drawing, Gallery
from .leakage import Question
from .paper_plan import (
    BASES,
    CAPTIONS,
    DRAWN,
    FINALISTS,
    HARDER,
    LEARNED,
    PROBED,
    ROWS,
    SHARED,
    SWITCHED,
    TEST,
    TUNING,
    Layer,
    Row,
    Sizes,
    Topic,
)
from .paper_questions import ask, topic_concepts
from .paper_scores import KEPT, Figure, Seen, Verdict, Yardstick
from .probes import PROBES, Probe, Target
from .survival_models import claim, digest

STAGES = ("tuning", "test", "harder", "captions")
METHODS = {"solver": SOLVERS, "eraser": ERASERS | CLOSED_FORM}
ANCHOR = "anchor"  # the set of the anchor's prompts, drawn by the distilled model alone
SECONDS = {"start": 15.0, "iteration": 0.4, "edit": 10.0, "picture": 0.12, "learned": 60.0}  # of one core
WAIT = 2.0  # seconds between looks at what another process makes


@dataclass(frozen=True)
class Cell:
    stage: str  # one of STAGES
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
class Study:
    config: Config = field(default_factory=Config)
    started: float = field(default_factory=time.time)
    worked_out: dict[tuple[str, Topic, bool], dict[str, Figure]] = field(default_factory=dict, repr=False)
    tied: frozenset[str] = frozenset()  # rows that plain prompts cannot tell apart, of which the slow probe is asked too

    @cached_property
    def judge(self) -> judge.Judge:
        return judge.load()

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery(self.config.work / "pictures", self.config.drawing, self.config.threads)

    # What there is to do

    def cells(self, stage: str) -> list[Cell]:
        """Those that can be made or are made already; later ones of a stage appear when earlier ones are there."""
        found = {"tuning": self._tuning, "captions": self._captions, "test": self._test, "harder": self._harder}[stage]()
        return [cell for cell in found if not self.config.only or any(part in cell.id for part in self.config.only)]

    def _tuning(self) -> Iterator[Cell]:
        for topic in TUNING:
            yield Cell("tuning", "distilled", topic)
        rows = [key for key, row in ROWS.items() if row.candidates and missing(row) is None]
        for key in rows:
            for name in ROWS[key].candidates:
                yield Cell("tuning", key, TUNING[0], name)
        for key in rows:
            for name in self.finalists(key):
                yield from (Cell("tuning", key, topic, name) for topic in TUNING[1:])

    def _captions(self) -> Iterator[Cell]:
        for key in SWITCHED:
            if key in self.frozen:
                for captions in CAPTIONS:
                    yield Cell("captions", key, TUNING[0], self.frozen[key]["candidate"], captions)

    def _test(self) -> Iterator[Cell]:
        self._frozen_or_refuse()
        for topic in TEST:
            yield from (Cell("test", key, topic) for key, row in ROWS.items() if row.kind == "reference")
            yield from (Cell("test", key, topic, facts["candidate"]) for key, facts in self.frozen.items())

    def _harder(self) -> Iterator[Cell]:
        self._frozen_or_refuse()
        for topic in TEST:
            for probe in ("plain", *HARDER):
                yield Cell("harder", "distilled", topic, probe=probe)
            for key, facts in self.frozen.items():
                probes = (*HARDER, LEARNED) if key in self.tied else HARDER
                yield from (Cell("harder", key, topic, facts["candidate"], probe=probe) for probe in probes)

    def _frozen_or_refuse(self) -> None:
        if not self.frozen:
            raise EdgeSafeError(
                f"{self._frozen}: nothing is frozen yet, and test concepts may not be looked at before. "
                "Run the search first: python -m edgesafe.benchmarks.paper --stage tuning"
            )

    # The search

    def finalists(self, row: str) -> list[str]:
        """The best candidates on the first tuning concept, once all are settled there."""
        first = [Cell("tuning", row, TUNING[0], name) for name in ROWS[row].candidates]
        if not all(map(self.settled, [*first, Cell("tuning", "distilled", TUNING[0])])):
            return []
        found = {cell.candidate: [verdict] for cell in first if cell.candidate and (verdict := self.verdict(cell))}
        return paper_scores.best(found, FINALISTS)

    def chosen(self, row: str) -> dict[str, Any] | None:
        """The search's result and how it came about; None while it is not done, or where no candidate could be measured."""
        finalists = self.finalists(row)
        cells = {name: [Cell("tuning", row, topic, name) for topic in TUNING] for name in finalists}
        if not finalists or not all(self.settled(cell) for found in cells.values() for cell in found):
            return None
        verdicts = {name: [v for cell in found if (v := self.verdict(cell))] for name, found in cells.items()}
        verdicts = {name: found for name, found in verdicts.items() if len(found) == len(TUNING)}
        if not verdicts:
            return None
        first = {name: [v] for name in ROWS[row].candidates if (v := self.verdict(Cell("tuning", row, TUNING[0], name)))}
        return {
            "candidate": paper_scores.best(verdicts, 1)[0],
            "settings": dict(ROWS[row].candidates[paper_scores.best(verdicts, 1)[0]]),
            "plan": plan_digest(row),
            "searched": {"first": _listed(first), "finalists": _listed(verdicts)},
        }

    def verdict(self, cell: Cell) -> Verdict | None:
        """Of a tuning cell; None where it failed."""
        mine, theirs = self.columns(cell, False), self.columns(Cell("tuning", "distilled", cell.topic), False)
        if mine is None or theirs is None:
            return None
        ratio = mine["fid"].value / theirs["fid"].value
        return mine["similarity_normalised"].value, ratio, mine["accuracy_loss"].value, mine["broken_more"].value

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

    @property
    def _frozen(self) -> Path:
        return self.config.work / "frozen.json"

    @property
    def frozen(self) -> dict[str, Any]:
        """What the search chose, by row. Raises: EdgeSafeError where the plan of a frozen row was changed since."""
        if not self._frozen.is_file():
            return {}
        rows = json.loads(self._frozen.read_text(encoding="utf-8"))["rows"]
        for key, facts in rows.items():
            if key not in ROWS or facts["plan"] != plan_digest(key):
                raise EdgeSafeError(
                    f"{self._frozen}: row {key!r} was frozen under another plan. Put paper_plan.py back, or, to search that row anew "
                    "and measure its test cells again, delete the row from the file"
                )
        return {key: rows[key] for key in ROWS if key in rows}

    @property
    def frozen_sha256(self) -> str | None:
        return artifact.sha256(self._frozen) if self._frozen.is_file() else None

    def freeze(self) -> list[str]:
        """Write down the rows whose search is done; rows that are there already stay as they are. Returns the new ones."""
        with claim(self._frozen.with_suffix(".lock")):
            rows = self.frozen
            new = {key: found for key in ROWS if key not in rows and ROWS[key].candidates and (found := self.chosen(key))}
            if new:
                criterion = " ".join((paper_scores.loss.__doc__ or "").split())
                write(self._frozen, json.dumps({"criterion": criterion, "rows": rows | new}, indent=1, ensure_ascii=False) + "\n")
            return list(new)

    # Making cells

    def run(self, stage: str, tell: Callable[[str], None]) -> None:
        """Make what is not there yet; with other processes at it, each makes what no other is making."""
        while todo := [cell for cell in self.cells(stage) if not self.settled(cell)]:
            for cell in todo:
                with claim(self._file(cell).with_suffix(".lock"), wait=False) as mine:
                    if mine and not self.settled(cell):
                        start = time.perf_counter()
                        facts = self.make(cell)
                        said = "" if facts["status"] == "measured" else f": {facts['status']}, {facts['reason']}"
                        tell(f"{cell.id}{said} ({time.perf_counter() - start:.0f} s, {len(todo) - 1} left)")
                        break
            else:
                time.sleep(WAIT)

    def make(self, cell: Cell) -> dict[str, Any]:
        """Measure and keep it; a failure is kept with its reason, and tried again at the next start."""
        seen: dict[str, Seen] = {}

        def measure() -> dict[str, Any]:
            source = self.source(cell)
            seen.update(self._look(cell, source))
            return {"source": source.place, "source_sha256": source.sha256}

        facts = attempt(measure, id=cell.id, key=self.key(cell)) | {"at": time.time()}
        groups = {name: found.tensors() for name, found in seen.items()} if facts["status"] == "measured" else {}
        checkpoint.save(self._file(cell), groups, facts)
        return facts

    def facts(self, cell: Cell) -> dict[str, Any] | None:
        """As it was last written, if it is still of what the plan says."""
        path = self._file(cell)
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
        groups, _ = checkpoint.load(self._file(cell))
        return {name: Seen(**tensors) for name, tensors in groups.items()}

    def yardstick(self, topic: Topic, stage: str) -> Yardstick:
        """Raises: EdgeSafeError while the distilled model is not measured on it."""
        reference = Cell("tuning" if stage == "captions" else stage, "distilled", topic)
        found = self.sets(reference)
        if found is None:
            raise EdgeSafeError(f"{reference.id} is not measured, and everything is compared with it. Start the command again")
        asked = self.asked(topic, stage)
        real = {name: _renders(self.judge, asked[name]) for name in ("concept", *KEPT) if asked.get(name)}
        return Yardstick(topic.name, asked, found, real)

    def seconds(self, cell: Cell, counted: set[str]) -> float:
        """An estimate, of what is not there yet; `counted` are keys of trainings that other cells wait for as well."""
        training, pictures = self.training(cell), sum(vars(self._sizes(cell)).values())
        chain = [t for t in (training, training.start if training else None) if t and t.key not in counted and not self._there(t)]
        counted.update(t.key for t in chain)
        learned = SECONDS["learned"] if cell.probe == LEARNED else 0.0
        return sum(t.seconds for t in chain) + pictures * SECONDS["picture"] + learned

    # Models

    def training(self, cell: Cell) -> Training | None:
        """What has to be trained for it; None for a model that is there."""
        if cell.candidate is None:
            return self._base(cell.row)
        row = ROWS[cell.row]
        start = self._base(row.start) if row.start else None
        erase = {"erase": cell.topic.erase} | ({"anchor": cell.topic.anchor} if cell.topic.anchor else {})
        layer = {**SHARED, "seed": 0, "steps": row.steps, **row.shared, **row.candidates[cell.candidate], **erase}
        layer |= {"concept_captions": cell.captions} if cell.captions else {}
        return Training(f"{cell.row}-{_slug(cell.topic.name)}", {**layer, **self._shrunk(row.steps)}, start)

    def source(self, cell: Cell) -> sources.Source:
        training = self.training(cell)
        return sources.describe(self.place(training) if training else str(BASES[cell.row]))

    def place(self, training: Training) -> Path:
        """The finished run, trained where it is missing; a stopped one goes on."""
        out = self._folder(training)
        with claim(out.with_suffix(".lock")):
            if not self._there(training):
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

    def _base(self, name: str) -> Training | None:
        made = BASES[name]
        return None if isinstance(made, str) else Training(name, {**made, **self._shrunk(made["steps"])})

    def _shrunk(self, steps: int) -> Layer:
        shrink = self.config.shrink
        return {**shrink, "steps": min(steps, shrink["steps"])} if "steps" in shrink else shrink

    def _folder(self, training: Training) -> Path:
        return self.config.work / "runs" / f"{training.name}-{training.key}"

    def _there(self, training: Training) -> bool:
        return (self._folder(training) / artifact.MANIFEST).is_file()

    # Pictures

    def asked(self, topic: Topic, stage: str) -> dict[str, tuple[Question, ...]]:
        return ask(topic, Sizes(PROBED, 0, 0, 0) if stage == "harder" else self.config.drawn[stage])

    def _sizes(self, cell: Cell) -> Sizes:
        return Sizes(PROBED, 0, 0, 0) if cell.stage == "harder" else self.config.drawn[cell.stage]

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
        base = self._base("distilled") if "control" in probe.needs else None
        control = sources.describe(self.place(base)) if base else EdgeSafeError(f"{probe.name} needs no control")
        drawn: dict[Question, Any] = {}
        for concept, part in zip(concepts, groups, strict=False):
            held = leakage.Cell("erased" if name == "concept" else "rest", concept, tuple(part))
            cache = self.config.work / "learned" / f"{cell.row}-{_slug(cell.topic.name)}-{probe.name}"
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

    def _file(self, cell: Cell) -> Path:
        return self.config.work / "cells" / f"{cell.id}.safetensors"


def missing(row: Row) -> str | None:
    """Why a row cannot be measured by this installation."""
    if row.needs and row.needs[1] not in METHODS[row.needs[0]]:
        return f"{row.needs[0]} {row.needs[1]!r} is not in this installation"
    return None if row.candidates or row.kind == "reference" else "it has no candidates in paper_plan.py"


def plan_digest(row: str) -> str:
    """Of what the search of a row depends on."""
    found, limits = ROWS[row], [paper_plan.FID_LIMIT, paper_plan.ACCURACY_LIMIT, paper_plan.BROKEN_LIMIT, paper_plan.PENALTY, FINALISTS]
    sizes, topics = vars(DRAWN["tuning"]), [vars(topic) for topic in TUNING]
    return digest([found.start, found.steps, SHARED, found.shared, found.candidates, limits, sizes, topics])


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


def _listed(found: Mapping[str, list[Verdict]]) -> dict[str, Any]:
    names = ("similarity_normalised", "fid_ratio", "accuracy_loss", "broken_more")
    means = {name: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return {
        name: dict(zip(names, (round(x, 4) for x in values), strict=True)) | {"loss": round(paper_scores.loss(*values)[1], 4)}
        for name, values in means.items()
    }


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
