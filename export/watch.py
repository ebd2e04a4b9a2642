"""Knows what an export is doing: shows it as bars, names it when disk or memory end, and leaves it for the next command after a kill."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgesafe.errors import EdgeSafeError, FullDisk, OutOfMemory, Stopped, is_full_disk, is_out_of_memory

DOING = ".doing"  # in the unfinished folder
FULL = 2**16  # bytes; a disk with less left is full


class Watch:
    """`with Watch(console, folder) as watch:` around the work; `watch.begin("writing unet")` before each piece of it.

    Raises: FullDisk, OutOfMemory and Stopped with the piece that was at work.
    """

    def __init__(self, console: Console, folder: Path | None = None) -> None:
        self._folder, self._doing = folder, "starting"
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")
        self._bars = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bars.add_task(self._doing, total=1)
        self._open = ExitStack()

    def begin(self, doing: str, total: float = 1, hint: str = "") -> None:
        """What is done from now on, how many `advance` it takes, and what the bar says beside."""
        self._doing = doing
        if self._folder:
            (self._folder / DOING).write_text(doing, encoding="utf-8")
        self._bars.reset(self._task, description=f"{doing}{hint}", total=total)

    def advance(self, by: float = 1) -> None:
        self._bars.advance(self._task, by)

    def to(self, done: float) -> None:
        """`done`: what of `total` is done."""
        self._bars.update(self._task, completed=done)

    def __enter__(self) -> Self:
        self._open.enter_context(self._bars)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
        if error is None:
            if self._folder:
                (self._folder / DOING).unlink(missing_ok=True)
        elif isinstance(error, FullDisk) or is_full_disk(error):
            raise FullDisk(self._folder or "writing", self._doing) from error
        elif is_out_of_memory(error):
            need = "Nothing was written; close other programs, or use a machine with more memory"
            raise OutOfMemory(f"while {self._doing}: memory ran out. {need}") from error
        elif _is_foreign(error) and (full := self._full_place()):
            raise FullDisk(full, f"{self._doing}{'' if full == self._folder else f' (through {full})'}") from error
        elif isinstance(error, KeyboardInterrupt):
            raise Stopped(f"Stopped while {self._doing}. Nothing was written, and earlier exports are as they were") from error

    def _full_place(self) -> Path | None:
        """Of the places that exports are written through, one without space: coremltools' own error for that names no reason."""
        places = (self._folder, Path(tempfile.gettempdir())) if self._folder else ()
        return next((place for place in places if shutil.disk_usage(place).free < FULL), None)


def _is_foreign(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, EdgeSafeError)


def killed(part: Path) -> str | None:
    """What the command was doing that left the unfinished folder `part`, if one did."""
    try:
        return (part / DOING).read_text(encoding="utf-8")
    except OSError:
        return None
