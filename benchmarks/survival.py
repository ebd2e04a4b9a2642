"""Does rounding bring back what was erased? Where, and does the erasure-aware choice of bits prevent it?

    python -m edgesafe.benchmarks.survival [--list] [--only PATTERN] [--pictures N] [--table]

Every cell of survival_plan.py is drawn, judged and counted: leaked of asked, beside the un-erased control on the same prompts and seeds,
and against its base picture by picture (survival_pairs.py). A stopped study goes on where it was; one started twice shares the work; a
cell that fails is shown with its reason and tried again at the next start. Under --work: exports/ and models/ (kept), pictures/, cells/
(a JSON each, with every picture's outcome), and of what is finished survival.json, survival.md and survival.png.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgesafe import artifact, sampling
from edgesafe.concepts import Concept
from edgesafe.emoji import judge
from edgesafe.errors import EdgeSafeError

from . import detectors, leakage, questions, runtimes, survival_models, survival_pairs, survival_table
from .cells import attempt
from .gallery import Drawing, Gallery
from .probes import PROBES, Probe, Target
from .sources import Source
from .survival_models import Models
from .survival_plan import FORMS, MODELS, VIEWS, Row, rows

SCHEMA_VERSION = 1
DETECTOR = "emoji-judge"
CONTROL_RUNTIME = FORMS["fp32"].runtime
LETTERS = {name: letter for name, letter in zip(leakage.OUTCOMES, "LRGON", strict=True)}  # a letter a picture
SECONDS_A_STEP = {"onnxruntime": 0.004, "openvino": 0.004, "torch": 0.007, "coreml": 0.034}  # a picture, one thread of a quiet machine
EXPORT_SECONDS = {"onnxruntime": 15, "openvino": 20, "torch": 0, "coreml": 33}


@dataclass(frozen=True)
class Config:
    work: Path = Path("work/survival")
    runs: Path = Path("runs")
    pictures: int = 96  # a cell
    threads: int | None = None  # as torch chooses
    seed: int = 0  # of the first picture
    guidance: float = sampling.DEFAULT_GUIDANCE
    only: tuple[str, ...] = ()  # patterns of ids, or parts of them
    parity_steps: int = 25  # compared with torch at the end of each export

    def __post_init__(self) -> None:
        for flag, value, low in (("--pictures", self.pictures, 2), ("--threads", self.threads or 1, 1)):
            if value < low:
                raise EdgeSafeError(f"{flag} {value}: at least {low} is needed")
        for pattern in self.only:
            if not any(_matches(row, pattern) for row in rows()):
                raise EdgeSafeError(f"--only {pattern!r} fits no cell. `--list` prints their names")


class Study:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.threads = config.threads or torch.get_num_threads()
        self.models = Models(config.runs, config.work, self.threads, config.parity_steps)

    @cached_property
    def chosen(self) -> tuple[Row, ...]:
        patterns = self.config.only
        return tuple(row for row in rows() if not patterns or any(_matches(row, pattern) for pattern in patterns))

    def key(self, row: Row) -> str:
        """Of all that a cell's figures depend on. Raises: EdgeSafeError where its model or its probe is not there."""
        probe, c = _probe(row.probe), self.config
        drawn = [row.sampler, row.steps, c.guidance, c.pictures, c.seed, probe.name, probe.settings()]
        versions = artifact.versions(*runtimes.RUNTIMES[FORMS[row.form].runtime].packages)
        facts = [SCHEMA_VERSION, self.models.digest(row.model, row.form), drawn, versions, judge.sha256()]
        return survival_models.digest(facts)

    def kept(self, row: Row) -> dict[str, Any] | None:
        """The cell as it was last written, if it is still of the models and settings asked for now."""
        path = self._file(row)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EdgeSafeError(f"{path}: not valid JSON ({error}). Delete it, and the cell is measured again") from error
        try:
            return found if found.get("key") == self.key(row) else None
        except EdgeSafeError:
            return found if found.get("status") == "failed" else None

    def finished(self, row: Row) -> bool:
        found = self.kept(row)
        return found is not None and found["status"] == "measured"

    def run(self, console: Console) -> None:
        """Measure what is not finished, the quickest first; cells that another process works on come last."""
        todo = sorted((row for row in self.chosen if not self.finished(row)), key=self.seconds)
        with _bars(console) as bars:
            task = bars.add_task("survival", total=sum(self.seconds(row) for row in todo) or 1)
            for wait in (False, True):
                for row in list(todo):
                    with survival_models.claim(self._file(row).with_suffix(".lock"), wait) as mine:
                        if mine:
                            bars.update(task, description=row.id)
                            before = bars.tasks[0].completed
                            if not self.finished(row):
                                self._write(row, self.measure(row, lambda seconds: bars.advance(task, seconds)))
                            bars.update(task, completed=before + self.seconds(row))
                            todo.remove(row)

    def measure(self, row: Row, advance: Callable[[float], None]) -> dict[str, Any]:
        start = time.perf_counter()
        facts = {"id": row.id, **vars(row), "label": row.label, "model_label": MODELS[row.model].label}
        facts |= {"runtime": FORMS[row.form].runtime, "views": [name for name, view in VIEWS.items() if row in view]}
        found = attempt(lambda: self._measure(row, advance), **facts)
        return found | {"seconds": round(time.perf_counter() - start, 1)}

    def _measure(self, row: Row, advance: Callable[[float], None]) -> dict[str, Any]:
        probe, form = _probe(row.probe), FORMS[row.form]
        source, (unerased, its_files) = self.models.export(row.model, row.form), self.models.control(row.model)
        run = self.models.place(row.model)
        manifest = artifact.read(run)
        concepts = tuple(Concept.from_dict(found) for found in manifest.concepts)
        name, detector = detectors.choose(DETECTOR, manifest, concepts, {})[0]
        if isinstance(detector, Exception):
            raise detector
        plain = next(c for c in questions.cells(manifest, concepts, self.config.pictures, self.config.seed) if c.role == "erased")
        drawing = Drawing(row.steps, self.config.guidance, row.sampler)
        gallery = Gallery(self.config.work / "pictures", drawing, self.threads)
        twin = Source(str(run), artifact.sha256(run / artifact.MANIFEST), manifest)
        learned = self.config.work / "learned"  # by none of the study's probes so far
        target = Target(source, form.runtime, twin, unerased, concepts, drawing, self.threads, self.config.seed, learned / row.id)
        if reason := probe.why_not(target):
            raise EdgeSafeError(reason)
        beside = replace(target, source=its_files, runtime=CONTROL_RUNTIME, twin=unerased, cache=learned / f"control-{row.probe}")
        asked = probe if probe.control_asked == "same" else PROBES["plain"]()
        a_picture = row.steps * SECONDS_A_STEP[form.runtime]
        seen = {}
        for who, how, model, rate in (("export", probe, target, a_picture), ("control", asked, beside, 0.0)):
            pictures = gallery.sit(how, model, plain, lambda n, rate=rate: advance(n * rate))
            seen[who] = [_whole(reading) for reading in detector.see(pictures, plain, concepts).readings]
        concept = plain.concept
        outcomes = {who: [leakage.outcome(concept, r) for r in readings] for who, readings in seen.items()}
        return {
            "key": self.key(row),
            "concept": {"name": concept.name, "kind": concept.kind},
            "detector": {"name": name, "sha256": judge.sha256()},
            "probe_settings": probe.settings(),
            "export": leakage.leakage(plain, seen["export"], seen["control"]),
            "control": leakage.leakage(plain, seen["control"]),
            "asked": [[q.prompt, q.seed] for q in plain.questions],
            "outcomes": {who: "".join(map(LETTERS.__getitem__, found)) for who, found in outcomes.items()},
            "labels": [r.label for r in seen["export"]],
            "files": {"folder": source.place, "sha256": source.sha256} | survival_models.facts_of(source, survival_models.weights_of(run)),
        }

    def record(self) -> dict[str, Any]:
        """All that is known, every cell of the plan with its status; comparisons only between finished cells."""
        found: dict[str, dict[str, Any]] = {}
        for row in rows():
            facts = {"id": row.id, **vars(row), "label": row.label, "model_label": MODELS[row.model].label}
            facts["views"] = [name for name, view in VIEWS.items() if row in view]
            found[row.id] = self.kept(row) or facts | {"status": "not measured", "reason": "not reached yet"}
        for row in rows():
            found[row.id]["compared"] = [
                {"with": name, "id": other.id} | compared
                for name, other in row.partners.items()
                if (compared := _compare(found[other.id], found[row.id])) is not None
            ]
        made = [compared for cell in found.values() for compared in cell["compared"]]
        for compared, p in zip(made, survival_pairs.holm([compared["p"] for compared in made]), strict=True):
            compared["p_holm"] = p
        c = self.config
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": {"pictures": c.pictures, "seed": c.seed, "guidance": c.guidance, "threads": self.threads},
            "versions": artifact.versions("torch", "onnxruntime", "openvino", "coremltools", "diffusers", "transformers"),
            "letters": {letter: name for name, letter in LETTERS.items()},
            "comparisons": len(made),
            "cells": list(found.values()),
        }

    def exported(self, row: Row) -> bool:
        """Whether its files are there; also where they cannot be made."""
        try:
            return self.models.exported(row.model, row.form)
        except EdgeSafeError:
            return True

    def seconds(self, row: Row) -> float:
        """An estimate for one thread of a quiet machine, once the export is there."""
        return self.config.pictures * row.steps * SECONDS_A_STEP[FORMS[row.form].runtime]

    def _file(self, row: Row) -> Path:
        return self.config.work / "cells" / f"{row.id}.json"

    def _write(self, row: Row, found: dict[str, Any]) -> None:
        artifact.write_whole(self._file(row), json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Leaks of two finished cells, picture by picture; None unless they were asked from the same prompts and seeds."""
    if not first["status"] == second["status"] == "measured" or first["asked"] != second["asked"]:
        return None
    flags = [[letter == LETTERS["leaked"] for letter in cell["outcomes"]["export"]] for cell in (first, second)]
    return survival_pairs.compare(*flags)


def _probe(name: str) -> Probe:
    if name not in PROBES:
        raise EdgeSafeError(f"no probe {name!r} in this installation; known: {', '.join(PROBES)}")
    return PROBES[name]()


def _matches(row: Row, pattern: str) -> bool:
    return pattern in row.id or fnmatch(row.id, pattern)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        yield bars


def _whole(reading: leakage.Reading) -> leakage.Reading:
    """A weak erasure leaves its style in nearly every broken picture: what moves is how many whole pictures show it, so only they count."""
    return replace(reading, shown=frozenset()) if reading.broken else reading


def listing(study: Study) -> str:
    """Every chosen cell with its state, and what is left to do."""
    lines, left, exports = [], 0.0, set()
    for row in study.chosen:
        found = study.kept(row)
        state = found["status"] if found else "not measured"
        if state != "measured":
            left += study.seconds(row)
            exports |= {(row.model, row.form)} if not study.exported(row) else set()
        shown = f"{found['export']['leaked']['numerator']}/{found['export']['asked']} leak" if state == "measured" else ""
        lines.append(f"{row.id:44} {state:13} {shown or (found or {}).get('reason') or f'about {study.seconds(row):.0f} s'}")
    making = sum(EXPORT_SECONDS[FORMS[form].runtime] for _, form in exports)
    lines.append(f"{len(study.chosen)} cells of {study.config.pictures} pictures; left on one thread of a quiet machine: about ")
    lines[-1] += f"{left / 60:.0f} min of drawing and {making / 60:.0f} min for {len(exports)} exports; a second process takes half of it"
    return "\n".join(lines)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Config.work, show_default=True, help="Where everything is kept.")
@click.option("--runs", "folder", type=click.Path(path_type=Path), default=Config.runs, show_default=True, help="Of the erased models.")
@click.option("--pictures", default=Config.pictures, show_default=True, metavar="N", help="A cell.")
@click.option("--threads", type=int, metavar="N", help="Of this process.  [default: as torch chooses]")
@click.option("--seed", default=Config.seed, show_default=True, help="Of the first picture.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Cells whose name holds or fits it: 4bit, 'weak_*_plain'. May be repeated.")
@click.option("--list", "listed", is_flag=True, help="Print the cells, their state and the time left; measure nothing.")
@click.option("--table", "printed", is_flag=True, help="Print the finished cells as Markdown; measure nothing.")
def main(
    work: Path, folder: Path, pictures: int, threads: int | None, seed: int, only: tuple[str, ...], listed: bool, printed: bool
) -> None:
    """Does rounding bring back what was erased? Start it again to go on; start it twice, pinned to a core each, to share the work."""
    from . import survival_figure

    console = Console(stderr=True)
    try:
        study = Study(Config(work, folder, pictures, threads, seed, only=only))
        torch.set_num_threads(study.threads)
        if listed:
            click.echo(listing(study))
            return
        if not printed:
            study.run(console)
        record = study.record()
    except EdgeSafeError as error:
        raise click.ClickException(str(error)) from error
    table = survival_table.markdown(record)
    artifact.write_whole(work / "survival.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    artifact.write_whole(work / "survival.md", table)
    if printed:
        click.echo(table)
        return
    figure = survival_figure.draw(record, work / "survival.png")
    console.print(f"{work / 'survival.json'}, survival.md{', survival.png' if figure else ''}", highlight=False)


if __name__ == "__main__":
    main()
