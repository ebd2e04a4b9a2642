"""WebDataset shards: tar files whose members share a key, `000017.jpg` and `000017.txt` (or `.json` with the caption in a field).

Only members with the suffixes of pictures and captions are read, as bytes; no decoder of the `webdataset` package runs, so nothing is
ever unpickled.
"""

import glob
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import EdgeSafeError
from .stream import Record

PICTURES = ("jpg", "jpeg", "png", "webp")
CAPTIONS = ("txt", "json")
FIELDS = ("caption", "text", "prompt")  # of a .json


@dataclass(frozen=True)
class TarShards:
    label: str
    paths: tuple[Path, ...]

    def names(self) -> dict[str, str]:
        missing = [path for path in self.paths if not path.is_file()]
        if missing:
            raise EdgeSafeError(f"--data {self.label}: {len(missing)} of {len(self.paths)} shards are missing; the first is {missing[0]}")
        return {str(path): _version(path) for path in self.paths}

    def read(self, shard: str) -> Iterator[Record]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        def wanted(member: str) -> bool:
            return member.lower().endswith(tuple(f".{suffix}" for suffix in PICTURES + CAPTIONS))

        try:
            with open(shard, "rb") as stream:
                for sample in group_by_keys(tar_file_expander([{"url": shard, "stream": stream}], select_files=wanted)):
                    yield record(shard, sample)
        except (OSError, tarfile.TarError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or (error.args or [error])[0]  # webdataset adds arguments of its own
            raise EdgeSafeError(f"--data {self.label}: shard {shard} cannot be read ({why}). Put it right; go on with --resume") from error


def _version(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size} bytes of {datetime.fromtimestamp(about.st_mtime_ns / 1e9, UTC).isoformat()}"


def record(shard: str, sample: dict[str, Any]) -> Record:
    """A group of members, as webdataset makes it: suffix -> bytes, and its key."""
    name = f"{shard} {sample['__key__']}"
    picture = next((sample[suffix] for suffix in PICTURES if suffix in sample), None)
    if picture is None:
        return Record(name, None, None)
    try:
        caption = _caption(sample)
    except ValueError as error:
        return Record(name, picture, None, f"its caption is not readable ({error})")
    return Record(name, picture, caption, "no caption")


def _caption(sample: dict[str, Any]) -> str | None:
    if "txt" in sample:
        return sample["txt"].decode("utf-8").strip() or None
    if "json" in sample:
        about = json.loads(sample["json"])
        found = next((about[key] for key in FIELDS if about.get(key)), None) if isinstance(about, dict) else about
        return found if isinstance(found, str) else None
    return None


def find(data: str) -> TarShards | None:
    """The shards that `--data` names: a .tar file, names with {000..009}, a glob, or a folder; None where it names none.

    Raises: EdgeSafeError for braces that do not close and names that no file has.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        found: Sequence[str] = sorted(str(p) for p in path.glob("*.tar"))
        return _shards(data, found) if found else None
    if not data.endswith(".tar"):
        return None
    if path.is_file():
        return _shards(data, [str(path)])
    from braceexpand import braceexpand

    try:
        names = list(braceexpand(str(path)))
    except ValueError as error:
        raise EdgeSafeError(f"--data {data}: its braces do not close; write them as in shards/{{00000..00009}}.tar") from error
    found = [match for name in names for match in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    if not found:
        raise EdgeSafeError(f"--data {data}: no file has such a name")
    return _shards(data, found)


def _shards(data: str, names: Sequence[str]) -> TarShards:
    return TarShards(data, tuple(Path(name) for name in dict.fromkeys(names)))
