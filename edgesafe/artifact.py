"""A folder that one stage wrote and the next one reads. `manifest.json` is written last and atomically: its presence means "done".

`seal` closes a folder, `read` opens it and checks every file, `staged` lets a new folder appear whole or not at all.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from . import fingerprint, swap
from .errors import ArtifactError, NamingFullDisk

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
KINDS = ("run", "export")
OURS = (MANIFEST, "report.json", f"model/{MANIFEST}")  # --force replaces a folder only if it holds one of these


@dataclass(frozen=True)
class Step:
    """One link of the chain that led to a folder: stage "train", method "bilevel", its full config, seed and tool versions."""

    stage: str
    method: str
    config: dict[str, Any]
    seed: int | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    kind: str  # "run" | "export"
    base_model: dict[str, Any]  # {"id": str, "revision": str | None, "sha256": str | None}
    control: str  # id of the un-erased model to compare with
    steps: tuple[Step, ...]
    concepts: tuple[dict[str, Any], ...]  # Concept.to_dict()
    files: dict[str, dict[str, Any]]  # relative path -> {"sha256", "size" in bytes}; filled by seal
    target: dict[str, Any] | None = None  # exports: {"name": "onnx", "precision": "fp16"}
    parity: dict[str, Any] | None = None
    audit: str = "unmeasured"
    schema_version: int = SCHEMA_VERSION


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, edgesafe and the named packages, without importing them."""
    found = {"python": platform.python_version()}
    for package in ("edgesafe", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def seal(folder: Path, manifest: Manifest, exclude: Sequence[str] = ("checkpoint/", "logs/")) -> Manifest:
    """Hash every file but those under `exclude`, put all on the disk, then write the manifest: tmp file, fsync, rename.

    Returns what `read` will return.
    """
    folder, files = Path(folder), {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith((MANIFEST, *exclude)):
            _inside(folder, name)
            sync(path)
            files[name] = {"sha256": sha256(path), "size": path.stat().st_size}
    sealed = asdict(replace(manifest, files=files))
    if sealed["target"] is not None:
        sealed["target"] |= {fingerprint.KEY: fingerprint.ZEROS}
    text = fingerprint.stamp(json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False, default=os.fspath) + "\n")
    part = folder / f"{MANIFEST}.part"
    with NamingFullDisk(folder):
        try:
            part.write_text(text, encoding="utf-8")
            sync(part)
            for directory in sorted({(folder / name).parent for name in files}):
                sync(directory)
            os.replace(part, folder / MANIFEST)
        finally:
            part.unlink(missing_ok=True)
        sync(folder)
    return _parse(json.loads(text), folder)


def read(folder: Path, verify: bool = True) -> Manifest:
    """The manifest of a finished folder; with `verify`, only after the size and hash of every file in it were found right.

    Raises: ArtifactError, which names the folder or file. Files that the manifest does not list are ignored.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder")
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: not finished: no {MANIFEST}. Let the command that writes it run to its end")
    data = path.read_bytes()
    try:
        manifest = _parse(json.loads(data.decode("utf-8")), folder)
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}). The file is damaged: copy or make the folder again") from error
    if verify and fingerprint.intact(data) is False:
        raise ArtifactError(f"{path}: its text was changed or damaged (`target.{fingerprint.KEY}` is of another). Make the folder again")
    for name, facts in manifest.files.items():
        file = _inside(folder, name)
        if verify:
            _verify(file, facts)
    return manifest


def extra(folder: Path, manifest: Manifest) -> list[str]:
    """Files in a finished folder that its manifest does not list, sorted."""
    found = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return sorted(name for name in found if name not in manifest.files and name != MANIFEST)


def newest(kind: str, root: Path = Path("runs")) -> Path:
    """The finished folder of that kind under `root` that was sealed last."""
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    finished = [path for path in folders if (path / MANIFEST).is_file() and not path.name.startswith(".")]
    for path in sorted(finished, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name), reverse=True):
        if read(path, verify=False).kind == kind:
            return path
    unfinished = [path for path in folders if path not in finished and (path.name.endswith(".part") or (path / "config.json").is_file())]
    stopped = f" Not finished: {', '.join(sorted(map(str, unfinished)))}." if unfinished else ""
    maker = {"run": "edgesafe train", "export": "edgesafe export"}[kind]
    raise ArtifactError(f"no finished {kind} under {root}/.{stopped} Make one with `{maker}`, or give the path of one")


@contextmanager
def staged(out: Path, force: bool = False) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well; on an error it goes, and a former `out` stays as it was.

    A kill leaves a `.<name>.part` folder, which the next call removes; one that another living process fills is refused.
    """
    place, part = Path(out).resolve(), unfinished(out)
    old = place.with_name(f".{place.name}.old")
    _settle(place, old)
    _refuse_existing(out, place, force)
    with NamingFullDisk(out):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock, former = _take(part, out), None
        try:
            yield part
            former = _lock(place, out) if place.exists() else None  # it takes the part's place, which stays locked by that
            if former is None:
                os.rename(part, place)
            elif not swap.exchange(part, place):
                os.rename(place, old)
                os.rename(part, place)
            sync(place.parent)
        finally:
            _settle(place, old)
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)
            if former is not None:
                os.close(former)


