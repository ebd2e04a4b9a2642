"""The lowest parity that an export may have, and which number of bits would reach it.

A part is below the gate when its worst PSNR is, by the runtime that stands for it here or by the system's own.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import parity
from .compression import Compression
from .job import Job
from .target import Target, files
from .watch import Watch

WIDE, TRIAL = ".wide", ".trial"  # folders in the unfinished export: the uncompressed parts, and one width tried
Passing = tuple[Compression, dict[str, float]]  # a width, and each part's dB with it


def below(measured: Mapping[str, Any], gate_db: float) -> dict[str, float]:
    """Part -> PSNR in dB of those under the gate."""
    low: dict[str, float] = {}
    for rows in (measured, measured.get("native", {})):
        for part, row in rows.get("components", {}).items():
            if row["psnr_db"] < min(gate_db, low.get(part, gate_db)):
                low[part] = row["psnr_db"]
    return low


def narrowest(target: Target, folder: Path, low: Mapping[str, float], job: Job, gate_db: float, watch: Watch) -> Passing | None:
    """Compress the parts in `low` anew at each wider width, narrowest first, until all of them pass.

    Works in `folder`/.trial, on hard links of what stays as it is. None: nothing wider passes, or a part fails that is not compressed.
    """
    if not target.compression or not set(low) <= set(target.narrowed):
        return None
    trial, again = folder / TRIAL, [name for part in low for name in files(target, part)]
    for width in target.wider(target.compression):
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(folder, trial, copy_function=os.link, ignore=_leaving(folder, again))
        for part in low:
            compress(target, part, trial, folder / WIDE, width, job, watch, f"trying {width.name} for")
        watch.begin(f"comparing {', '.join(low)} at {width.name}", job.recording.steps)
        parts = target.open(trial)
        if isinstance(parts, str):
            return None
        rows = parity.components(job.recording, parts, tuple(low), watch.advance)
        found = {part: row["psnr_db"] for part, row in rows.items()}
        if min(found.values()) >= gate_db:
            return width, found
    return None


def compress(target: Target, part: str, folder: Path, wide: Path, width: Compression, job: Job, watch: Watch, doing: str) -> dict[str, Any]:
    """Narrow a part's files from `wide` into `folder`; the target's facts, by file where a part has several."""
    facts = {}
    for name in files(target, part):
        watch.begin(f"{doing} {part}" if name == target.files(part) else f"{doing} {name}")
        facts[name] = target.compress(part, wide / name, folder / name, width, job, watch.to)
    return facts if len(facts) > 1 else next(iter(facts.values()))


def refusal(low: Mapping[str, float], gate_db: float, target: Target, passing: Passing | None) -> str:
    """What was found, what is needed, what would pass and what to do."""
    needed = f"and at least {gate_db:g} dB is needed. Nothing was written"
    text = f"the exported files do not compute what torch computes: {decibels(low)}, {needed}"
    if passing:
        advice = f"The narrowest that passes: {flag(passing[0])} ({decibels(passing[1])})"
    elif target.compression and set(low) <= set(target.narrowed):
        advice = f"Nothing wider that this target knows passes: leave out {flag(target.compression)}"
    else:
        fault = "It is in fp32 already, so this is a fault of EdgeSafe: please report it with the table above"
        advice = fault if target.precision == "fp32" else "Try --precision fp32"
    return f'{text}. {advice}. To keep it all the same: --allow-loss "the reason"'


def decibels(low: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {psnr_db:.1f} dB" for part, psnr_db in low.items())


def flag(compression: Compression) -> str:
    """As the command line takes it."""
    if compression.goal:
        return f"--mixed {compression.goal[0]:g}{compression.goal[1]}"
    return f"--palettize {compression.bits}" if compression.method == "palettize" else f"--quantize int{compression.bits}"


def _leaving(folder: Path, names: list[str]) -> Callable[[str, list[str]], list[str]]:
    """For copytree: of `folder` itself, leave out `names` and what is hidden."""

    def ignore(where: str, found: list[str]) -> list[str]:
        return [name for name in found if Path(where) == folder and (name in names or name.startswith("."))]

    return ignore
