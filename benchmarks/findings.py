"""An audit's record, as audit.schema.json has it: a row for everything that was meant to be measured, failed or not."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from edgesafe import artifact

from . import judging
from .cells import attempt
from .exhibit import PACKAGES, Exhibit, now
from .judging import PLAIN, SAME, Looked
from .leakage import Cell, kept, leakage
from .probes import Probe
from .questions import is_emoji

if TYPE_CHECKING:
    from .audit import Audit

SCHEMA_VERSION = 1
AUDIT, PICTURES, SCHEMA = "audit.json", "pictures.jsonl", "audit.schema.json"
NAMED = 3  # cut prompts that are quoted


def why_not(exhibit: Exhibit) -> str | None:
    """Why a model cannot be audited at all."""
    if exhibit.source.manifest is None:
        return "no manifest.json tells what was erased from it. Audit a run or an export of edgesafe: edgesafe train, edgesafe export"
    if not exhibit.concepts:
        return "its manifest names no erased concept, so there is nothing to look for. Erase one: edgesafe train --erase"
    return None


def record(audit: "Audit", machine: Mapping[str, str]) -> dict[str, Any]:
    exhibit, config = audit.exhibit, audit.config
    rows = detector_rows(audit)
    cells = cell_rows(audit, rows)
    failure = control_failure(audit)
    found = {
        "schema_version": SCHEMA_VERSION,
        "created": now(),
        "artifact": {
            "name": exhibit.source.name,
            "target": exhibit.source.target,
            "sha256": exhibit.source.sha256,
            "concepts": [{"name": concept.name, "kind": concept.kind} for concept in exhibit.concepts],
        },
        "runtime": exhibit.runtime,
        "control": {
            "id": exhibit.control_id,
            "sha256": getattr(exhibit.control, "sha256", None),
            "runtime": None if isinstance(exhibit.control, Exception) else exhibit.control_runtime,
            "failure": failure,
        },
        "settings": {
            "steps": config.steps,
            "guidance": config.guidance,
            "sampler": config.sampler,
            "seed": config.seed,
            "pictures_per_cell": config.pictures,
            "threads": audit.threads,
        },
        "machine": dict(machine),
        "versions": artifact.versions(*PACKAGES),
        "detectors": rows,
        "probes": [probe_row(audit, probe) for probe in audit.probes],
        "cells": cells,
        "kept": kept_rows(audit),
        "quality": quality_rows(audit),
        "verdicts": verdicts(audit, rows, cells, failure),
        "pictures": PICTURES,
    }
    return found | {"limits": limits(audit, found)}


def shared(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of the model, the machine and the settings, as the audit has it."""
    return {key: found[key] for key in ("created", "machine", "versions", "settings", "control")} | {"schema_version": 2}


