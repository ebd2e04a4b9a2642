"""Shards read one after the other, for data too large to open at once: tar shards and Hugging Face datasets.

Shards come in an order drawn for each epoch; PART records of one are a part, which is read and encoded at once, and consecutive parts
of about `bank` records are a window, which is shown in an order drawn for it. All orders come from the seed, the epoch and the window,
so step n's batch depends on the seed and n alone. Memory: one window's posteriors (4 C h w bytes a picture), twice
while it is put together.

How many records each shard holds is learned when it is first read to its end, and kept in RUN/checkpoint/shards.json, so that a
resumed run finds step n's window by counting. It then reads that window's parts from the latent cache. Of parts that are not kept it
reads at most the shards' records before them, without decoding. A run without its shards.json reads and encodes all over again.

In the place of a record that cannot be used another of its window is shown once more. It is named in `skipped` and in shards.json.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import EdgeSafeError
from ..model import TextToImage
from .latents import PART, RUN, Keep, LatentCache
from .picture import AT_ONCE, UNREADABLE, WORKERS, encode_pixels, reason, square
from .shards import Index, Part, Record, Shards
from .source import Batch, Pictures, Show, generator, silent

Taken = tuple[Part, Pictures | None]  # a part and, if they are at hand, its pictures


@dataclass(frozen=True)
class Window:
    start: int  # its first record's place, counted from the first epoch's first
    order: Tensor  # (rows,) of its pictures
    pictures: Pictures


@dataclass
class Stream:
    shards: Shards
    net: TextToImage
    seed: int
    size: int
    bank: int
    keep: Keep = RUN
    part: int = PART
    _window: Window | None = field(default=None, init=False)
    _reader: tuple[str, int, Iterator[Record]] | None = field(default=None, init=False)  # shard, next part, what is left of it

    def prepare(self, folder: Path, show: Show) -> None:
        """Read and encode the first window, unless the run was begun before."""
        self._cache = LatentCache(self.net, self.keep, folder)
        self._index = Index(folder / "shards.json", self.shards, self.part)
        if not self._index.examples:
            self._window = self._find(0, show)

    @property
    def skipped(self) -> list[str]:
        """ "record: reason" of all that were met so far."""
        return [line for lines in self._index.skipped.values() for line in lines]

    @property
    def label(self) -> str:
        return f"{self.shards.label} (its first {len(self.captions())} pictures)"

    def captions(self) -> list[str]:
        """Of the first window's pictures."""
        return self._at(0).pictures.captions

    def pictures(self, rows: Sequence[int]) -> Pictures:
        """The first window's, by their place in `captions`."""
        return self._at(0).pictures.at(torch.tensor(rows))

    def examples(self) -> list[str]:
        return self._index.examples

    def batch(self, n: int) -> Batch:
        place, end, found = n * self.size, (n + 1) * self.size, []
        while place < end:
            w = self._at(place)
            rows = w.order[place - w.start :][: end - place]
            found.append(w.pictures.at(rows))
            place += len(rows)
        return Pictures.together(found).draw(torch.arange(self.size), generator(self.seed, "posterior", n))

    def _at(self, place: int) -> Window:
        """The window that holds a place; the one before goes."""
        w = self._window
        if w is None or not w.start <= place < w.start + len(w.order):
            self._window = w = self._find(place, silent)
        return w

    def _find(self, place: int, show: Show) -> Window:
        """The window that holds a place."""
        self._window = None  # one in memory
        epoch = place // total if (total := self._index.total) else 0
        start = epoch * (total or 0)
        while True:
            before, parts, number = start, self._parts(epoch), 0
            while taken := self._take(parts, show):
                rows = sum(part.rows for part, _ in taken)
                if place < start + rows:
                    return Window(start, *self._shown(epoch, number, rows, taken))
                start, number = start + rows, number + 1
            if start == before:
                raise EdgeSafeError(f"--data {self.shards.label}: there is no record in its shards")
            epoch += 1

    def _take(self, parts: Iterator[Taken], show: Show) -> list[Taken]:
        """The next window's parts."""
        many = show(range(max(1, self.bank // self.part)), "encoding pictures")
        return [part for _, part in zip(many, parts, strict=False)]

    def _parts(self, epoch: int) -> Iterator[Taken]:
        """An epoch's parts in their order; encoded, where that is what it took to know how many records they hold."""
        names = list(self._index)
        for i in torch.randperm(len(names), generator=generator(self.seed, "shards", epoch)).tolist():
            for number in count():
                rows = self._index.rows(names[i], number)
                part, pictures = self._load(names[i], number) if rows is None else (Part(names[i], number, rows), None)
                if part.rows:
                    yield part, pictures
                if part.rows < self.part:
                    break

    def _shown(self, epoch: int, number: int, rows: int, taken: list[Taken]) -> tuple[Tensor, Pictures]:
        """A window's order (rows,) and its pictures."""
        pictures = Pictures.together([made or self._load(part.shard, part.number)[1] for part, made in taken])
        usable = len(pictures.captions)
        if not usable:
            where = f"{taken[0][0].shard} to {taken[-1][0].shard}"
            first = self.skipped[0]
            raise EdgeSafeError(f"--data {self.shards.label}: none of {rows} records in {where} can be used; the first is {first}")
        order = torch.randperm(usable, generator=generator(self.seed, "window", epoch, number))
        return order.repeat(-(-rows // usable))[:rows], pictures

    def _load(self, shard: str, number: int) -> tuple[Part, Pictures]:
        """A part's usable pictures, from the cache or from the shard."""
        name = f"{hashlib.sha256(self._index.identity(shard).encode()).hexdigest()[:16]}-{self.part}-{number:06d}"
        if kept := self._cache.read(name):
            mean, std, meta = kept
        else:
            mean, std, meta = self._encode(shard, number)
            self._cache.write(name, mean, std, meta)
        part = Part(shard, number, meta["rows"])
        self._index.learn(part, meta["skipped"], meta["captions"])
        return part, Pictures(mean, std, meta["captions"], self.net.vae.config.scaling_factor)

    def _encode(self, shard: str, number: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        shape, rows, captions, skipped = (0, *self.net.latent_shape), 0, [], []
        moments = [(torch.empty(shape, dtype=torch.float16),) * 2]
        records = islice(self._records(shard, number), self.part)
        with ThreadPoolExecutor(WORKERS) as pool:
            while group := list(islice(records, AT_ONCE)):
                good = []
                for record, pixels in zip(group, pool.map(self._pixels, group), strict=True):
                    if isinstance(pixels, Tensor):
                        good.append(pixels)
                        captions.append(record.caption)
                    else:
                        skipped.append(f"{record.name}: {pixels}")
                moments += [encode_pixels(self.net, torch.stack(good))] if good else []
                rows += len(group)
        if rows == number == 0:
            skipped.append(f"{shard}: empty")
        mean, std = (torch.cat(column) for column in zip(*moments, strict=True))
        return mean, std, {"rows": rows, "captions": captions, "skipped": skipped}

    def _records(self, shard: str, number: int) -> Iterator[Record]:
        """A shard's records from the given part on."""
        if self._reader is None or self._reader[:2] != (shard, number):
            records = self.shards.read(shard)
            self._reader = (shard, number, islice(records, number * self.part, None))
        records = self._reader[2]
        self._reader = (shard, number + 1, records)
        return records

    def _pixels(self, record: Record) -> Tensor | str:
        if record.picture is None or record.caption is None:
            return record.fault
        try:
            with Image.open(io.BytesIO(record.picture)) as image:
                return square(image, self.net.picture_size)
        except UNREADABLE as error:
            return reason(error)
