"""Where a probe keeps what it learned or made, so that a stopped audit goes on: files and folders named by all that they depend on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from edgesafe.artifact import write_whole

from ..leakage import Cell
from ..sources import Source
from .probe import Probe, Target


def place(probe: Probe, target: Target, what: str, suffix: str = "", cell: Cell | None = None) -> Path:
    """In the target's cache. Without a cell for what is made of the attacked model alone, whatever is asked and however it is drawn."""
    facts: list[Any] = [probe.name, probe.settings(), _model(target.twin), target.seed, [c.to_dict() for c in target.concepts]]
    if cell is not None:
        d = target.drawing
        asked = [[q.prompt, q.seed] for q in cell.questions]
        facts += [_model(target.control), d.steps, d.guidance, d.sampler, cell.title, asked]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return target.cache / f"{what}-{digest}{suffix}"


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None where nothing was written yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, facts: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    write_whole(path, json.dumps(facts, indent=1) + "\n")


def _model(source: Source | Exception) -> str | None:
    return None if isinstance(source, Exception) else source.sha256 or source.place
