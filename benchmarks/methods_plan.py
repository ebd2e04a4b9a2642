"""What benchmarks/methods.py shows of every pruner, eraser and solver: a row each, made from the registries, with its commands.

A row's run is a short one on the emoji model. Where an eraser or a solver is shown, "neon" is erased from the packaged student; where a
pruner is, the packaged teacher is pruned and distilled, and UCE erases "neon" at the end, for a model that erased nothing has nothing
to audit. A method's reference test is the test file of its registry's kind that makes the method, `ESD(...)`, or names it, "esd".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from inspect import getfile
from pathlib import Path

from edgesafe.erasers import CLOSED_FORM, ERASERS, ESD, ClosedForm
from edgesafe.erasers.parameters import SUBSETS
from edgesafe.pruners import PRUNERS
from edgesafe.pruners.scores import SCORES
from edgesafe.solvers import SOLVERS

KINDS = ("pruner", "eraser", "solver")
STEPS, BATCH = 150, 16
MACS = 0.7  # share of the teacher's arithmetic that stays, of pruners with a target
PROBES = "paraphrase,noise,completion"  # beside the plain one
PICTURES = 24  # a cell
GIVEN: tuple[str, ...] = ("--student", "emoji:student", "--teacher", "emoji:teacher")
PRUNED: tuple[str, ...] = ("--model", "emoji:teacher", "--eraser", "uce", "--set", "rate=6e-4")
SHARED: tuple[str, ...] = (
    "--erase", "neon", "--batch", str(BATCH), "--seed", "0", "--set", f"erase_batch={BATCH}", "--set", "bank=512",
    "--set", "concept_bank=256", "--set", "preview_every=1000",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    kind: str  # "pruner" | "eraser" | "solver"
    name: str  # as the command line has it
    method: type  # the dataclass behind it
    options: tuple[str, ...]  # of edgesafe train
    steps: int = STEPS
    part: tuple[str, type | None] | None = None  # a score or a subset of the method: its name, and its class, if it has one

    @property
    def id(self) -> str:
        return "-".join((self.kind, self.name, *(self.part or ())[:1]))

    @property
    def label(self) -> str:
        return f"{self.name}, {self.part[0]}" if self.part else self.name

    @property
    def train(self) -> tuple[str, ...]:
        return ("train", *self.options, "--steps", str(self.steps), *SHARED)

    @property
    def classes(self) -> dict[str, type]:
        """What has to be tested: registered name -> class."""
        part = {self.part[0]: self.part[1]} if self.part and self.part[1] else {}
        return {self.name: self.method} | part

    @property
    def files(self) -> tuple[Path, ...]:
        """That define it: where one changes, the row is measured anew."""
        return tuple(Path(getfile(cls)) for cls in self.classes.values())


def rows() -> Iterator[Row]:
    for name, pruner in PRUNERS.items():
        known = {f.name for f in fields(pruner)}
        target = ("--macs", str(MACS)) if "macs" in known else ()
        options: tuple[str, ...] = (*PRUNED, "--prune", name, *target)
        if "score" not in known:
            yield Row("pruner", name, type(pruner), options)
            continue
        for score, scorer in SCORES.items():
            yield Row("pruner", name, type(pruner), (*options, "--score", score), part=(score, type(scorer)))
    for name, eraser in (ERASERS | CLOSED_FORM).items():
        options = (*GIVEN, "--eraser", name)
        if issubclass(eraser, ClosedForm):
            yield Row("eraser", name, eraser, options, steps=0)
            continue
        options = (*options, "--set", "eraser.frozen=student")
        if eraser is not ESD:
            yield Row("eraser", name, eraser, options)
            continue
        for subset in SUBSETS:
            yield Row("eraser", name, eraser, (*options, "--set", f"eraser.parameters={subset}"), part=(subset, None))
    for name, solver in SOLVERS.items():
        known = {f.name for f in fields(solver)}
        inner = ("--inner-steps", "2") if "inner_steps" in known else ()
        trained = "esd" if known else "uce"  # a solver without options only distils
        yield Row("solver", name, solver, (*GIVEN, "--solver", name, "--eraser", trained, *inner))


def reference_test(row: Row, tests: Path) -> tuple[str, ...] | None:
    """The test files of what the row shows; None where one of its classes has none."""
    found: dict[str, None] = {}
    for name, cls in row.classes.items():
        own = f"test_{Path(getfile(cls)).stem}"
        files = sorted((tests / f"{row.kind}s").glob("test_*.py"), key=lambda path: (path.stem != own, path.name))
        used = re.compile(rf'\b{cls.__name__}\(|"{re.escape(name)}"')
        file = next((path for path in files if used.search(path.read_text(encoding="utf-8"))), None)
        if file is None:
            return None
        found[f"{row.kind}s/{file.name}"] = None
    return tuple(found)