def unfinished(out: Path) -> Path:
    """Where `staged` writes what is to become `out`."""
    place = Path(out).resolve()
    return place.with_name(f".{place.name}.part")


def _settle(place: Path, old: Path) -> None:
    """Whatever stopped between or after the two renames of `staged`: put the former folder back, or away if it was replaced."""
    if old.exists() and not place.exists():
        os.rename(old, place)
    shutil.rmtree(old, ignore_errors=True)


def _refuse_existing(out: Path, place: Path, force: bool) -> None:
    if not place.exists():
        return
    if not force:
        raise ArtifactError(f"{out} exists. Give another --out, or --force to replace it")
    if not place.is_dir() or (any(place.iterdir()) and not any((place / name).is_file() for name in OURS)):
        raise ArtifactError(f"{out} was not made by edgesafe (no {' or '.join(OURS)}): --force will not delete it. Give another --out")


def _take(part: Path, out: Path) -> int:
    """Make an empty `part` and lock it for as long as this process lives; returns the lock's file descriptor."""
    if part.exists():
        stale = _lock(part, out)
        shutil.rmtree(part)
        os.close(stale)
    part.mkdir()
    return _lock(part, out)


def _lock(folder: Path, out: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ArtifactError(f"{out} is being written by another edgesafe command. Wait for it, or give another --out") from error
    return descriptor


@contextmanager
def replacing(path: Path, alone: bool = False) -> Iterator[Path]:
    """Where to write what comes in place of `path`, whole or not at all.

    alone: no other process writes it; what a kill left is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str, alone: bool = False) -> None:
    with replacing(path, alone) as part:
        part.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused if it leads out of the folder, by its text or by a link."""
    pure = PurePosixPath(name)
    path = folder / name
    if not name or "\\" in name or pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder / MANIFEST}: the file name {name!r} leads out of the folder. Do not use this folder")
    return path


def _verify(path: Path, facts: dict[str, Any]) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: missing, but listed in {MANIFEST}. Copy or make the folder again")
    size = path.stat().st_size
    if size != facts["size"]:
        raise ArtifactError(f"{path}: {size} bytes, but {MANIFEST} says {facts['size']}. Copy or make the folder again")
    if sha256(path) != facts["sha256"]:
        raise ArtifactError(f"{path}: its sha256 is not the one in {MANIFEST}; it was changed or damaged. Copy or make the folder again")


def _parse(data: Any, folder: Path) -> Manifest:
    """A Manifest from JSON, refused by name where something is missing, unknown or of the wrong shape."""

    def check(right: bool, message: str) -> None:
        if not right:
            raise ArtifactError(f"{folder / MANIFEST}: {message}")

    def keys(row: Any, cls: type, what: str) -> None:
        check(isinstance(row, dict), f"{what} is not an object")
        known = {field.name for field in fields(cls)}
        for name in sorted(known ^ set(row)):
            check(False, f"{what} has an unknown entry {name!r}" if name in row else f"{what} lacks {name!r}")

    version = data.get("schema_version") if isinstance(data, dict) else None
    check(version == SCHEMA_VERSION, f"schema version {version!r}, but this EdgeSafe reads {SCHEMA_VERSION}. Use the one that wrote it")
    keys(data, Manifest, "the manifest")
    check(data["kind"] in KINDS, f"kind {data['kind']!r}; known: {', '.join(KINDS)}")
    for name, kind in (("base_model", dict), ("control", str), ("steps", list), ("concepts", list), ("files", dict)):
        check(isinstance(data[name], kind), f"{name!r} is not a {kind.__name__}")
    for row in data["steps"]:
        keys(row, Step, "a step")
    for name, facts in data["files"].items():
        check(isinstance(facts, dict) and set(facts) == {"sha256", "size"}, f"files: {name!r} needs sha256 and size, and only those")
    return Manifest(**data | {"steps": tuple(Step(**row) for row in data["steps"]), "concepts": tuple(data["concepts"])})
