"""`edgesafe verify`: an export that was sealed, checked again from its files alone against the model that it was made from.

1. every file against the sha256 in the manifest    2. the model found again, and its weights the same ones
3. each part, whole pictures and the tokenizer against torch, as at the export's own end    4. what is below the gate

Nothing in the export is written to.
"""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe import artifact, fingerprint, model
from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import gate, parity, source, table
from .config import GATE_DB, ExportConfig
from .job import Job
from .run import kind_of, measure, plan, record
from .watch import Watch

MARGIN_DB = 1.0  # by how much another machine's arithmetic may lower a loss that was allowed


@dataclass(frozen=True)
class VerifyConfig:
    export: Path | None = None  # the newest finished one
    model: str | None = None  # where the model is; as the manifest says
    json: Path | None = None  # file for the result
    parity_steps: int | None = None  # as the export did
    gate_db: float | None = None


def verify(config: VerifyConfig, console: Console | None = None) -> dict[str, Any]:
    """The result, also written to `json`. Raises: EdgeSafeError with the reason, where anything is not as it should be."""
    console = console or Console()
    folder = Path(config.export) if config.export else artifact.newest("export")
    if config.json and Path(config.json).resolve().is_relative_to(folder.resolve()):
        raise EdgeSafeError(f"--json {config.json} lies in the export, which stays as it was sealed. Give another place")
    result: dict[str, Any] = {"export": str(folder), "passed": False}
    try:
        table.say(console, f"Verifying {folder}{'' if config.export else ' (the newest finished export)'}")
        _check(config, folder, result, console)
        result["passed"] = True
    except EdgeSafeError as error:
        result["reason"] = str(error)
        raise
    finally:
        if config.json:
            Path(config.json).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table.say(console, f"Passed: {folder} computes what {result['source']} computes")
    return result


def _check(config: VerifyConfig, folder: Path, result: dict[str, Any], console: Console) -> None:
    with Watch(console) as at:
        at.begin("reading and hashing every file")
        manifest = artifact.read(folder)
        if manifest.kind != "export":
            raise EdgeSafeError(f"{folder}: this is a {manifest.kind}, not an export. Make one from it: edgesafe export {folder}")
        if not fingerprint.intact((folder / artifact.MANIFEST).read_bytes()):
            raise EdgeSafeError(f"{folder / artifact.MANIFEST}: its text was changed, or an older EdgeSafe wrote it. Export again")
        result |= {"manifest_sha256": artifact.sha256(folder / artifact.MANIFEST), "files": len(manifest.files)}
        result["extra_files"] = artifact.extra(folder, manifest)
        for name in result["extra_files"]:
            table.say(console, f"Note: {name} is not listed in {artifact.MANIFEST}: it was added after the export was sealed")
        at.begin("finding the model that the export was made from")
        loaded = _model(config.model, folder, manifest)
        result["source"] = str(loaded.source)
        target = plan(kind_of((manifest.target or {}).get("name", "")), _asked(manifest), loaded)
        before = manifest.parity or {}
        steps = config.parity_steps or before.get("steps", parity.STEPS)
        prompts = tuple(before.get("prompts", ()))
        job = Job(loaded, record(target, loaded, prompts, steps, at), None)
        measured = measure(target, job, folder, at)
    result["parity"] = measured
    gate_db = before.get("gate_psnr_db", GATE_DB) if config.gate_db is None else config.gate_db
    measured["gate_psnr_db"] = gate_db
    low = gate.below(measured, gate_db)
    allowed = before.get("allowed_loss")
    if allowed and low:
        measured["allowed_loss"] = allowed
    table.show(target, folder, measured, console)
    _judge(folder, low, gate_db, allowed)


def _judge(folder: Path, low: dict[str, float], gate_db: float, allowed: dict[str, Any] | None) -> None:
    """Raises EdgeSafeError for each part below the gate that was not allowed to be, or that lost more since."""
    known = (allowed or {}).get("psnr_db", {})
    failing = {part: psnr_db for part, psnr_db in low.items() if psnr_db < known.get(part, gate_db + MARGIN_DB) - MARGIN_DB}
    if failing:
        was = "".join(f", but {part} was allowed {known[part]:.1f} dB" for part in failing if part in known)
        needed = f"at least {gate_db:g} dB is needed{was}"
        raise EdgeSafeError(f"{folder} does not compute what its model computes: {gate.decibels(failing)}; {needed}. Export again")


def _asked(manifest: Manifest) -> ExportConfig:
    """What the export was asked for, from its own step of the manifest."""
    names = {field.name for field in fields(ExportConfig)} - {"out", "force", "source"}
    return ExportConfig(**{name: value for name, value in manifest.steps[-1].config.items() if name in names})


def _model(given: str | None, folder: Path, manifest: Manifest) -> TextToImage:
    """The model at --model, or where the manifest says. Raises: EdgeSafeError where it is not there, or holds other weights."""
    made_from = (manifest.target or {}).get("made_from")
    if made_from is None:
        raise EdgeSafeError(f"{folder}: its manifest does not say what model it was made from: an older EdgeSafe wrote it. Export again")
    beside = [os.path.normpath(folder / made_from["beside"])] if made_from["beside"] else []
    places = [given] if given else [*beside, made_from["source"]]
    loaded, missing = None, []
    for place in places:
        try:
            loaded = model.load(place)
            break
        except EdgeSafeError as error:
            missing.append(str(error))
    if loaded is None:
        where = "" if given else " Give the place where it is now with --model"
        raise EdgeSafeError(f"the model that {folder} was made from is not there: {'; '.join(missing)}.{where}")
    found = source.weights(loaded)
    other = [part for part, hashes in made_from["weights"].items() if found.get(part) != hashes]
    if other:
        raise EdgeSafeError(f"{loaded.source}: its {' and '.join(other)} weights are not those that {folder} was made from. Give --model")
    return loaded