def write(folder: Path, found: dict[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """audit.json, checked against its schema, and pictures.jsonl."""
    check(found)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / PICTURES).write_text(text, encoding="utf-8")
    (folder / AUDIT).write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def check(found: Mapping[str, Any]) -> None:
    """Raises: jsonschema.ValidationError, which would be a bug here and not the user's."""
    schema = json.loads(files(__package__).joinpath(SCHEMA).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(found)


def detector_rows(audit: "Audit") -> list[dict[str, Any]]:
    """One that could look at nothing at all has failed."""
    rows = []
    for name, judge in audit.judges:
        empty = {"name": name, "sha256": None, "what": "", "threshold": None, "labels": [], "own_figures": []}
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
    state = {"status": "measured", "reason": None} if drawn else {"status": "failed", "reason": reasons[0] if reasons else "nothing to ask"}
    return {
        "name": probe.name,
        "attacker": probe.attacker,
        "what": probe.what,
        "source_of_method": probe.source_of_method,
        "settings": json.loads(json.dumps(probe.settings())),
        **state,
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
        "found": _learned(probe, order),
        "prompts": len({q.origin for q in asked.questions}),
        "export": export,
        "control": control,
        "control_is": SAME if same else PLAIN,
        "fall_points": judging.fall_points(export, control, "leaked"),
    }


def _state(detector: Mapping[str, Any], failure: str | None, looked: Looked | None) -> dict[str, Any]:
    reason = detector["reason"] if detector["status"] == "failed" else failure
    reason = reason or (looked.failures.get(detector["name"]) if looked else "it was not drawn")
    return {"status": "failed", "reason": reason} if reason else {"status": "measured", "reason": None}


def _beside(ours: Looked, its: Looked | None, detector: str) -> Sequence[Any] | None:
    """The control's readings where they cluster by the same prompts: then they tell how alike pictures of one prompt are."""
    if its is None or [q.origin for q in ours.cell.questions] != [q.origin for q in its.cell.questions]:
        return None
    return its.readings.get(detector)


def _learned(probe: Probe, order: Any) -> str | None:
    found = getattr(probe, "found", None)
    if found is None or order is None:
        return None
    told = attempt(lambda: {"words": found(order.target, order.plain)})
    return told.get("words")


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
            facts = {"cell": cell.role, "concept": cell.concept.name if cell.concept else None, "detector": name}
            facts |= {"prompts": len({q.origin for q in cell.questions})}
            rows.append(facts | found | {"fall_points": judging.fall_points(found["export"], found["control"], "right")})
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
        rows += judging.quality(name, detector, looked, audit.config.seed)
    return rows


def control_failure(audit: "Audit") -> str | None:
    if isinstance(audit.exhibit.control, Exception):
        return str(audit.exhibit.control)
    reasons = [reason for (_, _, role), reason in audit.failures.items() if role == "control"]
    drawn = any(role == "control" for _, _, role in audit.looks)
    return None if drawn or not reasons else reasons[0]


def verdicts(
    audit: "Audit", detectors: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], control: str | None
) -> list[dict[str, Any]]:
    """For each concept and each detector that judged it; where none did, by the first, that nothing is known."""
    rows = []
    for concept in audit.exhibit.concepts:
        of = {d["name"]: [row for row in cells if (row["concept"], row["detector"]) == (concept.name, d["name"])] for d in detectors}
        judged = [d for d in detectors if any(row["status"] == "measured" for row in of[d["name"]])]
        rows += [judging.verdict(concept, d, of[d["name"]], control) for d in judged or detectors[:1]]
    return rows


def limits(audit: "Audit", found: Mapping[str, Any]) -> list[str]:
    """What this audit does not show, in sentences."""
    said = []
    if is_emoji(audit.exhibit.source.manifest):
        said.append("These figures are of the small embedded emoji model. They establish nothing about a Stable Diffusion model.")
    said.append(
        "An upper limit is that of a 95 % interval for prompts like the ones asked: the largest of Wilson's, a bootstrap over whole prompts, "
        "and Wilson's at the effective number of pictures."
    )
    said += _cut(audit)
    if failed := [row["name"] for row in found["detectors"] if row["status"] == "failed"]:
        said.append(f"Detectors that could not judge: {', '.join(failed)}.")
    made = sorted({row["probe"] for row in found["cells"] if row["status"] == "measured" and row["model"] != "export"})
    if made:
        said.append(f"{', '.join(made)}: drawn from torch weights that were worked on, not from the exported files themselves.")
    plain = sorted({row["probe"] for row in found["cells"] if row["status"] == "measured" and row["control_is"] == PLAIN})
    if plain:
        said.append(f"{', '.join(plain)}: the control's figures beside them are those of the plain prompts.")
    return said


def _cut(audit: "Audit") -> list[str]:
    """Prompts that are longer than the text encoder reads."""
    prompts = list(dict.fromkeys(q.prompt for order in audit.orders.values() for q in order.cell.questions))
    source, runtime = audit.exhibit.source, audit.exhibit.runtime
    if not prompts or runtime is None:
        return []

    def find() -> dict[str, Any]:
        model = audit.gallery.model(source, runtime)
        return {"ends": {prompt: end for prompt in prompts if (end := model.words_cut(prompt))}}

    found = attempt(find)
    if found["status"] == "failed":
        return [f"Whether a prompt is longer than the text encoder reads could not be looked up: {found['reason']}."]
    ends = found["ends"]
    if not ends:
        return []
    quoted = "; ".join(f"“{prompt[:60]}” is read without “{end[:60]}”" for prompt, end in list(ends.items())[:NAMED])
    more = f"; and {len(ends) - NAMED} more" if len(ends) > NAMED else ""
    return [f"{len(ends)} of {len(prompts)} prompts are longer than the text encoder reads, and their ends were not asked: {quoted}{more}."]
