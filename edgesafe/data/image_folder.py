"""A Hugging Face imagefolder: pictures and `metadata.jsonl` with their captions."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..errors import EdgeSafeError
from ..model import TextToImage
from .latents import RUN, Keep, LatentCache, Moments
from .picture import AT_ONCE, WORKERS, encode_pixels, read_picture, unreadable
from .source import Batch, Pictures, Show, generator, read_text


@dataclass
class ImageFolder:
    """A Hugging Face imagefolder: pictures and `metadata.jsonl` of {"file_name", "text"}. Each epoch shows each picture once.

    A picture is encoded when it is first asked for, alone on a CPU, so that its bits do not depend on its neighbours.
    """

    folder: Path
    net: TextToImage
    seed: int
    size: int
    keep: Keep = RUN
    skipped: list[str] = field(default_factory=list)  # "file: reason"
    rows: list[tuple[Path, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = read_metadata(self.folder)
        self._cache = LatentCache(self.net, replace(self.keep, gib=0), self.folder)

    def prepare(self, folder: Path, show: Show) -> None:
        """Open every picture once that is not encoded yet; those that cannot be read are skipped, named in `skipped`."""
        self._cache = LatentCache(self.net, self.keep, folder)
        with ThreadPoolExecutor(WORKERS) as pool:
            reasons = pool.map(self._fault, [path for path, _ in self.rows])
            checked = [(row, next(reasons)) for row in show(self.rows, "reading pictures")]
        self.skipped = [f"{path}: {why}" for (path, _), why in checked if why]
        self.rows = [row for row, why in checked if not why]
        if not self.rows:
            raise EdgeSafeError(f"--data {self.folder}: none of its {len(checked)} pictures can be read; the first is {self.skipped[0]}")

    def batch(self, n: int) -> Batch:
        total = len(self.rows)
        places = range(n * self.size, (n + 1) * self.size)
        epochs = {e: torch.randperm(total, generator=generator(self.seed, "epoch", e)) for e in {p // total for p in places}}
        pictures = self.pictures([int(epochs[p // total][p % total]) for p in places])
        if places.stop >= total:
            self._cache.flush()  # every picture was encoded
        return pictures.draw(torch.arange(self.size), generator(self.seed, "posterior", n))

    def pictures(self, rows: Sequence[int]) -> Pictures:
        names = {i: _key(self.rows[i][0]) for i in rows}
        found = {i: self._cache.get(name) for i, name in names.items()}
        missing = [i for i, moments in found.items() if moments is None]
        for i, moments in zip(missing, self._encode(missing), strict=True):
            found[i] = moments
            self._cache.put(names[i], moments)
        mean, std = (torch.stack(column) for column in zip(*(found[i] for i in rows), strict=True))
        return Pictures(mean, std, [self.rows[i][1] for i in rows], self.net.vae.config.scaling_factor)

    @property
    def label(self) -> str:
        return str(self.folder)

    def captions(self) -> list[str]:
        return [caption for _, caption in self.rows]

    def examples(self) -> list[str]:
        return self.captions()[:12]

    def _encode(self, rows: Sequence[int]) -> Iterator[Moments]:
        chunk = 1 if self.net.vae.device.type == "cpu" else AT_ONCE
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, len(rows), AT_ONCE):
                paths = [self.rows[i][0] for i in rows[start : start + AT_ONCE]]
                pixels = torch.stack(list(pool.map(lambda path: read_picture(path, self.net.picture_size), paths)))
                for mean, std in zip(*encode_pixels(self.net, pixels, chunk), strict=True):
                    yield mean.clone(), std.clone()

    def _fault(self, path: Path) -> str | None:
        return None if path.is_file() and _key(path) in self._cache else unreadable(path)


def _key(path: Path) -> str:
    """A name that changes where the file does."""
    about = path.stat()
    return f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"


def read_metadata(folder: Path) -> list[tuple[Path, str]]:
    """(picture, caption) rows of an imagefolder.

    Raises: EdgeSafeError, which names the file and line.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file():
        example = '{"file_name": "1.png", "text": "a red apple"}'
        raise EdgeSafeError(f"--data {folder}: no metadata.jsonl, so no captions. Write it with one line a picture: {example}")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EdgeSafeError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not isinstance(row.get("text"), str):
            raise EdgeSafeError(f'{path}, line {number}: needs "file_name" and "text", both strings')
        rows.append((folder / row["file_name"], row["text"]))
    if not rows:
        raise EdgeSafeError(f"{path}: empty, so no captions")
    return rows
