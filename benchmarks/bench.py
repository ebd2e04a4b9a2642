"""`run(BenchConfig) -> Path`: measure one run, export or model folder: speed, memory, sizes, parity and a short audit; write the report."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from edgesafe import artifact, sampling
from edgesafe.errors import EdgeSafeError

from . import exhibit, findings, grid, parity, report, runtimes, speed, versus
from .audit import Audit, AuditConfig, bars
from .cells import attempt
from .exhibit import Exhibit, there
from .gallery import Drawing
from .speed import Subject
from .versus import VersusConfig

PARITY_PICTURES = 6
PROBES = "plain,paraphrase"  # of the short audit


@dataclass(frozen=True)
class BenchConfig:
    source: str | Path | None = None  # None: the newest finished export that can be run here
    out: Path | None = None  # None: <name of the source>-bench beside it
    control: str | None = None  # None: the one that the manifest names
    runtimes: tuple[str, ...] | None = None  # None: those that can run it, and torch for the run behind an export; (): none
    pictures: int = 128  # a cell
    threads: int | None = None  # None: as torch chooses
    steps: int = sampling.DEFAULT_STEPS
    guidance: float = sampling.DEFAULT_GUIDANCE
    sampler: str = sampling.DEFAULT_SAMPLER
    seed: int = 0  # of the first picture of each cell
    force: bool = False
    probes: str = PROBES
    detectors: str | None = None  # None: those that suit the model
    detector_settings: tuple[str, ...] = ()  # "clip.model=FOLDER"
    prompts: Path | None = None  # own prompts in place of the built-in ones
    against: str | Path | None = None  # measure both in turn instead, and nothing else; `runtimes` is then one for both, or one each

    def __post_init__(self) -> None:
        for name in self.runtimes or ():
            runtimes.check(name, "--runtimes")
        if self.against and len(self.runtimes or ()) > 2:
            raise EdgeSafeError(f"--runtimes {','.join(self.runtimes or ())}: --vs takes one runtime for both models, or one for each")
        self.audit()

    def audit(self) -> AuditConfig:
        """The settings that an audit shares. Raises: EdgeSafeError for one that is out of range."""
        shared = ("source", "control", "probes", "detectors", "detector_settings", "prompts", "pictures")
        return AuditConfig(**{name: getattr(self, name) for name in (*shared, "threads", "steps", "guidance", "sampler", "seed")})


def run(config: BenchConfig, machine: Mapping[str, str], console: Console | None = None, root: Path = Path("runs")) -> Path:
    """Returns the folder of the report. machine: what to say of the computer."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EdgeSafeError("bench takes times, so it runs as one process. `edgesafe audit` is what several can share")
    console = console or Console(stderr=True)
    if config.against:
        return _in_turn(config, machine, console, root)
    found = _exhibit(config, console, root)
    out = config.out or exhibit.beside(found.source, root, "bench")
    with artifact.staged(out, config.force) as folder, bars(console) as progress:
        threads = config.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        bench = Bench(config, found, threads, out.parent / ".cache", progress)
        record = {"sizes": found.sizes(), "versus": None, **bench.speed(), **bench.audited(folder, machine)}
        record |= {"parity": bench.parity()} | bench.provenance(machine)
        report.write(folder, record, bench.sittings)
    return out


