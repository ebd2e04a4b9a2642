"""The paper table's search: every row's candidates on the tuning concepts, by successive halving, and what was chosen, frozen.

Test concepts are measured with what frozen.json says. `freeze` adds the rows whose search is done, and never changes one that is there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesafe import artifact
from edgesafe.errors import EdgeSafeError

from . import paper_plan, paper_scores
from .paper_cells import Cells
from .paper_models import Cell
from .paper_plan import DRAWN, FINALISTS, ROWS, SHARED, TUNING
from .paper_scores import Verdict
from .survival_models import claim, digest


@dataclass
class Search(Cells):
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
        (best,) = paper_scores.best(verdicts, 1)
        return {
            "candidate": best,
            "settings": dict(ROWS[row].candidates[best]),
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
                text = json.dumps({"criterion": criterion, "rows": rows | new}, indent=1, ensure_ascii=False)
                artifact.write_whole(self._frozen, text + "\n")
            return list(new)


def plan_digest(row: str) -> str:
    """Of what the search of a row depends on."""
    found, limits = ROWS[row], [paper_plan.FID_LIMIT, paper_plan.ACCURACY_LIMIT, paper_plan.BROKEN_LIMIT, paper_plan.PENALTY, FINALISTS]
    sizes, topics = vars(DRAWN["tuning"]), [vars(topic) for topic in TUNING]
    return digest([found.start, found.steps, SHARED, found.shared, found.candidates, limits, sizes, topics])


def _listed(found: Mapping[str, list[Verdict]]) -> dict[str, Any]:
    names = ("similarity_normalised", "fid_ratio", "accuracy_loss", "broken_more")
    means = {name: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return {
        name: dict(zip(names, (round(x, 4) for x in values), strict=True)) | {"loss": round(paper_scores.loss(*values)[1], 4)}
        for name, values in means.items()
    }
