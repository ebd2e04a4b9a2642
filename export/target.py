"""What a form to export to has to offer: a frozen dataclass in a file of its own, and a line in run.TARGETS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from edgesafe.model import TextToImage

from . import parity
from .compression import Compression
from .config import ExportConfig
from .job import Job


class Target(Protocol):
    """`plan` refuses what it cannot express before any work: it sees the model's configs and shapes, not its weights.

    A target may also have `open_native(folder)`, the system's own runtime as parity.Parts or None, which is then measured beside; and
    `finish(folder)`, what is left to do when all files are as they will be.
    """

    name: ClassVar[str]
    default_precision: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # whose versions the manifest keeps
    precision: str
    height: int  # pixels
    width: int
    compression: Compression | None  # as asked; None: parts stay as `write` wrote them

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> Self: ...
    @property
    def parts(self) -> tuple[str, ...]: ...  # names of parity.Parts, in the order of writing
    @property
    def narrowed(self) -> tuple[str, ...]: ...  # those whose weights `compress` narrows
    def notes(self, model: TextToImage) -> tuple[str, ...]: ...  # what its users must know, one line each
    def facts(self, model: TextToImage) -> dict[str, Any]: ...  # for the manifest's `target`
    def write(
        self, model: TextToImage, folder: Path, begin: Callable[[str], None], recording: parity.Recording | None = None
    ) -> None: ...  # and read again; begin(part) before each; `recording` tells what fp16 must hold
    def compress(
        self, part: str, wide: Path, narrow: Path, compression: Compression, job: Job, advance: Callable[[float], None]
    ) -> dict[str, Any]: ...  # read the part from `wide`, write it to `narrow`; advance(fraction done); facts for the manifest
    def wider(self, compression: Compression) -> tuple[Compression, ...]: ...  # the next widths to try, narrowest first
    def open(self, folder: Path) -> "parity.Parts | str": ...  # a reason means "not measured here"
    def files(self, part: str) -> str | tuple[str, ...]: ...  # the file or folder that holds the part; a part in pieces has several


def files(target: Target, part: str) -> tuple[str, ...]:
    names = target.files(part)
    return (names,) if isinstance(names, str) else names
