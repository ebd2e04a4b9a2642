"""Which methods are supported? A short run, an ONNX export and a small audit of every pruner, eraser and solver, and its test's name.

    python -m edgesafe.benchmarks.methods [--only NAME] [--dry-run] [--table]

A row is *supported* where its reference test is there, it ran on the emoji model, its export passed the parity gate and was audited;
otherwise *experimental*, with the reason. Rows come from the registries (methods_plan.py). Each step is a process of the real command
line. What was made is kept in --work under a hash of the row's settings, versions and files, so a stopped study goes on where it was,
one started twice shares the work, and only what changed is made again. Writes methods.json there, and --table's Markdown to --docs.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from edgesafe import artifact
from edgesafe.emoji import judge
from edgesafe.errors import EdgeSafeError

from . import methods_table, sources
from .cells import attempt
from .methods_plan import PICTURES, PROBES, Row, reference_test, rows
from .survival_models import PACKAGES, claim, command, digest

SCHEMA_VERSION = 1
TESTS = Path(__file__).resolve().parents[1] / "tests"
SECONDS = {"start": 25.0, "iteration": 0.45, "of a pruner": 0.9, "export": 20.0, "audit": 80.0}  # one thread of a quiet machine
FOUND = "manifest.json"  # of a finished run or export


@dataclass(frozen=True)
class Study:
    work: Path = Path("work/methods")
    tests: Path = TESTS
    only: tuple[str, ...] = ()  # parts of rows' names
    pictures: int = PICTURES  # a cell
    threads: int = 1
    command: Callable[[tuple[str, ...], int], None] = command  # runs `edgesafe WORDS` with so many threads

    def __post_init__(self) -> None:
        names = [row.id for row in rows()]
        for part in self.only:
            if not any(part in name for name in names):
                raise EdgeSafeError(f"--only {part!r} fits no method; known: {', '.join(names)}")
        if self.pictures < 2:
            raise EdgeSafeError(f"--pictures {self.pictures}: at least 2 are needed")

    @cached_property
    def chosen(self) -> tuple[Row, ...]:
        return tuple(row for row in rows() if not self.only or any(part in row.id for part in self.only))

    def key(self, row: Row) -> str:
        """Of all that a row's figures depend on."""
        asked = [row.train, PROBES, self.pictures, [artifact.sha256(path) for path in row.files]]
        return digest([SCHEMA_VERSION, asked, artifact.versions(*PACKAGES), judge.sha256()])

    def run(self, tell: Callable[[str], None]) -> None:
        """Make what is not there yet; rows that another process works on come last."""
        todo = [row for row in self.chosen if not self.finished(row)]
        for wait in (False, True):
            for row in list(todo):
                with claim(self._cell(row).with_suffix(".lock"), wait) as mine:
                    if not mine:
                        continue
                    if not self.finished(row):
                        tell(f"{row.id}, about {self.seconds(row) / 60:.0f} min")
                        found = self.measure(row)
                        artifact.write_whole(self._cell(row), json.dumps(found, indent=1, ensure_ascii=False) + "\n")
                        tell(f"{row.id}: {found['reason'] or found['status']} ({found['seconds']:.0f} s)")
                    todo.remove(row)

    def measure(self, row: Row) -> dict[str, Any]:
        start = time.perf_counter()
        found = attempt(lambda: self._measure(row), id=row.id, kind=row.kind, label=row.label, key=self.key(row), train=list(row.train))
        return found | {"seconds": round(time.perf_counter() - start, 1)}

    def _measure(self, row: Row) -> dict[str, Any]:
        name = f"{row.id}-{self.key(row)}"
        run, export, audit = (self.work / folder / name for folder in ("runs", "exports", "audits"))
        self._make(run / FOUND, (*row.train, "--out", str(run)), resume=run)
        self._make(export / FOUND, ("export", str(run), "--target", "onnx", "--out", str(export)))
        asked = ("--probes", PROBES, "--pictures", str(self.pictures), "--threads", str(self.threads))
        self._make(audit / "audit.json", ("audit", str(export), *asked, "--out", str(audit)))
        return figures(export, audit)

    def _make(self, last: Path, words: tuple[str, ...], resume: Path | None = None) -> None:
        """Run the command, unless what it writes last is there; a stopped training goes on."""
        if last.is_file():
            return
        stopped = resume is not None and (resume / "config.json").is_file()
        self.command(("train", "--resume", str(resume)) if stopped else words, self.threads)

    def kept(self, row: Row) -> dict[str, Any] | None:
        """The row as it was last written, if it is still of what is asked for now."""
        path = self._cell(row)
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found if found and found["key"] == self.key(row) else None

    def finished(self, row: Row) -> bool:
        found = self.kept(row)
        return found is not None and found["status"] == "measured"

    def seconds(self, row: Row) -> float:
        iteration = SECONDS["of a pruner" if row.kind == "pruner" else "iteration"]
        return SECONDS["start"] + row.steps * iteration + SECONDS["export"] + SECONDS["audit"] * self.pictures / PICTURES

    def record(self) -> dict[str, Any]:
        """Every row of the registries, with its verdict."""
        found = []
        for row in rows():
            facts = {"id": row.id, "kind": row.kind, "label": row.label, "train": list(row.train)}
            cell = self.kept(row) or facts | {"status": "not measured", "reason": "not run yet"}
            test = reference_test(row, self.tests)
            found.append(cell | {"test": test, **verdict(cell, test)})
        settings = {"pictures": self.pictures, "probes": f"plain,{PROBES}"}
        versions = artifact.versions(*PACKAGES)
        return {"schema_version": SCHEMA_VERSION, "settings": settings, "versions": versions, "judge_sha256": judge.sha256(), "rows": found}

    def _cell(self, row: Row) -> Path:
        return self.work / "cells" / f"{row.id}.json"


