"""Hugging Face datasets, streamed: `hf:owner/name`, or `hf:` and a local folder that `datasets` reads (parquet, imagefolder, tar).

Options follow a question mark: `hf:owner/name?image=picture&caption=title&split=train&config=small&revision=SHA`. Without them the
picture is the one column of that type and the caption is called one of CAPTIONS, or is the one column of text. A dataset that moved on
the hub since the run began is refused; `revision` holds it still.

Pictures come as bytes and are decoded here, so that a broken one is skipped and not the end of the run. `datasets` runs no code of a
repository (scripts are gone since its version 4).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ..errors import EdgeSafeError, first_line
from .stream import Record

CAPTIONS = ("text", "caption", "captions", "prompt")
OPTIONS = ("image", "caption", "split", "config", "revision")
MOST = 1024  # shards; more files than that are read in groups


@dataclass
class HubDataset:
    label: str  # as the user gave it
    source: str  # owner/name, or a folder
    options: dict[str, str] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        files = self._builder.config.data_files[self._split]
        about = repr(([Path(file).name for file in files], files.origin_metadata, sorted(self.options.items())))
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        return {f"{i} of {self._count}": f"{self.source} {digest}" for i in range(self._count)}

    def read(self, shard: str) -> Iterator[Record]:
        image, caption = self._columns
        part = self._rows.shard(num_shards=self._count, index=int(shard.split()[0]))
        try:
            for number, row in enumerate(part):
                picture, fault = _bytes(row[image])
                yield Record(f"{self.label} shard {shard} row {number}", picture, _text(row[caption]), fault)
        except (OSError, ValueError) as error:
            raise EdgeSafeError(f"--data {self.label}: shard {shard} cannot be read ({first_line(error)}); go on with --resume") from error

    @cached_property
    def _builder(self) -> Any:
        from datasets import load_dataset_builder

        try:
            return load_dataset_builder(self.source, name=self.options.get("config"), revision=self.options.get("revision"))
        except (OSError, ValueError) as error:
            raise EdgeSafeError(f"--data {self.label}: datasets cannot open it ({first_line(error)})") from error

    @cached_property
    def _split(self) -> str:
        known = [str(name) for name in self._builder.config.data_files]
        asked = self.options.get("split") or ("train" if "train" in known else known[0])
        if asked not in known:
            raise EdgeSafeError(f"--data {self.label}: no split {asked!r}; it has {', '.join(known)}: add ?split=")
        return asked

    @cached_property
    def _stream(self) -> Any:
        return self._builder.as_streaming_dataset(split=self._split)

    @cached_property
    def _rows(self) -> Any:
        """The two columns, pictures as bytes."""
        from datasets import Image

        image, caption = self._columns
        return self._stream.select_columns([image, caption]).cast_column(image, Image(decode=False))

    @property
    def _count(self) -> int:
        return min(self._stream.num_shards, MOST)

    @cached_property
    def _columns(self) -> tuple[str, str]:
        from datasets import Image, Value

        features = self._stream.features or {name: None for name in next(iter(self._stream), {})}
        pictures = [name for name, kind in features.items() if isinstance(kind, Image)]
        texts = [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype in ("string", "large_string")]
        named = [name for name in CAPTIONS if name in features]
        image = self._column("image", pictures[0] if len(pictures) == 1 else None, features)
        return image, self._column("caption", named[0] if named else texts[0] if len(texts) == 1 else None, features)

    def _column(self, what: str, found: str | None, features: Any) -> str:
        name = self.options.get(what, found)
        if name is None or name not in features:
            problem = f"has no column {name!r}" if name else f"does not say which column is the {what}"
            raise EdgeSafeError(f"--data {self.label}: {problem}; it has {', '.join(features)}: add ?{what}=")
        return name


def _bytes(value: Any) -> tuple[bytes | None, str]:
    """A picture file's bytes, or why there are none."""
    import fsspec

    if not value or (value.get("bytes") is None and value.get("path") is None):
        return None, "no picture"
    if value.get("bytes") is not None:
        return value["bytes"], "no caption"
    try:
        with fsspec.open(value["path"], "rb") as file:
            return file.read(), "no caption"
    except FileNotFoundError:
        return None, "missing"


def _text(value: Any) -> str | None:
    """The caption; of several the first."""
    first = value[0] if isinstance(value, list) and value else value
    return (first.strip() or None) if isinstance(first, str) else None


def parse(data: str) -> HubDataset:
    """`hf:SOURCE?key=value&...`"""
    source, _, query = data.removeprefix("hf:").partition("?")
    if not source:
        raise EdgeSafeError(f"--data {data}: no dataset after the colon; write hf:owner/name, or hf: and a folder")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [key for key in options if key not in OPTIONS]:
        raise EdgeSafeError(f"--data {data}: unknown option {unknown[0]!r}; known: {', '.join(OPTIONS)}")
    return HubDataset(data, str(Path(source).expanduser()) if source.startswith("~") else source, options)
