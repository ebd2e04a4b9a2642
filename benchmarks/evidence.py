"""The audit that speaks for an export: found beside it, read, and checked before anybody believes it.

An audit cites the sha256 of the manifest that it measured. It is refused when it is of another schema version, does not follow the
schema, was changed since it was written, or cites another manifest. `recount` counts its pictures.jsonl again.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from edgesafe.errors import EdgeSafeError
from edgesafe.metrics import bootstrap
from edgesafe.metrics.wilson import interval

AUDIT, SCHEMA = "audit.json", "audit.schema.json"
SAME = "same prompts and seeds"  # what a control was asked that stands beside its own cell's pictures
ROUNDED = 2e-3  # by which a limit may differ when it is worked out again
KEY = "fingerprint"  # of an audit: what `fingerprint` gives for the rest of it
AGAIN = "Audit the export again: edgesafe audit"


def find(export: Path, digest: str, given: Path | None = None) -> tuple[Path, list[Path]]:
    """The newest audit that cites the manifest `digest`, and the older ones: in the export, and in the folders beside it.

    Raises: EdgeSafeError, which says what lies there and how an audit is made.
    """
    make = f"Make one with: edgesafe audit {export}"
    if given is not None:
        cites = _glance(load(given))[0]
        if cites != digest:
            raise EdgeSafeError(f"{given}: it cites the manifest {_short(cites)}, and {export} has {_short(digest)}. {make}")
        return given, []
    home, glances = export.resolve(), {}
    for path in map(_from_here, sorted({home / AUDIT, *home.parent.glob(f"*/{AUDIT}")})):
        if path.is_file():
            try:
                glances[path] = _glance(load(path))
            except EdgeSafeError:
                glances[path] = None, _when(None)  # of some other export, perhaps: named below if no other audit is found
    right = sorted((path for path in glances if glances[path][0] == digest), key=lambda path: glances[path][1], reverse=True)
    if right:
        return right[0], right[1:]
    if not glances:
        raise EdgeSafeError(f"{export}: nobody audited it: there is no {AUDIT} in it or in a folder beside it. {make}")
    others = "; ".join(f"{path} cites {_short(found[0])}" for path, found in glances.items())
    raise EdgeSafeError(f"{export}: no audit of it: its manifest is {_short(digest)}, and {others}. {make}, or name one with --audit")


def schema(name: str = SCHEMA) -> dict[str, Any]:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def load(path: Path) -> dict[str, Any]:
    """A JSON object, unchecked."""
    if not path.is_file():
        raise EdgeSafeError(f"{path}: no such file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeSafeError(f"{path}: not valid JSON ({error}). {AGAIN}") from error
    if not isinstance(found, dict):
        raise EdgeSafeError(f"{path}: neither an audit nor a report: it holds no object")
    return found


def read(path: Path) -> dict[str, Any]:
    """An audit.json. Raises: EdgeSafeError for one of another version, that does not follow the schema, or that was changed."""
    return checked(load(path), path)


def checked(audit: dict[str, Any], path: Path, where: str = "") -> dict[str, Any]:
    """The audit, if it follows the schema and its rates can be. where: of it in the file, as "audit/"."""
    _check_version(audit, path)
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(audit))
    if wrong is not None:
        place = where + ("/".join(map(str, wrong.absolute_path)) or "the whole")
        raise EdgeSafeError(f"{path}: {place}: {wrong.message[:200]}. It was changed, or another EdgeSafe wrote it. {AGAIN}")
    if audit[KEY] != fingerprint(audit):
        raise EdgeSafeError(f"{path}: it was changed since it was written: its {where}{KEY} is of another audit. {AGAIN}")
    for place, rate in _rates(audit, ""):
        if doubt := _impossible(rate):
            raise EdgeSafeError(f"{path}: {where}{place}: {doubt}. It was changed. {AGAIN}")
    return audit


def fingerprint(audit: dict[str, Any]) -> str:
    """sha256 of all of an audit but its own fingerprint, whatever the spaces and the order of keys: it is the same within report.json."""
    bare = {key: value for key, value in audit.items() if key != KEY}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def pictures(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a pictures.jsonl."""
    if not path.is_file():
        raise EdgeSafeError(f"{path}: not there, so nothing can be counted again")
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                missing = {"model", "probe", "cell", "detector", "prompt", "plain", "seed", "outcome"} - set(row)
            except (ValueError, TypeError) as error:
                raise EdgeSafeError(f"{path}: line {number} is not a picture's record ({error}). {AGAIN}") from error
            if missing:
                raise EdgeSafeError(f"{path}: line {number} lacks {sorted(missing)[0]!r}. {AGAIN}")
            yield row


