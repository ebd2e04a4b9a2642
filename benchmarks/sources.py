"""What is measured: a run, an export or a model folder, known by a hash; its un-erased control; the run that an export was made from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesafe import artifact
from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError

from . import runtimes


@dataclass(frozen=True)
class Source:
    place: str  # what a runtime opens: a path or an id
    sha256: str | None  # of manifest.json, or over all files of a model folder; None for a hub id
    manifest: Manifest | None = None

    @property
    def name(self) -> str:
        return self.place if self.folder is None or self.place.startswith("emoji:") else self.folder.resolve().name

    @property
    def folder(self) -> Path | None:
        """Where its files are, if on this machine."""
        from edgesafe import model

        if self.manifest is not None:
            return Path(self.place)
        found = model.resolve(self.place)
        return found if isinstance(found, Path) else None

    @property
    def target(self) -> str:
        """ "onnx fp16", "onnx fp32 int8", "run" or "model" """
        if self.manifest is None:
            return "model"
        if not (target := self.manifest.target):
            return self.manifest.kind
        narrow = target.get("compression") or {}
        return " ".join([target["name"], target["precision"], *([narrow["name"]] if "name" in narrow else [])])


def describe(place: str | Path) -> Source:
    """Raises: EdgeSafeError for what is no model, or a manifest whose files do not match it."""
    from edgesafe import model

    folder = Path(place).expanduser()
    if (folder / artifact.MANIFEST).is_file():
        return Source(str(folder), artifact.sha256(folder / artifact.MANIFEST), artifact.read(folder))
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        artifact.read(folder)  # says what is wrong with it
    found = model.resolve(place) if not folder.is_dir() else folder
    return Source(str(place), _tree_sha256(found) if isinstance(found, Path) else None)


def newest(kinds: Sequence[str], root: Path = Path("runs")) -> tuple[Path, list[str]]:
    """The newest finished folder of these kinds that a runtime here can run, and a line for each newer one that was passed over.

    When none can be run, the newest of all.
    """
    folders = [path.parent for path in root.glob(f"*/{artifact.MANIFEST}") if not path.parent.name.startswith(".")]
    folders = [path for path in folders if artifact.read(path, verify=False).kind in kinds]
    if not folders:
        return artifact.newest(kinds[0], root), []  # says what is missing
    folders.sort(key=lambda path: (path / artifact.MANIFEST).stat().st_mtime_ns, reverse=True)
    passed: list[str] = []
    for path in folders:
        able, reasons = runtimes.readers(path)
        if able:
            return path, passed
        passed.append(f"{path} is newer, but cannot be run here ({'; '.join(dict.fromkeys(reasons.values()))})")
    return folders[0], []


def twin(source: Source) -> Source:
    """The model that torch can run behind an export: what it was made from, checked against the export's chain of steps."""
    if runtimes.RUNTIMES["torch"].why_not(source.place) is None:
        return source
    if source.manifest is None or source.manifest.kind != "export":
        raise EdgeSafeError(f"{source.place}: not an export, so the model behind it is not known")
    asked = source.manifest.steps[-1].config.get("source")  # None: the newest run of then, which names the export
    here, suffix = Path(source.place).resolve(), "-" + source.target.replace(" ", "-")
    places = [str(asked)] if asked else []
    places += [str(here.with_name(Path(asked).name if asked else here.name.removesuffix(suffix)))]  # both may have been moved
    place = next((p for p in places if p.startswith("emoji:") or (Path(p).is_dir() and Path(p) != here)), None)
    if place is None:
        raise EdgeSafeError(f"the model that this export was made from is not here ({' or '.join(places)})")
    found = describe(place)
    if found.manifest is not None and found.manifest.steps != source.manifest.steps[: len(found.manifest.steps)]:
        raise EdgeSafeError(f"{place} has changed since this export was made from it")
    return found


def sizes(source: Source) -> dict[str, int]:
    """Component -> bytes, largest first: what lies in unet/, text_encoder/, ..., or in Resources/Unet.mlpackage/."""
    if source.folder is None:
        raise EdgeSafeError(f"{source.place}: a hub id, whose files are in the hub's cache")
    root = source.folder / "model" if (source.folder / "model" / "model_index.json").is_file() else source.folder
    found: dict[str, int] = {}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and parts != (artifact.MANIFEST,):
            depth = 1 if parts[0] == "Resources" and len(parts) > 1 else 0
            component = parts[depth].removesuffix(".mlpackage") if len(parts) > depth + 1 else "other files"
            found[component] = found.get(component, 0) + path.stat().st_size
    return dict(sorted(found.items(), key=lambda row: -row[1]))


def _tree_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{artifact.sha256(path)}\n".encode())
    return digest.hexdigest()
