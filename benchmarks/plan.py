"""`edgesafe audit --dry-run`: what would be asked, of which model, how much of it is drawn already, and about how long the rest takes."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from . import audit, exhibit
from .audit import Audit, AuditConfig
from .cells import attempt
from .gallery import Order
from .leakage import Cell
from .probes import Probe

LONG = 2.0  # seconds a picture, from which on one is timed and not a whole batch


@dataclass(frozen=True)
class Row:
    probe: str
    cell: str
    model: str  # "export" | "control" | "base"
    pictures: int
    missing: int | None  # None: the questions are known only when the probe has searched or learned
    reason: str | None  # why it cannot be tried


def show(config: AuditConfig, console: Console, root: Path = Path("runs")) -> None:
    """Print the plan. Draws a few pictures to time them, and keeps none."""
    found = audit.open_exhibit(config, console, root)
    out = config.out or exhibit.beside(found.source, root, "audit")
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    planned = Audit(config, found, threads, out.parent / ".cache")
    rows = list(of(planned))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("probe", "cell", "model", "pictures", "still to draw"):
        table.add_column(name, justify="right" if name in ("pictures", "still to draw") else "left")
    for row in rows:
        todo = (row.reason and "cannot be tried") or ("all" if row.missing is None else str(row.missing))
        table.add_row(row.probe, row.cell, row.model, str(row.pictures), todo)
    console.print(table)
    for probe, reason in {row.probe: row.reason for row in rows if row.reason}.items():
        console.print(f"{probe}: {reason}", highlight=False, markup=False, soft_wrap=True)
    judges = ", ".join(name if name in planned.detectors else f"{name} (cannot be used: {why})" for name, why in planned.judges)
    console.print(f"Detectors: {judges}. The audit goes to {out}", highlight=False, markup=False, soft_wrap=True)
    console.print(estimate(planned, rows), highlight=False, markup=False, soft_wrap=True)


def of(planned: Audit) -> list[Row]:
    rows = []
    for probe, cell, model, pictures in planned.plan():
        reason = None if model == "base" else probe.why_not(planned.target(probe))
        missing = pictures if reason else _missing(planned, probe, cell, model)
        rows.append(Row(probe.name, cell.title, model, pictures, missing, reason))
    return rows


def estimate(planned: Audit, rows: list[Row]) -> str:
    """One sentence, from pictures timed now."""
    todo: dict[str, int] = {}
    for row in rows:
        if not row.reason:
            todo[row.model] = todo.get(row.model, 0) + (row.pictures if row.missing is None else row.missing)
    rates = {model: attempt(lambda model=model: {"seconds": _timed(planned, model)}) for model, n in todo.items() if n}  # type: ignore[misc]
    if failed := {model: found["reason"] for model, found in rates.items() if found["status"] == "failed"}:
        return f"How long it takes is not known: {'; '.join(f'{model}: {reason}' for model, reason in failed.items())}"
    if not rates:
        return "Every picture is there already; only the detectors have to look again"
    seconds = sum(todo[model] * found["seconds"] for model, found in rates.items())
    said = ", ".join(f"{todo[model]} by the {model} at {found['seconds']:.2g} s" for model, found in rates.items())
    return f"About {_words(seconds)} for {said} a picture on {planned.threads} threads, without what probes need to search and to learn"


def _missing(planned: Audit, probe: Probe, cell: Cell, model: str) -> int | None:
    if type(probe).questions is not Probe.questions or type(probe).model is not Probe.model:
        return None  # asking would begin the search
    found = attempt(lambda: {"order": _order(planned, probe, cell, model)})
    return planned.gallery.missing(found["order"]) if found["status"] == "measured" else len(cell.questions)


def _order(planned: Audit, probe: Probe, cell: Cell, model: str) -> Order:
    if model == "base":
        return planned.of_base(cell)
    order = planned.order(probe, cell)
    return planned.of_control(order) if model == "control" else order


def _timed(planned: Audit, model: str) -> float:
    """Seconds a picture: of one, or where that is quick of a whole batch."""
    plain, cell = planned.probes[0], planned.cells[0]
    order = _order(planned, plain, cell, model)
    runtime = planned.gallery.model(order.source, order.runtime)

    def clock(n: int) -> float:
        begun = time.perf_counter()
        plain.draw(runtime, order.target, cell, order.cell.questions[:n])
        return (time.perf_counter() - begun) / len(order.cell.questions[:n])

    alone = clock(1)
    if alone > LONG:
        return alone
    clock(planned.drawing.batch)  # the first batch also prepares the runtime for its size
    return clock(planned.drawing.batch)


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
