"""`edgesafe export`: from a run or a model to a folder that a device's own tools load, checked before it appears.

The folder is written beside its place and moved there when all of it is written, read again, compared with torch and sealed; whatever
goes wrong before that leaves nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgesafe import artifact, model
from edgesafe.artifact import Step
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import parity, source
from .config import ExportConfig
from .coreml import CoreML
from .onnx import Onnx

MIB = 2**20


class Target(Protocol):
    """A form to export to. `plan` refuses what it cannot express before any work; a reason from `open` means "not measured here"."""

    name: ClassVar[str]
    default_precision: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # whose versions the manifest keeps
    precision: str
    height: int
    width: int

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> Self: ...
    @property
    def parts(self) -> tuple[str, ...]: ...  # names of parity.Parts, in the order of writing
    def notes(self, model: TextToImage) -> tuple[str, ...]: ...  # what its users must know, one line each
    def facts(self, model: TextToImage) -> dict[str, Any]: ...  # for the manifest's `target`
    def write(self, model: TextToImage, folder: Path, begin: Callable[[str], None]) -> None: ...  # and read again; begin(part) before each
    def open(self, folder: Path) -> "parity.Parts | str": ...
    def files(self, part: str) -> str: ...  # the file or folder that holds the part


TARGETS: dict[str, type[Target]] = {"onnx": Onnx, "coreml": CoreML}


def run(config: ExportConfig, console: Console | None = None) -> Path:
    """Export as asked; returns the new folder. Raises: EdgeSafeError, and then there is no new folder."""
    console = console or Console()
    if config.target not in TARGETS:
        raise EdgeSafeError(f"--target {config.target!r} is not known; known: {', '.join(TARGETS)}")
    kind = TARGETS[config.target]
    origin = source.find(config.source)
    precision = config.precision_of(kind.default_precision)
    newest = "" if config.source else " (the newest finished run)"
    console.print(f"Exporting {origin.label}{newest} to {kind.name}, {precision}", highlight=False, soft_wrap=True)
    out = Path(config.out) if config.out else origin.place(kind.name, precision)
    with artifact.staged(out, config.force) as folder:
        loaded = model.load(origin.label)
        target = kind.plan(config, loaded)
        for note in target.notes(loaded):
            console.print(f"Note: {note}", highlight=False, soft_wrap=True)
        measured = _write_and_measure(target, loaded, folder, origin.prompts or parity.PROMPTS, console)
        if measured["measured"]:
            parity.gate(measured)
        before = origin.manifest(loaded)
        asked = asdict(config) | {"precision": precision, "out": out.name}
        step = Step("export", kind.name, asked, parity.SEED, artifact.versions(*kind.packages))
        facts = {"name": kind.name, "precision": precision, **target.facts(loaded)}
        sealed = replace(before, kind="export", steps=(*before.steps, step), target=facts, parity=measured, audit="unmeasured")
        artifact.seal(folder, sealed, exclude=())
    console.print(_table(target, out, measured))
    if not measured["measured"]:
        console.print(f"Parity: {measured['reason']}", highlight=False, soft_wrap=True)
    console.print(f"Export: {out}", highlight=False, soft_wrap=True)
    return out


def _write_and_measure(target: Target, loaded: TextToImage, folder: Path, prompts: tuple[str, ...], console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        writing = progress.add_task("starting", total=len(target.parts))
        begun = 0

        def begin(part: str) -> None:
            nonlocal begun
            progress.update(writing, description=f"writing {part}", completed=begun)
            begun += 1

        target.write(loaded, folder, begin)
        progress.update(writing, description="written", completed=begun)
        parts = target.open(folder)
        if isinstance(parts, str):
            return {"measured": False, "reason": parts}
        checking = progress.add_task("drawing with torch", total=2 * parity.STEPS)
        recording = parity.record(loaded, prompts, target.height, target.width, lambda: progress.advance(checking))
        progress.update(checking, description="drawing with the export")
        return parity.measure(loaded, recording, parts, target.parts, lambda: progress.advance(checking))


def _table(target: Target, out: Path, measured: dict[str, Any]) -> Table:
    table = Table(
        "part", "MiB", "parity dB", "max abs", "cosine", title=f"{target.name} {target.precision}, {target.width}x{target.height}"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for part in target.parts:
        file = out / target.files(part)
        size = sum(path.stat().st_size for path in file.rglob("*") if path.is_file()) / MIB
        row = measured.get("components", {}).get(part)
        figures = (f"{row['psnr_db']:.1f}", f"{row['max_abs']:.2g}", f"{row['cosine']:.6f}") if row else ("-", "-", "-")
        table.add_row(target.files(part), f"{size:.2f}", *figures)
    if "picture" in measured:
        picture = measured["picture"]
        table.caption = f"whole pictures: at most {picture['max_levels']} of 255 levels apart, {picture['mean_levels']:.3f} on average"
    return table
