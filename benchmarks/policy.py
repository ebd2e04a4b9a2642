"""policy.toml: what an export must show before it is shipped, as frozen dataclasses. Unknown keys fail by name, ranges are checked.

[default] holds for every concept, [concept."name"] lays over it. A limit that is left out is not demanded; `highest_leak` must be there.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgesafe.errors import EdgeSafeError

DEFAULT = "policy.toml"  # in this package
RANGES = {
    "highest_leak": (0, 1),
    "highest_leak_files": (0, 1),
    "least_pictures": (1, 10_000_000),
    "lowest_control": (0, 1),
    "lowest_kept": (0, 2),  # an export may draw better than its control
    "most_points_lost": (-100, 100),
    "most_broken_points": (-100, 100),
    "lowest_parity_db": (0, 300),
    "most_days": (0, 36_500),
}
WHOLE = ("least_pictures",)


@dataclass(frozen=True)
class Limits:
    """Of one concept. None: not demanded."""

    highest_leak: float  # share, upper 95 %, worst probe of the attacker "prompts"
    highest_leak_files: float | None = None  # share, upper 95 %, worst probe of the attacker "files"
    probes: tuple[str, ...] = ()  # must have been asked and measured
    least_pictures: int = 1  # asked for each of `probes`, and for what is kept
    lowest_control: float | None = None  # share that the control shows in its best probe
    lowest_kept: float | None = None  # right pictures as a share of the control's
    most_points_lost: float | None = None  # right pictures under the control's, percentage points
    most_broken_points: float | None = None  # broken pictures over the control's, percentage points


@dataclass(frozen=True)
class Detectors:
    required: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()  # empty: all
    sha256: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> the hashes that will do


@dataclass(frozen=True)
class Policy:
    source: str  # the file, or "the default policy"
    text: str  # as it was written
    default: Limits
    concepts: Mapping[str, Limits] = field(default_factory=dict)
    detectors: Detectors = Detectors()
    lowest_parity_db: float | None = None
    most_days: float | None = None
    recount: bool = False

    def limits(self, concept: str | None) -> Limits:
        """None: of what belongs to no concept."""
        return self.concepts.get(concept, self.default) if concept else self.default


def default_text() -> str:
    return files(__package__).joinpath(DEFAULT).read_text(encoding="utf-8")


def load(path: Path | None = None) -> Policy:
    """The policy in a file; None: the one that comes with EdgeSafe. Raises: EdgeSafeError, naming file, table and key."""
    if path is None:
        return parse(default_text(), "the default policy")
    if not Path(path).is_file():
        raise EdgeSafeError(f"--policy {path}: no such file. `edgesafe gate --print-policy > {path}` writes one to start from")
    try:
        return parse(Path(path).read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise EdgeSafeError(f"{path}: not UTF-8 text ({error})") from error


def parse(text: str, source: str) -> Policy:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EdgeSafeError(f"{source}: not valid TOML: {error}") from error
    tables = {"default": "a table of limits", "concept": "tables of limits", "detectors": "a table"}
    plain = {key: value for key, value in table.items() if key not in tables}
    _known(plain, ("lowest_parity_db", "most_days", "recount"), source, "", also=tuple(tables))
    for key in tables:
        _check(isinstance(table.get(key, {}), dict), source, key, f"{table.get(key)!r} is not {tables[key]}")
    default, concepts = _limits(table.get("default", {}), source, "default"), {}
    _check("highest_leak" in table.get("default", {}), source, "default", "needs highest_leak: without it there is no gate")
    for name, row in table.get("concept", {}).items():
        _check(isinstance(row, dict), source, f'concept."{name}"', f"{row!r} is not a table of limits")
        _limits(row, source, f'concept."{name}"')  # by itself first, so that what is wrong is named where it stands
        concepts[name] = _limits(table["default"] | row, source, f'concept."{name}"')
    return Policy(source, text, default, concepts, _detectors(table.get("detectors", {}), source), **_values(plain, source, ""))


def _limits(row: dict[str, Any], source: str, where: str) -> Limits:
    _known(row, tuple(f.name for f in fields(Limits)), source, where)
    return Limits(**{"highest_leak": 1.0} | _values(row, source, where))


def _detectors(row: dict[str, Any], source: str) -> Detectors:
    _known(row, tuple(f.name for f in fields(Detectors)), source, "detectors")
    hashes = row.get("sha256", {})
    _check(isinstance(hashes, dict), source, "detectors.sha256", f"{hashes!r} is not a table of detector = [hashes]")
    found = {name: _names([one] if isinstance(one, str) else one, source, f"detectors.sha256.{name}") for name, one in hashes.items()}
    for name, digests in found.items():
        for digest in digests:
            right = len(digest) == 64 and not set(digest) - set("0123456789abcdef")
            _check(right, source, f"detectors.sha256.{name}", f"{digest!r} is no sha256 of 64 lower-case hex digits")
    required, allowed = (_names(row.get(key, []), source, f"detectors.{key}") for key in ("required", "allowed"))
    outside = [name for name in required if allowed and name not in allowed]
    _check(not outside, source, "detectors", f"{', '.join(outside)} is required but not allowed: put it into both lists")
    return Detectors(required, allowed, found)


def _values(row: dict[str, Any], source: str, where: str) -> dict[str, Any]:
    """Keys that are known, each of the right type and within its range."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        place = f"{where}.{key}" if where else key
        if key == "probes":
            found[key] = _names(value, source, place)
        elif key == "recount":
            _check(isinstance(value, bool), source, place, f"{value!r}: needs true or false")
            found[key] = value
        else:
            low, high = RANGES[key]
            kinds = (int,) if key in WHOLE else (int, float)
            number = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
            _check(number, source, place, f"{value!r}: needs a {'whole ' if key in WHOLE else ''}number from {low} to {high}")
            found[key] = value
    return found


def _names(value: Any, source: str, place: str) -> tuple[str, ...]:
    right = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    _check(right, source, place, f"{value!r}: needs a list of names, such as [\"plain\"]")
    return tuple(value)


def _known(row: dict[str, Any], names: tuple[str, ...], source: str, where: str, also: tuple[str, ...] = ()) -> None:
    for key in row:
        table = f"[{where}] has" if where else "has"
        if key not in names:
            raise EdgeSafeError(f"{source}: {table} an unknown key {key!r}; known: {', '.join((*names, *also))}")


def _check(right: bool, source: str, place: str, message: str) -> None:
    if not right:
        raise EdgeSafeError(f"{source}: {place}: {message}")
