"""The rows of an audit's record, from what was drawn and seen; one for everything that was meant to be measured, failed or not."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import judging, looking
from .cells import attempt
from .gallery import Order
from .judging import PLAIN, SAME
from .leakage import Cell, Reading, kept, leakage
from .looking import Looked
from .probes import Probe

if TYPE_CHECKING:
    from .audit import Audit


def detector_rows(audit: "Audit") -> list[dict[str, Any]]:
    """One that could look at nothing at all has failed."""
    rows = []
    for name, judge in audit.judges:
        empty: dict[str, Any] = {"name": name, "sha256": None, "what": "", "threshold": None, "labels": [], "own_figures": []}
        facts = {"status": "failed", "reason": str(judge)} if isinstance(judge, Exception) else attempt(judge.facts)
        failures = [looked.failures[name] for looked in audit.looks.values() if name in looked.failures]
        if failures and not any(name in looked.readings for looked in audit.looks.values()):
            facts |= {"status": "failed", "reason": failures[0]}
        rows.append(empty | {key: facts[key] for key in (*empty, "status", "reason") if key in facts} | {"name": name})
    return rows


def probe_row(audit: "Audit", probe: Probe) -> dict[str, Any]:
    """Measured, if it was for one concept at least; each cell has its own state."""
    reasons = [reason for (name, _, role), reason in audit.failures.items() if (name, role) == (probe.name, "export")]
    drawn = any((name, role) == (probe.name, "export") for name, _, role in audit.looks)
    reason = None if drawn else reasons[0] if reasons else "nothing to ask"
    return {
        "name": probe.name,
        "attacker": probe.attacker,
        "what": probe.what,
        "source_of_method": probe.source_of_method,
        "settings": json.loads(json.dumps(probe.settings())),
        "status": "measured" if drawn else "failed",
        "reason": reason,
        "seconds": round(audit.seconds[probe.name], 1) if drawn else None,
    }


def cell_rows(audit: "Audit", detectors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each probe, concept and detector."""
    return [
        _cell_row(audit, probe, cell, detector)
        for probe in audit.probes
        for cell in audit.cells
        if cell.role == "erased"
        for detector in detectors
    ]


def _cell_row(audit: "Audit", probe: Probe, cell: Cell, detector: Mapping[str, Any]) -> dict[str, Any]:
    order, place, name = audit.orders.get((probe.name, cell.title)), (probe.name, cell.title), detector["name"]
    same = probe.control_asked == "same"
    ours = audit.looks.get((*place, "export"))
    its = audit.looks.get((*place, "control") if same else ("plain", cell.title, "control"))
    state = _state(detector, audit.failures.get((*place, "export")), ours)
    export = control = None
    if its and name in its.readings:
        control = leakage(its.cell, its.readings[name])
    if state["status"] == "measured" and ours:
        export = leakage(ours.cell, ours.readings[name], _beside(ours, its, name))
    asked = order.cell if order else cell
    concept = cell.concept
    return {
        "probe": probe.name,
        "attacker": probe.attacker,
        "concept": concept.name if concept else None,
        "kind": concept.kind if concept else None,
        "detector": name,
        **state,
        "drawn_by": order.runtime if order else None,
        "model": "export" if order is None or order.source == audit.exhibit.source else f"export, after {probe.name}",
        "found": _learned(order),
        "prompts": len({q.origin for q in asked.questions}),
        "export": export,
        "control": control,
        "control_is": SAME if same else PLAIN,
        "fall_points": looking.fall_points(export, control, "leaked"),
    }


def _state(detector: Mapping[str, Any], failure: str | None, looked: Looked | None) -> dict[str, Any]:
    reason = detector["reason"] if detector["status"] == "failed" else failure
    reason = reason or (looked.failures.get(detector["name"]) if looked else "it was not drawn")
    return {"status": "failed", "reason": reason} if reason else {"status": "measured", "reason": None}


def _beside(ours: Looked, its: Looked | None, detector: str) -> Sequence[Reading] | None:
    """The control's readings where they cluster by the same prompts: then they tell how alike pictures of one prompt are."""
    if its is None or [q.origin for q in ours.cell.questions] != [q.origin for q in its.cell.questions]:
        return None
    return its.readings.get(detector)


def _learned(order: Order | None) -> str | None:
    """What a probe that searches or learns says of it, None of the others."""
    if order is None:
        return None
    told = attempt(lambda: {"words": order.probe.found(order.target, order.plain)})
    return told.get("words") or None


def kept_rows(audit: "Audit") -> list[dict[str, Any]]:
    rows = []
    for cell in audit.cells:
        if cell.role == "erased":
            continue
        for name, _ in audit.judges:
            found: dict[str, Any] = {}
            for role in ("export", "control"):
                looked = audit.looks.get(("plain", cell.title, role))
                readings = looked.readings.get(name) if looked else None
                found[role] = kept(cell.questions, readings) if readings is not None else None
            facts: dict[str, Any] = {"cell": cell.role, "concept": cell.concept.name if cell.concept else None, "detector": name}
            facts["prompts"] = len({q.origin for q in cell.questions})
            rows.append(facts | found | {"fall_points": looking.fall_points(found["export"], found["control"], "right")})
    return rows


def quality_rows(audit: "Audit") -> list[dict[str, Any]]:
    rows = []
    for name, detector in audit.detectors.items():
        looked = {
            role: [audit.looks["plain", cell.title, role] for cell in audit.cells if cell.role != "erased"]
            for role in ("export", "control")
            if all(("plain", cell.title, role) in audit.looks for cell in audit.cells if cell.role != "erased")
        }
        looked = {role: cells for role, cells in looked.items() if cells}
        rows += looking.quality(name, detector, looked, audit.config.seed)
    return rows


def verdict_rows(
    audit: "Audit", detectors: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], control: str | None
) -> list[dict[str, Any]]:
    """For each concept and each detector that judged it; where none did, by the first, that nothing is known."""
    rows = []
    for concept in audit.exhibit.concepts:
        of = {d["name"]: [row for row in cells if (row["concept"], row["detector"]) == (concept.name, d["name"])] for d in detectors}
        judged = [d for d in detectors if any(row["status"] == "measured" for row in of[d["name"]])]
        rows += [judging.verdict(concept, d, of[d["name"]], control) for d in judged or detectors[:1]]
    return rows
