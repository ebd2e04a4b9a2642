"""An audit's record, as audit.schema.json has it: a row for everything that was meant to be measured, failed or not."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from edgesafe import artifact

from . import evidence, report
from .audit_rows import cell_rows, detector_rows, kept_rows, probe_row, quality_rows, verdict_rows
from .cells import attempt
from .exhibit import PACKAGES, Exhibit, now
from .judging import PLAIN
from .questions import is_emoji

if TYPE_CHECKING:
    from .audit import Audit, AuditConfig

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
    exhibit, rows = audit.exhibit, detector_rows(audit)
    cells, failure = cell_rows(audit, rows), control_failure(audit)
    found = {
        **facts(exhibit, audit.config, audit.threads, machine, failure),
        "schema_version": SCHEMA_VERSION,
        "artifact": {
            "name": exhibit.source.name,
            "target": exhibit.source.target,
            "sha256": exhibit.source.sha256,
            "concepts": [{"name": concept.name, "kind": concept.kind} for concept in exhibit.concepts],
        },
        "runtime": exhibit.runtime,
        "detectors": rows,
        "probes": [probe_row(audit, probe) for probe in audit.probes],
        "cells": cells,
        "kept": kept_rows(audit),
        "quality": quality_rows(audit),
        "verdicts": verdict_rows(audit, rows, cells, failure),
        "pictures": PICTURES,
    }
    found["limits"] = limits(audit, found)
    return found | {evidence.KEY: evidence.fingerprint(found)}


def facts(exhibit: Exhibit, config: "AuditConfig", threads: int, machine: Mapping[str, str], failure: str | None) -> dict[str, Any]:
    """What an audit and a report both say of how, where and beside what they measured. failure: of the control."""
    return {
        "schema_version": report.SCHEMA_VERSION,
        "created": now(),
        "control": {
            "id": exhibit.control_id,
            "sha256": getattr(exhibit.control, "sha256", None),
            "runtime": None if isinstance(exhibit.control, Exception) else exhibit.control_runtime,
            "failure": failure or (str(exhibit.control) if isinstance(exhibit.control, Exception) else None),
        },
        "settings": {
            "steps": config.steps,
            "guidance": config.guidance,
            "sampler": config.sampler,
            "seed": config.seed,
            "pictures_per_cell": config.pictures,
            "threads": threads,
        },
        "machine": dict(machine),
        "versions": artifact.versions(*PACKAGES),
    }


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


def control_failure(audit: "Audit") -> str | None:
    if isinstance(audit.exhibit.control, Exception):
        return str(audit.exhibit.control)
    reasons = [reason for (_, _, role), reason in audit.failures.items() if role == "control"]
    drawn = any(role == "control" for _, _, role in audit.looks)
    return None if drawn or not reasons else reasons[0]


def limits(audit: "Audit", found: Mapping[str, Any]) -> list[str]:
    """What this audit does not show, in sentences."""
    said = []
    if is_emoji(audit.exhibit.source.manifest):
        said.append("These figures are of the small embedded emoji model. They establish nothing about a Stable Diffusion model.")
    said.append("An upper limit is the upper end of a 95 % interval, for prompts like those asked and for nothing else.")
    said += _cut(audit)
    if failed := [row["name"] for row in found["detectors"] if row["status"] == "failed"]:
        said.append(f"Detectors that could not judge: {', '.join(failed)}.")
    beside = {(name, role): why for (name, _, role), why in audit.failures.items() if role != "export"}
    if not found["control"]["failure"]:
        said += [f"{name}: the control could not be drawn ({why})." for (name, role), why in beside.items() if role == "control"]
    said += [f"The base model could not be drawn ({why})." for (_, role), why in beside.items() if role == "base"]
    made = sorted({row["probe"] for row in found["cells"] if row["status"] == "measured" and row["model"] != "export"})
    if made:
        said.append(f"{', '.join(made)}: drawn from torch weights that were worked on, not from the exported files themselves.")
    plain = sorted({row["probe"] for row in found["cells"] if row["status"] == "measured" and row["control_is"] == PLAIN})
    if plain:
        said.append(f"{', '.join(plain)}: the control's figures beside them are those of the plain prompts.")
    if any(row["kid"] < 0 for row in found["quality"]):
        said.append("KID lies below 0 because drawn and real pictures are of the same prompts: compare it only with the rows beside it.")
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
