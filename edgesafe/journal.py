"""metrics.jsonl: one line an iteration. A run that goes on keeps the lines up to its checkpoint, and the clock goes on from there."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

from .artifact import write_whole
from .bilevel import Record

NAME = "metrics.jsonl"


class Journal:
    def __init__(self, out: Path, step: int, leads: bool = True) -> None:
        """Of a run at iteration `step`: what was noted later is dropped, the closed-form edit too, which comes after the last one.

        Of several processes the leading one writes.
        """
        self.path, self.begun = out / NAME if leads else Path(os.devnull), time.perf_counter()
        if leads:
            self._cut(step)

    def _cut(self, step: int) -> None:
        rows = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        rows = [row for row in rows if row["step"] <= step and row["level"] != "edit"]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows), alone=True)
        self.begun -= rows[-1]["seconds"] if rows else 0.0

    def __enter__(self) -> "Journal":
        self.file: TextIO = self.path.open("a")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def write(self, row: Record) -> None:
        values = {name: float(f"{value:.6g}") for name, value in row.values.items()}
        seconds = round(time.perf_counter() - self.begun, 2)
        self.file.write(json.dumps({"step": row.step, "level": row.level, **values, "seconds": seconds}) + "\n")

    def flush(self) -> None:
        """Before a checkpoint is kept, so that no line before it can be missing."""
        self.file.flush()
