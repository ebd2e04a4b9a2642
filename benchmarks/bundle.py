"""`edgesafe bundle`: a folder to ship. The exported files lie in it as they are, so whatever loads the export loads the bundle.

    manifest.json, the export's files     hard links where the disk allows it, hashed again
    audit.json, policy.toml               what it was held against the limits of, and the limits
    README.md, LICENSE, NOTICE, ...       the model card and what must go with the weights
    bundle.json                           written last: the gate's decision, and the sha256 of the files above that are not the export's

With an app that folder lies in the app's, as model/: --app web is a site that any static host serves.

pictures.jsonl stays behind: it lists the prompts that this very model gives way to.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe import artifact
from edgesafe.apps import site
from edgesafe.errors import EdgeSafeError

from . import card, evidence, gate, policy
from .browser import plan
from .gate import Decision

BUNDLE, SCHEMA_VERSION = "bundle.json", 1
APPS = {"web": site}
OURS = ("LICENSE", "NOTICE", "OFL.txt")  # licence texts that come with EdgeSafe and go with weights made from the emoji model
APART = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)  # no hard link there: copy


@dataclass(frozen=True)
class BundleConfig:
    export: Path | None = None  # None: the newest finished one
    out: Path | None = None  # None: bundles/<name of the export>, with -<app> for an app
    policy: Path | None = None  # None: the default policy
    audit: Path | None = None  # None: the newest beside the export that cites its manifest
    licence: str | None = None  # of the weights, as the hub names licences
    notices: tuple[Path, ...] = ()  # licence texts to put in
    app: str | None = None  # a name in APPS; None: the plain folder
    max_mib: float | None = None  # of the export, for an app; None: as the app has it
    force: bool = False

    def __post_init__(self) -> None:
        if self.app is not None and self.app not in APPS:
            known = ", ".join(APPS)
            raise EdgeSafeError(f"--app {self.app}: there is no such app; known: {known}. Leave --app out for the plain folder")
        if self.max_mib is not None and self.app is None:
            raise EdgeSafeError("--max-mib is the limit of an app. Name one with --app, or leave --max-mib out")
        if self.max_mib is not None and not self.max_mib > 0:
            raise EdgeSafeError(f"--max-mib {self.max_mib:g}: no export is that small. Give a number of MiB above 0")
        if self.licence is not None and not self.licence.strip():
            raise EdgeSafeError("--license: an empty name. Give one as the hub names it, such as openrail++")
        for path in self.notices:
            if not path.is_file():
                raise EdgeSafeError(f"--notice {path}: no such file")


def run(config: BundleConfig, console: Console | None = None) -> Path:
    """Returns the bundle, or the app with the bundle in it.

    Raises: gate.Refused for an export that the policy refuses; EdgeSafeError for one that cannot be judged or that the app cannot take.
    """
    console = console or Console(stderr=True)
    held = policy.load(config.policy)
    export = Path(config.export or artifact.newest("export"))
    app = APPS[config.app] if config.app else None
    out = config.out or Path("bundles") / "-".join(filter(None, [export.resolve().name, config.app]))
    if out.resolve().is_relative_to(export.resolve()):
        raise EdgeSafeError(f"--out {out} lies in the export, which stays as it was sealed. Give another place")
    console.print(f"bundle {export}", highlight=False, markup=False, soft_wrap=True)
    manifest = artifact.read(export, verify=False)
    if app is not None:
        app.check(export, manifest, config.max_mib or app.MOST_MIB)
    decision = gate.require(export, config.audit, held)
    for line in (*decision.sentences, *(f"Note: {note}" for note in decision.notes)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with artifact.staged(out, config.force) as folder:
        place = folder
        if app is not None:
            app.write(folder)
            plan.write(export, manifest, folder)
            place = folder / app.MODEL
            place.mkdir()
        _fill(place, export, decision, held, config)
        read(place)
    if app is not None:
        console.print(app.how_to_try(out), highlight=False, markup=False, soft_wrap=True)
    return out


def read(folder: Path) -> dict[str, Any]:
    """bundle.json of a bundle in which every file is as it was. Raises: EdgeSafeError, which names the file."""
    manifest, path = artifact.read(folder), Path(folder) / BUNDLE
    if not path.is_file():
        raise EdgeSafeError(f"{folder}: no {BUNDLE}: this is a {manifest.kind}. Make a bundle of it: edgesafe bundle {folder}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeSafeError(f"{path}: not valid JSON ({error}). Make the bundle again") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise EdgeSafeError(f"{path}: schema version {version!r}, but this EdgeSafe reads {SCHEMA_VERSION}. Use the one that wrote it")
    said = {artifact.MANIFEST: record["manifest_sha256"], **record["files"]}
    for name, digest in said.items():
        if not (Path(folder) / name).is_file() or artifact.sha256(Path(folder) / name) != digest:
            raise EdgeSafeError(f"{Path(folder) / name}: missing or changed since the bundle was made. Make the bundle again")
    return record


def _fill(folder: Path, export: Path, decision: Decision, held: policy.Policy, config: BundleConfig) -> None:
    manifest, record = artifact.read(export, verify=False), evidence.read(decision.audit)
    is_emoji = str(manifest.base_model["id"]).startswith("emoji:")
    texts = dict(_notices(config, is_emoji))
    texts |= {evidence.AUDIT: decision.audit.read_bytes(), policy.DEFAULT: held.text.encode()}
    facts = card.Facts(
        export.resolve().name, manifest, decision.manifest_sha256, record, decision.audit_sha256,
        _report(decision), decision.to_dict(), config.licence,
    )  # fmt: skip
    texts["README.md"] = card.build(facts).encode()
    if taken := sorted(set(texts) & {name.split("/")[0] for name in manifest.files} | set(texts) & {BUNDLE}):
        raise EdgeSafeError(f"{export}: it holds a {taken[0]} of its own, in whose place the bundle's would come. Export again without it")
    for name in (*manifest.files, artifact.MANIFEST):
        _link(export / name, folder / name)
    for name, data in texts.items():
        _write(folder / name, data)
    seal = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "edgesafe": artifact.versions()["edgesafe"],
        "manifest_sha256": decision.manifest_sha256,
        "files": {name: artifact.sha256(folder / name) for name in sorted(texts)},
        "limits": {row["name"]: asdict(held.limits(row["name"])) for row in manifest.concepts},
        "decision": decision.to_dict(),
    }
    _write(folder / BUNDLE, (json.dumps(seal, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _notices(config: BundleConfig, is_emoji: bool) -> Iterator[tuple[str, bytes]]:
    """(file name, text)"""
    if is_emoji:
        ours = {file.name: file.locate() for file in reversed(metadata.files("edgesafe") or []) if file.name in OURS}
        for name in OURS:
            if name not in ours:
                raise EdgeSafeError(f"this installation of edgesafe lacks its {name}, which goes with the emoji model. Install it again")
            yield name, Path(str(ours[name])).read_bytes()
    for path in config.notices:
        yield (f"{path.stem}-weights{path.suffix}" if is_emoji and path.name in OURS else path.name), path.read_bytes()


def _report(decision: Decision) -> dict[str, Any] | None:
    """report.json beside the audit, if it is of this export."""
    path = decision.audit.with_name("report.json")
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeSafeError(f"{path}: not valid JSON ({error}). Audit or bench the export again, or take the file away") from error
    return found if found.get("artifact", {}).get("sha256") == decision.manifest_sha256 else None


def _link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)
    except OSError as error:
        if error.errno not in APART:
            raise
        shutil.copyfile(source, place)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