def recount(path: Path, audit: dict[str, Any]) -> list[str]:
    """What the pictures beside an audit do not bear out, in words; nothing: they bear out all of it."""
    seen: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in pictures(path.parent / Path(audit["pictures"]).name):
        seen[row["model"], row["probe"], row["cell"], row["detector"]].append(row)
    doubts = []
    for cell in audit["cells"]:
        for model in ("export", *(["control"] if cell["control_is"] == SAME else [])):
            if cell["status"] == "measured" and cell[model]:
                rows = seen[model, cell["probe"], f"erased {cell['concept']}", cell["detector"]]
                where = f"{cell['probe']}, “{cell['concept']}”, {cell['detector']}, {model}"
                doubts += [f"{where}: {difference}" for difference in _differences(cell[model], rows)]
    for row in audit["kept"]:
        title = f"{row['cell']} of {row['concept']}" if row["concept"] else row["cell"]
        for model in ("export", "control"):
            for kind in ("right", "none"):
                said = (row[model] or {}).get(kind)
                counted = sum(one["outcome"] == kind for one in seen[model, "plain", title, row["detector"]])
                if said and said["numerator"] != counted:
                    doubts.append(f"{title}, {row['detector']}, {model}: {said['numerator']} {kind}, {counted} in the file")
    return doubts


def age_days(audit: dict[str, Any], now: datetime | None = None) -> float:
    """Negative for one from the future."""
    return ((now or datetime.now(UTC)) - _when(audit["created"])).total_seconds() / 86_400


def _differences(said: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    if len(rows) != said["asked"]:
        yield f"{said['asked']} asked, {len(rows)} in the file"
        return
    for outcome in ("leaked", "removed", "gone", "other", "none"):
        counted = sum(row["outcome"] == outcome for row in rows)
        if counted != said[outcome]["numerator"]:
            yield f"{said[outcome]['numerator']} {outcome}, {counted} in the file"
    if rows:
        by_prompt = bootstrap.clustered([row["outcome"] == "leaked" for row in rows], [row["plain"] or row["prompt"] for row in rows])[1]
        if said["leaked"]["upper95"] < by_prompt - ROUNDED:
            yield f"an upper limit of {said['leaked']['upper95']}, {by_prompt:.4f} by the prompts in the file"


def _check_version(audit: dict[str, Any], path: Path) -> None:
    known, version = schema()["properties"]["schema_version"]["const"], audit.get("schema_version")
    if version != known:
        said = f"an audit of schema version {version!r}, but this EdgeSafe reads {known}"
        raise EdgeSafeError(f"{path}: {said}. Use the one that wrote it, or audit the export again")


def _rates(row: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(row, dict) and {"numerator", "denominator"} <= set(row):
        yield where, row
    elif isinstance(row, dict | list):
        for key, value in row.items() if isinstance(row, dict) else enumerate(row):
            yield from _rates(value, f"{where}/{key}".strip("/"))


def _impossible(rate: dict[str, Any]) -> str | None:
    """Why no count gives this rate."""
    hits, total = rate["numerator"], rate["denominator"]
    if hits > total:
        return f"{hits} of {total}"
    if "upper95" not in rate:
        return None
    low, high = interval(hits, total)
    if (rate["rate"] is None) != (total == 0) or (total and abs(rate["rate"] - hits / total) > ROUNDED):
        return f"{hits} of {total} is not {rate['rate']}"
    if max(abs(rate["wilson95"][0] - low), abs(rate["wilson95"][1] - high)) > ROUNDED:
        return f"the Wilson interval of {hits} of {total} is not {rate['wilson95']}"
    if rate["upper95"] < max(high, rate["clustered95"][1]) - ROUNDED:
        return f"the upper limit {rate['upper95']} lies under its own intervals, {rate['wilson95']} and {rate['clustered95']}"
    return None


def _glance(audit: dict[str, Any]) -> tuple[str | None, datetime]:
    """(the manifest's sha256 that it cites, when it was made), without believing more of it."""
    cited = audit.get("artifact")
    return cited.get("sha256") if isinstance(cited, dict) else None, _when(audit.get("created"))


def _when(text: Any) -> datetime:
    """The beginning of time for what is no date."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _short(digest: Any) -> str:
    return f"{digest[:12]}…" if isinstance(digest, str) else "no manifest"
