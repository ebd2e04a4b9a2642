"""What is measured and what stands beside it: the runtime that draws it, its torch twin, its un-erased control, its base model."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from . import runtimes, sources
from .cells import attempt
from .sources import Source

MIB = 2**20
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "coremltools", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Exhibit:
    """A model beside the source is the reason instead where there is none."""

    source: Source
    runtime: str | None  # the first wanted one that can draw it
    reasons: Mapping[str, str]  # why the other runtimes cannot
    twin: Source | Exception  # the torch weights behind an export
    control_id: str | None
    control: Source | Exception
    base: Source | Exception
    concepts: tuple[Concept, ...]

    @property
    def control_runtime(self) -> str:
        return runtime_of(self.control)

    @property
    def base_is_control(self) -> bool:
        a, b = self.base, self.control
        if isinstance(a, Exception) or isinstance(b, Exception):
            return False
        return a.place == b.place or (a.sha256 is not None and a.sha256 == b.sha256)

    def sizes(self) -> list[dict[str, Any]]:
        rows: list[tuple[str, Source | Exception]] = [("export", self.source), ("base model", self.base)]
        if not self.base_is_control:
            rows.insert(1, ("control", self.control))

        def size(source: Source | Exception) -> dict[str, Any]:
            found = {name: n / MIB for name, n in sources.sizes(there(source)).items()}
            components = [{"name": name, "size_mib": round(mib, 3)} for name, mib in found.items()]
            return {"total_mib": round(sum(found.values()), 3), "components": components}

        return [{"total_mib": None, "components": []} | attempt(partial(size, s), what=what) for what, s in rows]

    def provenance(self) -> dict[str, Any]:
        """The report's "artifact"."""
        manifest = self.source.manifest
        return {
            "name": self.source.name,
            "target": self.source.target,
            "sha256": self.source.sha256,
            "base_model": manifest.base_model if manifest else None,
            "steps": [vars(step) for step in manifest.steps] if manifest else [],
            "files": manifest.files if manifest else {},
        }


def find(source: Source, control: str | None, wanted: tuple[str, ...] | None = None) -> Exhibit:
    """control: an id or folder; None: the one that the manifest names. wanted: runtimes, in order of preference."""
    manifest = source.manifest
    able, reasons = runtimes.readers(source.place)
    name = control or (manifest.control if manifest else None)
    base = str(manifest.base_model["id"]) if manifest else None
    return Exhibit(
        source,
        next((runtime for runtime in wanted or able if runtime in able), None),
        reasons,
        _or_error(lambda: sources.twin(source)),
        name,
        _or_error(lambda: sources.describe(_named(name, "there is no un-erased control: name one with --control"))),
        _or_error(lambda: sources.describe(_named(base, "no base model: there is no manifest that names it"))),
        tuple(Concept.from_dict(row) for row in manifest.concepts) if manifest else (),
    )


def choose(command: str, place: str | Path | None, root: Path, console: Console) -> Source:
    """The source that is named, or the newest export that can be run here; names it on the console."""
    found, passed = (place, []) if place else sources.newest(("export",), root)
    for line in passed:
        console.print(line, highlight=False, soft_wrap=True)
    source = sources.describe(found)
    console.print(f"{command} {source.place} ({source.target})", highlight=False, soft_wrap=True)
    return source


def beside(source: Source, root: Path, what: str) -> Path:
    """Where the folder of a report goes when nobody says: <export>-bench."""
    place = Path(source.place) if source.manifest else root / source.name.replace(":", "-").replace("/", "-")
    return place.with_name(f"{place.resolve().name}-{what}")


def runtime_of(source: Source | Exception) -> str:
    """That draws a model which stands beside: torch, if it can."""
    able = runtimes.readers(source.place)[0] if isinstance(source, Source) else []
    return "torch" if "torch" in able or not able else able[0]


def there(source: Source | Exception) -> Source:
    if isinstance(source, Exception):
        raise source
    return source


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _or_error(find: Callable[[], Source]) -> Source | Exception:
    try:
        return find()
    except EdgeSafeError as error:
        return error


def _named(name: str | None, otherwise: str) -> str:
    if not name:
        raise EdgeSafeError(otherwise)
    return name