def figures(export: Path, audit: Path) -> dict[str, Any]:
    """Parity and size of the export, and what the audit found. Raises: EdgeSafeError where one of them is not whole."""
    source = sources.describe(export)
    parity = (source.manifest.parity or {}) if source.manifest else {}
    worst = {part: facts["psnr_db"] for part, facts in parity.get("components", {}).items()}
    if not worst or "allowed_loss" in parity:
        raise EdgeSafeError(f"{export}: its parity with torch was not measured, or is below the gate")
    found = json.loads((audit / "audit.json").read_text(encoding="utf-8"))
    (leak,) = found["verdicts"]
    if leak["upper95_share"] is None:
        raise EdgeSafeError(f"{audit}: {leak['sentence']}")
    part, sizes = min(worst, key=lambda name: worst[name]), sources.sizes(source)
    plain = next(cell for cell in found["cells"] if cell["probe"] == "plain")
    if not all(row[who] for row in (plain, *found["kept"]) for who in ("export", "control")):
        raise EdgeSafeError(f"{audit}: {plain['reason'] or found['control']['failure'] or 'what is kept was not drawn'}")
    return {
        "parity": {"worst_db": round(worst[part], 1), "part": part, "gate_db": parity["gate_psnr_db"]},
        "size_mib": {"unet": round(sizes["unet"] / 2**20, 2), "whole": round(sum(sizes.values()) / 2**20, 2)},
        "leaks_at_most": leak["upper95_share"],
        "worst_probe": leak["worst_probe"],
        "plain": {who: plain[who]["leaked"] for who in ("export", "control")},
        "removed": {who: plain[who]["removed"] for who in ("export", "control")},
        "kept": {who: _right(found["kept"], who) for who in ("export", "control")},
        "probes": {cell["probe"]: cell["export"]["leaked"] if cell["export"] else cell["reason"] for cell in found["cells"]},
    }


def _right(rows: list[dict[str, Any]], who: str) -> dict[str, int]:
    """Pictures of what was not erased that show what was asked, of all of them."""
    rates = [row[who]["right"] for row in rows]
    return {key: sum(rate[key] for rate in rates) for key in ("numerator", "denominator")}


def verdict(cell: dict[str, Any], test: tuple[str, ...] | None) -> dict[str, Any]:
    """ "supported", or "experimental" with all that is missing."""
    missing = [] if test else ["no test file makes or names it"]
    if cell["status"] != "measured":
        missing.append(str(cell["reason"]))
    return {"verdict": "experimental" if missing else "supported", "missing": missing}


def listing(study: Study) -> str:
    """The chosen rows with their state, and how long the rest takes."""
    lines, left = [], [row for row in study.chosen if not study.finished(row)]
    for row in study.chosen:
        found = study.kept(row)
        state = found["status"] if found else "not measured"
        takes = f"about {study.seconds(row):.0f} s: " if row in left else ""
        lines.append(f"{row.id:26} {state:13} {takes}edgesafe {' '.join(row.train)}")
    minutes = sum(study.seconds(row) for row in left) / 60
    todo = f"{len(left)} of {len(study.chosen)} methods to run"
    lines.append(f"{todo}: about {minutes:.0f} min on one thread of a quiet machine; a second process takes half of it")
    return "\n".join(lines)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Study.work, show_default=True, help="Where everything is kept.")
@click.option("--docs", type=click.Path(path_type=Path), default=Path("docs"), show_default=True, help="Where methods.md goes.")
@click.option("--only", multiple=True, metavar="NAME", help="Methods whose name holds it: uce, esd-x, solver. May be repeated.")
@click.option("--pictures", default=PICTURES, show_default=True, metavar="N", help="Of the audit, a cell.")
@click.option("--threads", default=1, show_default=True, metavar="N", help="Of each process.")
@click.option("--dry-run", is_flag=True, help="Print what would be run and about how long that takes.")
@click.option("--table", "printed", is_flag=True, help="Write the table of what is there; run nothing.")
def main(work: Path, docs: Path, only: tuple[str, ...], pictures: int, threads: int, dry_run: bool, printed: bool) -> None:
    """Try every pruner, eraser and solver on the emoji model, and write down which of them are supported."""
    console = Console()
    try:
        study = Study(work, only=only, pictures=pictures, threads=threads)
        if dry_run:
            click.echo(listing(study))
            return
        if not printed:
            study.run(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True))
        record = study.record()
    except EdgeSafeError as error:
        raise click.ClickException(str(error)) from error
    artifact.write_whole(work / "methods.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    artifact.write_whole(docs / "methods.md", methods_table.markdown(record))
    console.print(f"{work / 'methods.json'}, {docs / 'methods.md'}", highlight=False)


if __name__ == "__main__":
    main()