class Bench:
    """One measurement of one source, part by part."""

    def __init__(self, config: BenchConfig, found: Exhibit, threads: int, cache: Path, progress: Progress) -> None:
        """Raises: EdgeSafeError for detectors or prompts that were asked for and are wrong, before anything is timed."""
        self.config, self.exhibit, self.threads, self.bars = config, found, threads, progress
        able = runtimes.readers(found.source.place)[0]
        all_of_them = tuple(dict.fromkeys([*able, "torch"])) if able else tuple(runtimes.RUNTIMES)
        self.runtimes = all_of_them if config.runtimes is None else config.runtimes
        self.drawing = Drawing(config.steps, config.guidance, config.sampler)
        self.sittings: list[Any] = []
        self.questions: list[tuple[str, int]] = []  # prompts and seeds that parity compares
        self.failure: str | None = None  # why there are no figures of the control
        self.reason = findings.why_not(found) if found.runtime else f"no runtime here can run {found.source.name}"
        self.audit: Audit | None = None
        if self.reason is None:
            try:
                self.audit = Audit(config.audit(), found, threads, cache, progress)
            except EdgeSafeError as error:
                if config.detectors or config.detector_settings or config.prompts:
                    raise
                self.reason = str(error)

    def speed(self) -> dict[str, list[dict[str, Any]]]:
        """The source on each runtime; torch runs the run behind an export, and the base model for comparison."""
        found, subjects = self.exhibit, []
        for name in self.runtimes:
            if name == "torch" and name in found.reasons and found.runtime:
                subjects.append(Subject("run behind the export", name, found.twin))
            else:
                reason = found.reasons.get(name) or runtimes.RUNTIMES[name].untimed
                subjects.append(Subject("export", name, EdgeSafeError(reason) if reason else found.source))
        if found.runtime and "torch" in self.runtimes and found.source.manifest:
            subjects.append(Subject("base model", "torch", found.base))
        task = self.bars.add_task("speed", total=2 * len(subjects), visible=bool(subjects))

        def advance(what: str) -> None:
            self.bars.update(task, description=what)
            self.bars.advance(task)

        measured = speed.measure(subjects, self.drawing, self.threads, advance)
        self.bars.update(task, completed=2 * len(subjects), description="speed and memory")  # failed rows do not advance
        return measured

    def audited(self, folder: Path, machine: Mapping[str, str]) -> dict[str, Any]:
        """The short audit, written beside the report; or why there is none."""
        audit = self.audit
        if audit is None:
            return {"audit": None, "audit_reason": self.reason, "grid": None}
        record = audit.write(folder, machine)
        self.sittings, self.failure = audit.sittings, record["control"]["failure"]
        self.questions = [(q.prompt, q.seed) for cell in audit.cells for q in cell.questions[: max(1, PARITY_PICTURES // len(audit.cells))]]
        return {"audit": record, "audit_reason": None, "grid": grid.build(audit.sittings)}

    def parity(self) -> list[dict[str, Any]]:
        """Of the export on its own runtime against the run behind it on torch."""
        found = self.exhibit
        if found.runtime in (None, "torch") or "torch" not in self.runtimes:
            return []
        task = self.bars.add_task("parity with torch", total=1)
        pairs = [prompt for concept in found.concepts for pair in concept.pairs[:1] for prompt in pair] or ["a picture"]
        asked = self.questions or [(prompt, self.config.seed) for prompt in pairs[:2]]
        prompts, seeds = (list(column) for column in zip(*asked[:PARITY_PICTURES], strict=True))

        def measure() -> dict[str, Any]:
            pair = (found.source, str(found.runtime)), (there(found.twin), "torch")
            return parity.compare(*pair, prompts, seeds, self.drawing, self.threads)

        row = attempt(measure, a=f"export, {found.runtime}", b="run behind the export, torch")
        self.bars.advance(task)
        return [row]

    def provenance(self, machine: Mapping[str, str]) -> dict[str, Any]:
        config = self.config.audit()
        return findings.facts(self.exhibit, config, self.threads, machine, self.failure) | {"artifact": self.exhibit.provenance()}


def _in_turn(config: BenchConfig, machine: Mapping[str, str], console: Console, root: Path) -> Path:
    """Two models measured alternately: a report of the first that says how many times as fast it is."""
    found = exhibit.find(exhibit.choose("bench", config.source, root, console), config.control, config.runtimes)
    other = exhibit.choose("against", config.against, root, console)
    out = config.out or exhibit.beside(found.source, root, f"vs-{Path(other.name.replace(':', '-')).name}")
    threads = config.threads or torch.get_num_threads()
    named = config.runtimes or (None,)
    drawn = {name: getattr(config, name) for name in ("steps", "guidance", "sampler")}
    settings = VersusConfig(found.source.place, other.place, named[0], named[-1], threads, **drawn)
    with artifact.staged(out, config.force) as folder:
        measured = versus.run(settings, console)
        versus.show(console, measured)
        record = findings.facts(found, config.audit(), threads, machine, None) | {"artifact": found.provenance(), "sizes": found.sizes()}
        record |= {"audit": None, "audit_reason": f"two models were timed; `edgesafe audit {found.source.place}` asks", "grid": None}
        nothing: dict[str, list[Any]] = {"cold_starts": [], "memory": [], "latency": [], "parity": []}
        report.write(folder, record | nothing | {"versus": measured})
    return out


def _exhibit(config: BenchConfig, console: Console, root: Path) -> Exhibit:
    source = exhibit.choose("bench", config.source, root, console)
    able, reasons = runtimes.readers(source.place)
    if config.runtimes and not set(able) & set(config.runtimes):
        others = f"It runs on {', '.join(able)}" if able else "Leave --runtimes out to measure its sizes"
        raise EdgeSafeError(f"--runtimes: {'; '.join(dict.fromkeys(reasons[name] for name in config.runtimes))}. {others}")
    if not able:
        why = "; ".join(dict.fromkeys(reasons.values()))
        console.print(f"No runtime here can run it, so only its sizes are measured: {why}.", highlight=False, soft_wrap=True)
    return exhibit.find(source, config.control, config.runtimes)
