"""`edgesafe export`: from a run or a model to a folder that a device's own tools load, checked before it appears.

The folder is written beside its place and moved there when all of it is written, read again, compared with torch and sealed; whatever
goes wrong before that leaves nothing. In order:

    plan       from the model's configs alone: what cannot be done is refused here
    record     what torch's parts get and give while pictures are drawn
    write      every part, uncompressed
    compress   the parts whose weights are to be narrowed
    measure    every part on the recorded inputs, whole pictures, the tokenizer
    gate       refuse what is below the lowest parity, and say which width passes
    seal
"""

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe import artifact, model
from edgesafe.artifact import Step
from edgesafe.errors import EdgeSafeError

from . import gate, parity, source, table, tokens, watch
from .config import ExportConfig
from .coreml import CoreML
from .job import Job
from .onnx import Onnx
from .openvino import OpenVINO
from .target import Target, files
from .watch import Watch

TARGETS: dict[str, type[Target]] = {"onnx": Onnx, "coreml": CoreML, "openvino": OpenVINO}


def run(config: ExportConfig, console: Console | None = None) -> Path:
    """Export as asked; returns the new folder. Raises: EdgeSafeError, and then there is no new folder."""
    console = console or Console()
    kind = kind_of(config.target)
    origin = source.find(config.source)
    target = plan(kind, config, model.sketch(origin.label))
    form = kind.name, target.precision, *([target.compression.name] if target.compression else [])
    newest = "" if config.source else " (the newest finished run)"
    table.say(console, f"Exporting {origin.label}{newest} to {', '.join(form)}")
    out = Path(config.out) if config.out else origin.place(*form)
    killed = watch.killed(artifact.unfinished(out))
    with artifact.staged(out, config.force) as folder, Watch(console, folder) as at:
        if killed:
            table.say(console, f"Note: the export into {out} before this one was killed while {killed}; what it left is removed")
        at.begin("reading the model")
        loaded = model.load(origin.label)
        for note in target.notes(loaded):
            table.say(console, f"Note: {note}")
        job = Job(loaded, record(target, loaded, origin.prompts, config.parity_steps, at), origin.control())
        facts = _write(target, job, folder, at)
        measured = measure(target, job, folder, at)
        table.show(target, folder, measured, console)
        _gate(target, job, folder, measured, config, at, console)
        for name in (gate.WIDE, gate.TRIAL):
            shutil.rmtree(folder / name, ignore_errors=True)
        at.begin("finishing")
        getattr(target, "finish", lambda _: None)(folder)
        at.begin("sealing")
        before = origin.manifest(loaded)
        asked = asdict(config) | {"source": origin.label, "precision": target.precision, "out": out.name}
        step = Step("export", kind.name, asked, parity.SEED, artifact.versions(*kind.packages))
        facts = {"name": kind.name, "precision": target.precision, **target.facts(loaded), **facts, "made_from": origin.record(loaded, out)}
        sealed = replace(before, kind="export", steps=(*before.steps, step), target=facts, parity=measured, audit="unmeasured")
        artifact.seal(folder, sealed, exclude=(watch.DOING,))
    table.say(console, f"Export: {out}")
    return out


def kind_of(target: str) -> type[Target]:
    if target not in TARGETS:
        raise EdgeSafeError(f"--target {target!r} is not known; known: {', '.join(TARGETS)}")
    return TARGETS[target]


def plan(kind: type[Target], config: ExportConfig, loaded: model.TextToImage) -> Target:
    """Raises: EdgeSafeError for what the target cannot do, also for a compression that it would leave out."""
    target = kind.plan(config, loaded)
    asked = config.compression()
    if asked != target.compression:
        raise EdgeSafeError(f"{gate.flag(asked)} is not for --target {kind.name}: its weights stay as they are. Leave it out")
    return target


def measure(target: Target, job: Job, folder: Path, at: Watch) -> dict[str, Any]:
    """The manifest's `parity` of what lies in `folder`: by the runtime that stands for the target here, and by the system's own."""
    at.begin("opening the files again")
    parts = target.open(folder)
    if isinstance(parts, str):
        measured: dict[str, Any] = {"measured": False, "reason": parts}
    else:
        measured = _compare(job, parts, target, "the export", at)
        native = getattr(target, "open_native", lambda _: None)(folder)
        if native is not None:
            rows = _compare(job, native, target, "the system's own runtime", at)
            measured["native"] = {key: rows[key] for key in ("components", "picture")} | {"proves": "run by the system's own runtime"}
    at.begin("comparing token ids")
    measured["tokenizer"] = tokens.compare(folder, job.model)
    return measured


def record(target: Target, loaded: model.TextToImage, prompts: tuple[str, ...], steps: int, at: Watch) -> parity.Recording:
    at.begin("drawing with torch", steps, ", then twice as many steps with the export; --parity-steps N for fewer")
    return parity.record(loaded, prompts or parity.PROMPTS, target.height, target.width, at.advance, steps)


def _write(target: Target, job: Job, folder: Path, at: Watch) -> dict[str, Any]:
    """All files of the export; facts of the compression for the manifest's `target`."""
    target.write(job.model, folder, lambda part: at.begin(f"writing {part}"), job.recording)
    if target.compression is None:
        return {}
    wide, facts = folder / gate.WIDE, {}
    for part in target.narrowed:
        for name in files(target, part):
            (wide / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder / name, wide / name)
        facts[part] = gate.compress(target, part, folder, wide, target.compression, job, at, "compressing")
    return {"compression": asdict(target.compression) | {"name": target.compression.name, "parts": facts}}


def _compare(job: Job, parts: parity.Parts, target: Target, what: str, at: Watch) -> dict[str, Any]:
    at.begin(f"comparing {what} with torch, then drawing with it", 2 * job.recording.steps)
    measured = parity.measure(job.model, job.recording, parts, target.parts, at.advance)
    proves = getattr(parts, "proves", None)
    return measured | ({"proves": proves} if proves else {})


def _gate(target: Target, job: Job, folder: Path, measured: dict[str, Any], config: ExportConfig, at: Watch, console: Console) -> None:
    """Raises EdgeSafeError below the gate, unless the loss is allowed; then it is written into `measured`."""
    measured["gate_psnr_db"] = config.gate_db
    low = gate.below(measured, config.gate_db)
    if low and config.allow_loss is None:
        passing = gate.narrowest(target, folder, low, job, config.gate_db, at)
        raise EdgeSafeError(gate.refusal(low, config.gate_db, target, passing))
    if low:
        measured["allowed_loss"] = {"reason": config.allow_loss, "gate_db": config.gate_db, "psnr_db": low}
        table.say(console, f"Allowed below {config.gate_db:g} dB: {gate.decibels(low)}. Reason given: {config.allow_loss}")
