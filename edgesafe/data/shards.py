"""What a stream reads: shards of records, and the index of what is known of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..artifact import write_whole
from ..errors import EdgeSafeError

EXAMPLES = 12  # captions kept for previews


@dataclass(frozen=True)
class Record:
    name: str
    picture: bytes | None  # a picture file's
    caption: str | None
    fault: str = "no picture"  # why it cannot be used, where one of them is missing


class Shards(Protocol):
    @property
    def label(self) -> str:
        """What the user gave."""

    def names(self) -> dict[str, str]:
        """Shard -> what changes where its records do."""

    def read(self, shard: str) -> Iterator[Record]:
        """Raises: EdgeSafeError where the shard is gone or damaged, by name."""


@dataclass(frozen=True)
class Part:
    """PART consecutive records of a shard, or what is left of it."""

    shard: str
    number: int
    rows: int  # records, whether or not they can be used


class Index:
    """What is known of the shards, in a JSON file of the run."""

    def __init__(self, path: Path, shards: Shards, part: int) -> None:
        self._path, self._part, known = path, part, shards.names()
        fresh = {"shards": {name: {"is": what} for name, what in known.items()}}
        saved: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else fresh
        before = {name: entry["is"] for name, entry in saved["shards"].items()}
        changed = sorted(name for name in before.keys() | known.keys() if before.get(name) != known.get(name))
        if changed:
            found = f"{changed[0]} was {before.get(changed[0], 'not there')} and is {known.get(changed[0], 'gone')}"
            raise EdgeSafeError(f"--data {shards.label}: its shards are not those that the run began with: {found}. Put them back")
        self._shards: dict[str, dict] = saved["shards"]
        self.skipped: dict[str, list[str]] = saved.get("skipped", {})  # by part
        self.examples: list[str] = saved.get("examples", [])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def identity(self, shard: str) -> str:
        return f"{shard} {self._shards[shard]['is']}"

    def rows(self, shard: str, number: int) -> int | None:
        """Records in a part: 0 past the shard's end, None if not known yet."""
        entry = self._shards[shard]
        left = entry.get("rows", 0) - number * self._part
        return max(0, min(self._part, left)) if entry.get("whole") or left >= self._part else None

    @property
    def total(self) -> int | None:
        """Records of an epoch, once every shard was read to its end."""
        return sum(e["rows"] for e in self._shards.values()) if all(e.get("whole") for e in self._shards.values()) else None

    def learn(self, part: Part, skipped: list[str], captions: list[str]) -> None:
        entry, seen = self._shards[part.shard], part.number * self._part + part.rows
        entry |= {"rows": max(entry.get("rows", 0), seen), "whole": entry.get("whole", False) or part.rows < self._part}
        if skipped:
            self.skipped[f"{part.shard} {part.number}"] = skipped
        if len(self.examples) < EXAMPLES:
            self.examples = list(dict.fromkeys([*self.examples, *captions]))[:EXAMPLES]
        known = {"shards": self._shards, "skipped": self.skipped, "examples": self.examples}
        write_whole(self._path, json.dumps(known))
