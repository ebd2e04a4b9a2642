"""`run(AuditConfig) -> Path`: ask an export for what was erased from it, in every way there is, and write down how often it comes back.

Every probe asks for every erased concept; the un-erased control draws the same prompts and seeds where a probe means anything to it; what
was not erased is asked for plainly. Every detector looks at every picture. What fails is shown as failed, and the rest goes on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgesafe import artifact, sampling
from edgesafe.errors import EdgeSafeError

from . import detectors, exhibit, findings, grid, looking, processes, questions, report, runtimes
from .cells import attempt
from .exhibit import Exhibit, there
from .gallery import Drawing, Gallery, Order
from .leakage import Cell, Sitting
from .looking import Looked
from .probes import Probe, Target, named
from .processes import Team

PICTURES = 200  # a cell
Key = tuple[str, str, str]  # probe, cell's title, "export" | "control"


@dataclass(frozen=True)
class AuditConfig:
    source: str | Path | None = None  # None: the newest finished export that can be run here
    out: Path | None = None  # None: <name of the source>-audit beside it
    control: str | None = None  # None: the one that the manifest names
    runtime: str | None = None  # None: the first that can run it
    probes: str = "all"  # "plain,noise", "prompts", "files"
    detectors: str | None = None  # "clip,nudenet"; None: those that suit the model
    detector_settings: tuple[str, ...] = ()  # "clip.model=FOLDER"
    prompts: Path | None = None  # own prompts in place of the built-in ones
    pictures: int = PICTURES  # a cell
    threads: int | None = None  # None: as torch chooses
    steps: int = sampling.DEFAULT_STEPS
    guidance: float = sampling.DEFAULT_GUIDANCE
    sampler: str = sampling.DEFAULT_SAMPLER
    seed: int = 0  # of the first picture of each cell
    force: bool = False

    def __post_init__(self) -> None:
        if self.runtime is not None:
            runtimes.check(self.runtime)
        self.chosen()
        self.settings()
        sampling.scheduler(self.sampler, {})
        for flag, value, low in (("--pictures", self.pictures, 2), ("--steps", self.steps, 1), ("--threads", self.threads or 1, 1)):
            if value < low:
                raise EdgeSafeError(f"{flag} {value}: at least {low} is needed")

    def chosen(self) -> tuple[Probe, ...]:
        """The plain probe is always asked: what the others find is held against it."""
        if not self.probes.strip(" ,"):
            raise EdgeSafeError("--probes: no probe is named. Name some, or all, prompts, files")
        return named(f"plain,{self.probes}")

    def settings(self) -> dict[str, dict[str, str]]:
        """ "clip.model=FOLDER" -> {"clip": {"model": "FOLDER"}}"""
        found: dict[str, dict[str, str]] = {}
        for text in self.detector_settings:
            name, equals, value = text.partition("=")
            detector, dot, option = name.partition(".")
            if not (equals and dot and detector and option):
                raise EdgeSafeError(f"--detector-set {text!r}: write it as DETECTOR.OPTION=VALUE, for example clip.model=folder")
            found.setdefault(detector.strip(), {})[option.strip()] = value.strip()
        return found


def run(config: AuditConfig, machine: Mapping[str, str], console: Console | None = None, root: Path = Path("runs")) -> Path | None:
    """Returns the folder of the audit; None in a process that only helped another one. machine: what to say of the computer."""
    team = processes.join()
    console = (console or Console(stderr=True)) if team.leads else Console(quiet=True)
    audited = open_exhibit(config, console, root)
    out = config.out or exhibit.beside(audited.source, root, "audit")
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    cache = out.parent / ".cache"
    if not team.leads:
        Audit(config, audited, threads, cache).share(team)
        return None
    with artifact.staged(out, config.force) as folder, bars(console) as progress:
        audit = Audit(config, audited, threads, cache, progress)
        if team.size > 1:
            audit.share(team)
        record = audit.write(folder, machine)
        timed: dict[str, Any] = {"cold_starts": [], "memory": [], "latency": [], "versus": None, "parity": []}
        shown = {"audit": record, "audit_reason": None, "grid": grid.build(audit.sittings), "sizes": audited.sizes()}
        facts = {key: record[key] for key in ("created", "control", "settings", "machine", "versions")}
        facts |= {"schema_version": report.SCHEMA_VERSION, "artifact": audited.provenance()}
        report.write(folder, facts | shown | timed, audit.sittings)
    return out


def open_exhibit(config: AuditConfig, console: Console, root: Path) -> Exhibit:
    """Raises: EdgeSafeError for what cannot be audited, before any work."""
    source = exhibit.choose("audit", config.source, root, console)
    found = exhibit.find(source, config.control, (config.runtime,) if config.runtime else None)
    if reason := findings.why_not(found):
        raise EdgeSafeError(f"{source.place}: {reason}")
    if found.runtime is None:
        able = runtimes.readers(source.place)[0]
        whys = "; ".join(dict.fromkeys([found.reasons[config.runtime]] if config.runtime else found.reasons.values()))
        raise EdgeSafeError(f"{source.place} cannot be drawn with: {whys}" + (f". It runs on {', '.join(able)}" if able else ""))
    return found


@dataclass
class Audit:
    """One audit of one model: `share` draws a part of its pictures, `write` draws what is missing, looks at all and counts."""

    config: AuditConfig
    exhibit: Exhibit
    threads: int
    cache: Path  # of pictures and of what probes learned; survives a stop
    progress: Progress | None = None
    looks: dict[Key, Looked] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
    orders: dict[tuple[str, str], Order] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    sittings: list[Sitting] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises: EdgeSafeError where there is nobody to judge."""
        c, e = self.config, self.exhibit
        self.drawing = Drawing(c.steps, c.guidance, c.sampler)
        self.gallery = Gallery(self.cache / "pictures", self.drawing, self.threads)
        self.probes = c.chosen()
        self.judges = detectors.choose(c.detectors, e.source.manifest, e.concepts, c.settings())
        self.detectors = {name: judge for name, judge in self.judges if not isinstance(judge, Exception)}
        if not self.detectors:
            raise EdgeSafeError(f"no detector can judge {e.source.name}: {'; '.join(str(judge) for _, judge in self.judges)}")
        self.cells = questions.cells(e.source.manifest, e.concepts, c.pictures, c.seed, c.prompts)
        self.task = self.progress.add_task("pictures", start=False, total=sum(n for *_, n in self.plan())) if self.progress else None

    def asked(self) -> Iterator[tuple[Probe, Cell]]:
        """What each probe asks for: the plain one for everything, the others for what was erased."""
        for probe in self.probes:
            yield from ((probe, cell) for cell in self.cells if cell.role == "erased" or probe.name == "plain")

    def plan(self) -> Iterator[tuple[Probe, Cell, str, int]]:
        """(probe, cell, model, pictures) of everything that is to be drawn."""
        for probe, cell in self.asked():
            yield probe, cell, "export", len(cell.questions)
            if probe.control_asked == "same":
                yield probe, cell, "control", len(cell.questions)
            if self.draws_base(probe):
                yield probe, cell, "base", len(grid.asked(cell))

    def draws_base(self, probe: Probe) -> bool:
        """A few pictures for the grid, where the base model is not the control itself."""
        return probe.name == "plain" and not isinstance(self.exhibit.base, Exception) and not self.exhibit.base_is_control

    def target(self, probe: Probe) -> Target:
        e, c = self.exhibit, self.config
        return Target(
            e.source, str(e.runtime), e.twin, e.control, e.concepts, self.drawing, self.threads, c.seed,
            self.cache / "learned" / probe.name, self._say,
        )  # fmt: skip

    def share(self, team: Team) -> None:
        """Draw what no other process draws. What fails is left to the leading process, which meets the same failure and shows it."""
        todo = list(self.asked())
        begin = len(todo) * team.rank // team.size  # processes begin at different places
        for probe, cell in todo[begin:] + todo[:begin]:
            attempt(lambda probe=probe, cell=cell: self._share(probe, cell))  # type: ignore[misc]

    def _share(self, probe: Probe, cell: Cell) -> dict[str, Any]:
        order = self.order(probe, cell)
        self.gallery.share(order)
        if probe.control_asked == "same":
            self.gallery.share(self.of_control(order))
        return {}

    def write(self, folder: Path, machine: Mapping[str, str]) -> dict[str, Any]:
        """Measure, and write audit.json and pictures.jsonl; returns the record."""
        self.measure()
        record = findings.record(self, machine)
        findings.write(folder, record, self.lines)
        return record

    def measure(self) -> None:
        if self.progress and self.task is not None:
            self.progress.start_task(self.task)
        for probe, cell in self.asked():
            begun = time.perf_counter()
            self._ask(probe, cell)
            self.seconds[probe.name] = self.seconds.get(probe.name, 0.0) + time.perf_counter() - begun
        self._say("pictures")

    def _ask(self, probe: Probe, cell: Cell) -> None:
        self._say(f"{probe.name}: {cell.title}")
        found = attempt(lambda: {"order": self.order(probe, cell)})
        roles = ("export", "control") if probe.control_asked == "same" else ("export",)
        if found["status"] == "failed":
            self.failures[probe.name, cell.title, "export"] = found["reason"]
            self._done(len(roles) * len(cell.questions))
        else:
            self.orders[probe.name, cell.title] = order = found["order"]
            self._sit("export", probe, cell, lambda: order)
            if "control" in roles:
                self._sit("control", probe, cell, lambda: self.of_control(order))
        if self.draws_base(probe):
            self._sit("base", probe, cell, lambda: self.of_base(cell))

    def _sit(self, role: str, probe: Probe, cell: Cell, order: Callable[[], Order]) -> None:
        """Draw, let the detectors look, and remember; or remember why not."""
        self._say(f"{probe.name}: {cell.title}, {role}")

        def look() -> dict[str, Any]:
            asked = order()
            pictures = self.gallery.draw(asked, self._done)
            return {"pictures": pictures, "looked": looking.look(self.detectors, pictures, asked.cell, self.exhibit.concepts)}

        found = attempt(look)
        if found["status"] == "failed":
            self.failures[probe.name, cell.title, role] = found["reason"]
            return
        self.sittings += looking.sittings(probe.name, role, found["looked"], found["pictures"])
        if role != "base":
            self.looks[probe.name, cell.title, role] = found["looked"]
            self.lines += looking.lines(role, probe.name, found["looked"])

    def order(self, probe: Probe, cell: Cell) -> Order:
        target = self.target(probe)
        if reason := probe.why_not(target):
            raise EdgeSafeError(reason)
        return self.gallery.order(probe, target, cell)

    def of_control(self, order: Order) -> Order:
        return replace(order, source=there(self.exhibit.control), runtime=self.exhibit.control_runtime)

    def of_base(self, cell: Cell) -> Order:
        plain, base = self.probes[0], there(self.exhibit.base)
        shown = replace(cell, questions=grid.asked(cell))
        return Order(plain, self.target(plain), shown, shown, base, exhibit.runtime_of(base))

    def _say(self, what: str) -> None:
        if self.progress and self.task is not None:
            self.progress.update(self.task, description=what)

    def _done(self, pictures: int) -> None:
        if self.progress and self.task is not None:
            self.progress.advance(self.task, pictures)


def bars(console: Console) -> Progress:
    words = TextColumn("{task.description}", markup=False)
    return Progress(SpinnerColumn(), words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console)
