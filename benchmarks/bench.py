"""`run(BenchConfig) -> Path`: measure one run, export or model folder, and write report.json, report.html, pictures.jsonl and grid.png."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgesafe import artifact, sampling
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from . import detectors, grid, judging, parity, report, runtimes, sources, speed
from .cells import attempt
from .gallery import Drawing, Gallery
from .judging import Artist
from .sources import Source
from .speed import Subject

MIB = 2**20
PARITY_PICTURES = 6
PACKAGES = ("torch", "onnxruntime", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class BenchConfig:
    source: str | Path | None = None  # None: the newest finished export that can be run here
    out: Path | None = None  # None: <name of the source>-bench beside it
    control: str | None = None  # None: the one that the manifest names
    runtimes: tuple[str, ...] | None = None  # None: those that can run it, and torch for the run behind an export
    pictures: int = 128  # a cell
    threads: int | None = None  # None: as torch chooses
    steps: int = sampling.DEFAULT_STEPS
    guidance: float = sampling.DEFAULT_GUIDANCE
    sampler: str = sampling.DEFAULT_SAMPLER
    seed: int = 0  # of the first picture of each cell
    force: bool = False

    def __post_init__(self) -> None:
        for name in self.runtimes or ():
            runtimes.check(name, "--runtimes")
        sampling.scheduler(self.sampler, {})
        for flag, value, low in (("--pictures", self.pictures, 2), ("--steps", self.steps, 1), ("--threads", self.threads or 1, 1)):
            if value < low:
                raise EdgeSafeError(f"{flag} {value}: at least {low} is needed")


def run(config: BenchConfig, machine: Mapping[str, str], console: Console | None = None, root: Path = Path("runs")) -> Path:
    """Returns the folder of the report. machine: what to say of the computer."""
    console = console or Console(stderr=True)
    source = _source(config, root, console)
    place = Path(source.place) if source.manifest else root / source.name.replace(":", "-").replace("/", "-")
    out = config.out or place.with_name(f"{place.resolve().name}-bench")
    detector, no_detector = detectors.fitting(source.manifest)
    judge = detector.open() if detector else None
    with artifact.staged(out, config.force) as folder, _progress(console) as bars:
        threads = config.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        drawing = Drawing(config.steps, config.guidance, config.sampler)
        gallery = Gallery(out.parent / ".cache" / "bench", drawing, threads)
        bench = Bench(config, source, drawing, gallery, threads, bars)
        record = bench.measure(judge, no_detector) | bench.provenance(machine)
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in bench.lines)
        (folder / "pictures.jsonl").write_text(lines, encoding="utf-8")
        report.write(folder, record, bench.grid_pictures)
        if bench.grid_pictures:
            grid.sheet(record["grid"], bench.grid_pictures, report.TITLES).save(folder / "grid.png")
    return out


class Bench:
    """One measurement of one source, part by part."""

    def __init__(self, config: BenchConfig, source: Source, drawing: Drawing, gallery: Gallery, threads: int, bars: Progress) -> None:
        self.config, self.source, self.drawing, self.gallery, self.threads, self.bars = config, source, drawing, gallery, threads, bars
        manifest = source.manifest
        self.concepts = tuple(Concept.from_dict(row) for row in manifest.concepts) if manifest else ()
        able, self.reasons = runtimes.readers(source.place)
        self.runtimes = config.runtimes or (tuple(dict.fromkeys([*able, "torch"])) if able else tuple(runtimes.RUNTIMES))
        self.runtime = next((name for name in self.runtimes if name in able), None)  # draws the audited pictures
        self.twin = _or_error(lambda: sources.twin(source))
        control = config.control or (manifest.control if manifest else None)
        self.control = _or_error(lambda: sources.describe(_named(control, "there is no un-erased control: name one with --control")))
        base = str(manifest.base_model["id"]) if manifest else None
        self.base = _or_error(lambda: sources.describe(_named(base, "no base model: there is no manifest that names it")))
        self.lines: list[dict[str, Any]] = []
        self.grid_pictures: list[list[Any]] = []

    def measure(self, judge: detectors.Detector | None, no_detector: str) -> dict[str, Any]:
        record: dict[str, Any] = {"sizes": self.sizes(), **self.speed()}
        record |= self.leakage(judge) if judge else _unmeasured("not measured", no_detector)
        return record | {"parity": self.parity(self._parity_questions(record["grid"]))}

    def sizes(self) -> list[dict[str, Any]]:
        rows: list[tuple[str, Source | Exception]] = [("export", self.source), ("base model", self.base)]

        def size(source: Source | Exception) -> dict[str, Any]:
            found = {name: n / MIB for name, n in sources.sizes(_there(source)).items()}
            components = [{"name": name, "size_mib": round(mib, 3)} for name, mib in found.items()]
            return {"total_mib": round(sum(found.values()), 3), "components": components}

        return [{"total_mib": None, "components": []} | attempt(partial(size, s), what=what) for what, s in rows]

    def speed(self) -> dict[str, list[dict[str, Any]]]:
        """The source on each runtime; torch runs the run behind an export, and the base model for comparison."""
        subjects = []
        for name in self.runtimes:
            if name == "torch" and name in self.reasons and self.runtime:
                subjects.append(Subject("run behind the export", name, self.twin))
            else:
                reason = self.reasons.get(name) or runtimes.RUNTIMES[name].untimed
                subjects.append(Subject("export", name, EdgeSafeError(reason) if reason else self.source))
        if self.runtime and "torch" in self.runtimes and self.source.manifest:
            subjects.append(Subject("base model", "torch", self.base))
        task = self.bars.add_task("speed", total=2 * len(subjects))

        def advance(what: str) -> None:
            self.bars.update(task, description=what)
            self.bars.advance(task)

        measured = speed.measure(subjects, self.drawing, self.threads, advance)
        self.bars.update(task, completed=2 * len(subjects), description="speed and memory")  # failed rows do not advance
        return measured

    def leakage(self, judge: detectors.Detector) -> dict[str, Any]:
        if self.runtime is None:
            return _unmeasured("not measured", f"no runtime here can run {self.source.name}")
        cells = judge.cells(self.concepts, self.config.pictures, self.config.seed)
        asked = sum(len(cell.questions) for cell in cells)
        tasks = {role: self.bars.add_task(f"pictures, {role}", total=asked) for role in ("export", "control")}

        def progress(role: str, n: int) -> None:
            self.bars.advance(tasks[role], n)

        artists = [Artist("export", self.runtime, self.source), Artist("control", self._runtime_of(self.control), self.control)]
        judged = judging.look(judge, cells, artists, self.gallery, progress)
        leaks, kept, verdicts = judging.count(judged, self.concepts)
        base = None if self._same(self.base, self.control) else Artist("base", self._runtime_of(self.base), self.base)
        if base:
            tasks["base"] = self.bars.add_task("pictures, base model", total=grid.size(cells))
        shown, self.grid_pictures = grid.build(judged, base, judge, self.concepts, self.gallery, progress)
        self.lines = judging.lines(judged, self.concepts)
        failed = judged.failures.get("export")
        state = {"status": "failed" if failed else "measured", "reason": failed, "detector": judge.facts(), "runtime": self.runtime}
        state |= {"control_failure": judged.failures.get("control"), "from_cache_pictures": judged.from_cache}
        return {
            "verdicts": verdicts,
            "leakage": state | {"concepts": leaks, "kept": kept, "quality": judging.quality(judged, judge, self.config.seed)},
            "grid": shown,
        }

    def parity(self, asked: list[tuple[str, int]]) -> list[dict[str, Any]]:
        """Of the export on its own runtime against the run behind it on torch."""
        if self.runtime in (None, "torch") or "torch" not in self.runtimes:
            return []
        task = self.bars.add_task("parity with torch", total=1)
        prompts, seeds = [prompt for prompt, _ in asked], [seed for _, seed in asked]
        facts = {"a": f"export, {self.runtime}", "b": "run behind the export, torch"}

        def measure() -> dict[str, Any]:
            pair = (self.source, str(self.runtime)), (_there(self.twin), "torch")
            return parity.compare(*pair, prompts, seeds, self.drawing, self.threads)

        row = attempt(measure, **facts)
        self.bars.advance(task)
        return [row]

    def provenance(self, machine: Mapping[str, str]) -> dict[str, Any]:
        manifest, control = self.source.manifest, self.control
        return {
            "schema_version": report.SCHEMA_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": dict(machine),
            "versions": artifact.versions(*PACKAGES),
            "settings": {
                "steps": self.config.steps,
                "guidance": self.config.guidance,
                "sampler": self.config.sampler,
                "seed": self.config.seed,
                "pictures_per_cell": self.config.pictures,
                "threads": self.threads,
            },
            "artifact": {
                "name": self.source.name,
                "target": self.source.target,
                "sha256": self.source.sha256,
                "base_model": manifest.base_model if manifest else None,
                "steps": [vars(step) for step in manifest.steps] if manifest else [],
                "files": manifest.files if manifest else {},
            },
            "control": {"id": self.config.control or (manifest.control if manifest else None), "sha256": getattr(control, "sha256", None)},
        }

    def _parity_questions(self, shown: dict[str, Any] | None) -> list[tuple[str, int]]:
        if shown and shown["rows"]:
            return [(row["prompt"], row["seed"]) for row in shown["rows"]][:PARITY_PICTURES]
        pairs = [prompt for concept in self.concepts for pair in concept.pairs[:1] for prompt in pair] or ["a picture"]
        return [(prompt, self.config.seed) for prompt in pairs[:2]]

    def _runtime_of(self, source: Source | Exception) -> str:
        able = runtimes.readers(source.place)[0] if isinstance(source, Source) else []
        return "torch" if "torch" in able or not able else able[0]

    @staticmethod
    def _same(a: Source | Exception, b: Source | Exception) -> bool:
        return isinstance(a, Source) and isinstance(b, Source) and (a.place == b.place or (a.sha256 is not None and a.sha256 == b.sha256))


def _source(config: BenchConfig, root: Path, console: Console) -> Source:
    place, passed = (config.source, []) if config.source else sources.newest(("export",), root)
    for line in passed:
        console.print(line, highlight=False, soft_wrap=True)
    source = sources.describe(place)
    console.print(f"bench {source.place} ({source.target})", highlight=False)
    able, reasons = runtimes.readers(place)
    if config.runtimes and not set(able) & set(config.runtimes):
        others = f"It runs on {', '.join(able)}" if able else "Leave --runtimes out to measure its sizes"
        raise EdgeSafeError(f"--runtimes: {'; '.join(dict.fromkeys(reasons[name] for name in config.runtimes))}. {others}")
    if not able:
        why = "; ".join(dict.fromkeys(reasons.values()))
        console.print(f"No runtime here can run it, so only its sizes are measured: {why}.", highlight=False, soft_wrap=True)
    return source


def _unmeasured(status: str, reason: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("detector", "runtime", "control_failure")) | {"from_cache_pictures": {}}
    rows: dict[str, list[Any]] = {"concepts": [], "kept": [], "quality": []}
    return {"verdicts": [], "leakage": {"status": status, "reason": reason, **nothing, **rows}, "grid": None}


def _or_error(find: Any) -> Source | Exception:
    try:
        return find()
    except EdgeSafeError as error:
        return error


def _there(source: Source | Exception) -> Source:
    if isinstance(source, Exception):
        raise source
    return source


def _named(name: str | None, otherwise: str) -> str:
    if not name:
        raise EdgeSafeError(otherwise)
    return name


def _progress(console: Console) -> Progress:
    words = TextColumn("{task.description}", markup=False)
    return Progress(SpinnerColumn(), words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console)
