"""What `edgesafe compare` reads: audits and reports, their pictures, and what makes two of them unlike."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from edgesafe.errors import EdgeSafeError

from . import evidence

SETTINGS = ("steps", "guidance", "sampler", "seed", "pictures_per_cell")
JUDGED = ("sha256", "threshold", "labels")
Key = tuple[str, ...]


class Record:
    """An audit.json, or a report.json with or without an audit in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = evidence.load(path)
        self.is_audit = "cells" in data
        self.report = None if self.is_audit else _report(data, path)
        self.audit = evidence.read(path) if self.is_audit else (data["audit"] and evidence.checked(data["audit"], path, "audit/"))
        self.head: dict[str, Any] = data

    @property
    def name(self) -> str:
        return f"{self.head['artifact']['name']} ({self.head['artifact']['target']})"

    @cached_property
    def pictures(self) -> dict[Key, bool] | None:
        """(probe, cell, detector, origin, seed, which of several) of the export's pictures -> leaked, or of what is kept: right."""
        path = self.path.parent / Path(self.audit["pictures"]).name if self.audit else None
        if path is None or not path.is_file():
            return None
        found: dict[Key, bool] = {}
        seen: Counter[Key] = Counter()
        for row in evidence.pictures(path):
            if row["model"] == "export":
                key = (row["probe"], row["cell"], row["detector"], row["plain"] or row["prompt"], str(row["seed"]))
                found[*key, str(seen[key])] = row["outcome"] in ("leaked", "right")
                seen[key] += 1
        return found

    def flags(self, probe: str, cell: str, detector: str) -> dict[Key, bool]:
        """(origin, seed, which of several) -> flag"""
        return {key[3:]: flag for key, flag in (self.pictures or {}).items() if key[:3] == (probe, cell, detector)}


def other_settings(a: Record, b: Record) -> Iterator[str]:
    """What makes two measurements of leakage unlike, in words."""
    if a.audit is None or b.audit is None:
        return
    for name in SETTINGS:
        if a.audit["settings"][name] != b.audit["settings"][name]:
            yield f"{name} {a.audit['settings'][name]} and {b.audit['settings'][name]}"
    for kind, keys in (("detectors", JUDGED), ("probes", ("settings",))):
        ours, its = ({r["name"]: r for r in record.audit[kind] if r.get("status", "measured") == "measured"} for record in (a, b))
        for name in (name for name in ours if name in its):
            for key in (key for key in keys if ours[name][key] != its[name][key]):
                yield f"{key} of {name}: {words(ours[name][key])} and {words(its[name][key])}"
    if a.pictures is not None and b.pictures is not None:
        for title, one, two in _shared_cells(a.pictures, b.pictures):
            if one != two:
                yield f"prompts or seeds of {title}: {len(one & two)} of {len(one)} and {len(two)} in common"


def _shared_cells(a: Mapping[Key, bool], b: Mapping[Key, bool]) -> Iterator[tuple[str, set[Key], set[Key]]]:
    """Cells that both asked, with the (origin, seed) asked by each."""
    asked: list[dict[str, set[Key]]] = []
    for pictures in (a, b):
        cells: dict[str, set[Key]] = {}
        for probe, cell, _, *question in pictures:
            cells.setdefault(f"{probe}, {cell}", set()).add(tuple(question))
        asked.append(cells)
    for title in asked[0]:
        if title in asked[1]:
            yield title, asked[0][title], asked[1][title]


def unlike(one: Any, two: Any) -> Any:
    return {key: value for key, value in one.items() if two.get(key) != value} if isinstance(one, dict) and isinstance(two, dict) else one


def words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items()) or "nothing"
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _report(data: dict[str, Any], path: Path) -> dict[str, Any]:
    if "latency" not in data:
        raise EdgeSafeError(f"{path}: neither an audit nor a report. `edgesafe audit` and `edgesafe bench` write those")
    rules = evidence.schema("report.schema.json")
    known, version = rules["properties"]["schema_version"]["const"], data.get("schema_version")
    if missing := sorted(set(rules["required"]) - set(data)) if version == known else []:
        raise EdgeSafeError(f"{path}: a report without {', '.join(missing)}: it was changed. Make it again with `edgesafe bench`")
    if version != known:
        said = f"a report of schema version {version!r}, but this EdgeSafe reads {known}"
        raise EdgeSafeError(f"{path}: {said}. Compare it with the one that wrote it, or make it again with `edgesafe bench`")
    return data
