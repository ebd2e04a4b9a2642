"""Cold start, memory and warm latency of each model on each runtime: one row a measurement, each from a child process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgesafe.metrics.spread import summary

from . import child
from .cells import attempt
from .gallery import Drawing
from .sources import Source

COLD = ("libraries_ms", "load_ms", "first_picture_ms", "total_ms")
MEMORY = ("import_only_peak_mib", "peak_mib")


@dataclass(frozen=True)
class Subject:
    """A model on a runtime; `source` gives the reason instead when there is none."""

    what: str  # "export", "run behind the export", "base model"
    runtime: str
    source: Source | Exception


def measure(subjects: Sequence[Subject], drawing: Drawing, threads: int, advance: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """{"cold_starts", "memory", "latency"}: rows for the report; advance(what begins) before each child process."""
    out: dict[str, list[dict[str, Any]]] = {"cold_starts": [], "memory": [], "latency": []}
    for subject in subjects:
        facts = {"what": subject.what, "runtime": subject.runtime, "threads": threads}

        start = attempt(partial(_ask, "cold", subject, drawing, threads, advance))
        state = {key: start[key] for key in ("status", "reason")}
        out["cold_starts"].append(facts | state | {key: start.get(key) for key in COLD})
        out["memory"].append(facts | state | {key: start.get(key) for key in MEMORY})
        warm = attempt(partial(_ask, "warm", subject, drawing, threads, advance))
        out["latency"] += _latency_rows(facts, warm, rows=1 if drawing.guidance == 1 else 2)
    return out


def _ask(task: str, subject: Subject, drawing: Drawing, threads: int, advance: Callable[[str], None]) -> dict[str, Any]:
    if isinstance(subject.source, Exception):
        raise subject.source
    advance(f"{task} {subject.what}, {subject.runtime}")
    spec = {"source": subject.source.place, "runtime": subject.runtime}
    return child.call(task, spec | {"steps": drawing.steps, "guidance": drawing.guidance, "sampler": drawing.sampler}, threads)


def _latency_rows(facts: dict[str, Any], warm: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    if warm["status"] == "failed":
        return [facts | {"part": "picture", "batch": 1, "status": "failed", "reason": warm["reason"]}]
    batch = {"picture": 1, "unet_call": rows, "text_encoder": 1, "vae_decoder": 1}
    return [
        facts
        | {"part": part, "batch": batch[part], "status": "measured", "reason": None}
        | {"warm_up": warm[part]["warm_up"]}
        | summary(warm[part]["samples_ms"])
        for part in batch
    ]
