"""What every source of captioned pictures is: step n's batch from the seed and n alone, so that a resumed run sees what it would have seen.

Latents are (B, C, h, w), scaled by the VAE's `scaling_factor`; what is kept in memory is the posterior's mean and deviation, fp16.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..errors import EdgeSafeError

Show = Callable[[Sequence, str], Iterable]  # a progress bar around a sequence
CACHE_BYTES = 2**31  # of encoded pictures and of text states


def silent(rows: Sequence, _what: str) -> Iterable:
    return rows


def generator(seed: int, *purpose: object) -> Generator:
    """A CPU generator of its own for each purpose: equal on every device, independent of what ran before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def read_text(path: Path) -> str:
    """Raises: EdgeSafeError where it is not UTF-8, which captions are to be."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EdgeSafeError(f"--data {path}: not UTF-8 (byte {error.start}). Save it in UTF-8") from error


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # (B, C, h, w)
    captions: list[str]


@dataclass
class Pictures:
    """N encoded pictures with their captions."""

    mean: Tensor  # (N, C, h, w) of the posterior, fp16
    std: Tensor
    captions: list[str]
    scale: float  # the VAE's scaling_factor

    @staticmethod
    def together(parts: Sequence["Pictures"]) -> "Pictures":
        """All of them, in this order; of one VAE."""
        mean, std = (torch.cat(column) for column in zip(*((p.mean, p.std) for p in parts), strict=True))
        return Pictures(mean, std, [caption for p in parts for caption in p.captions], parts[0].scale)

    def at(self, rows: Tensor) -> "Pictures":
        return Pictures(self.mean[rows], self.std[rows], [self.captions[i] for i in rows.tolist()], self.scale)

    def draw(self, rows: Tensor, noise: Generator) -> Batch:
        """A fresh draw from the posteriors of these rows."""
        mean, std = self.mean[rows].float(), self.std[rows].float()
        latents = (mean + std * torch.randn(mean.shape, generator=noise)) * self.scale
        return Batch(latents, [self.captions[i] for i in rows.tolist()])


class Source(Protocol):
    def prepare(self, folder: Path, show: Show) -> None:
        """Draw or encode what training needs at once; `folder` keeps what is too dear to draw twice."""

    def batch(self, n: int) -> Batch: ...

    def examples(self) -> list[str]:
        """A few captions, for previews."""
