"""The paper table's study: which cells each stage has, and who makes them.

A stopped study goes on where it was, and one started twice shares the work. Test cells exist only for rows whose search is frozen.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgesafe.erasers import CLOSED_FORM, ERASERS
from edgesafe.errors import EdgeSafeError
from edgesafe.solvers import SOLVERS

from .paper_models import Cell
from .paper_plan import CAPTIONS, HARDER, LEARNED, ROWS, SWITCHED, TEST, TUNING, Row
from .paper_search import Search
from .survival_models import claim

STAGES = ("tuning", "test", "harder", "captions")
METHODS = {"solver": SOLVERS, "eraser": ERASERS | CLOSED_FORM}
SECONDS = {"picture": 0.12, "learned": 60.0}  # of one core
WAIT = 2.0  # seconds between looks at what another process makes


@dataclass
class Study(Search):
    tied: frozenset[str] = frozenset()  # rows that plain prompts cannot tell apart, of which the slow probe is asked too

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

    def run(self, stage: str, tell: Callable[[str], None]) -> None:
        """Make what is not there yet; with other processes at it, each makes what no other is making."""
        while todo := [cell for cell in self.cells(stage) if not self.settled(cell)]:
            for cell in todo:
                with claim(self.file(cell).with_suffix(".lock"), wait=False) as mine:
                    if mine and not self.settled(cell):
                        start = time.perf_counter()
                        facts = self.make(cell)
                        said = "" if facts["status"] == "measured" else f": {facts['status']}, {facts['reason']}"
                        tell(f"{cell.id}{said} ({time.perf_counter() - start:.0f} s, {len(todo) - 1} left)")
                        break
            else:
                time.sleep(WAIT)

    def seconds(self, cell: Cell, counted: set[str]) -> float:
        """An estimate, of what is not there yet; `counted` are keys of trainings that other cells wait for as well."""
        training, pictures = self.training(cell), sum(vars(self.sizes(cell.stage)).values())
        chain = [t for t in (training, training.start if training else None) if t and t.key not in counted and not self.there(t)]
        counted.update(t.key for t in chain)
        learned = SECONDS["learned"] if cell.probe == LEARNED else 0.0
        return sum(t.seconds for t in chain) + pictures * SECONDS["picture"] + learned


def missing(row: Row) -> str | None:
    """Why a row cannot be measured by this installation."""
    if row.needs and row.needs[1] not in METHODS[row.needs[0]]:
        return f"{row.needs[0]} {row.needs[1]!r} is not in this installation"
    return None if row.candidates or row.kind == "reference" else "it has no candidates in paper_plan.py"
