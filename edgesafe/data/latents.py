"""Encoded pictures kept on disk, so that a second epoch and a resumed run encode nothing.

Safetensors files of up to PART pictures, fp16 mean and deviation (B, C, h, w): 4 C h w bytes a picture, 64 KiB at 512 pixels in Stable
Diffusion. They lie in a folder named after the VAE's weights and the pictures' size, so runs may share it (`latent_cache`). Past
`limit` bytes nothing more is kept, and pictures are encoded again. A kill loses what was not written yet: less than PART pictures.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .. import checkpoint
from ..model import TextToImage
from .source import CACHE_BYTES

PART = 256  # pictures a file
Moments = tuple[Tensor, Tensor]  # mean and deviation (C, h, w), fp16


@dataclass(frozen=True)
class Keep:
    """Where encoded pictures are kept, and how many GiB of them."""

    folder: str | None = None  # by default the run's checkpoint folder
    gib: float = 8.0  # 0: none on disk


RUN = Keep()


class LatentCache:
    def __init__(self, net: TextToImage, keep: Keep, run: Path) -> None:
        root = Path(keep.folder).expanduser() if keep.folder else run / "latents"
        self._folder = root / fingerprint(net) if keep.gib else None
        parts = sorted(self._folder.glob("*.safetensors")) if self._folder else []
        self._limit, self._bytes = keep.gib * 2**30, sum(path.stat().st_size for path in parts)
        shape = net.latent_shape
        self._most = max(1, CACHE_BYTES // (4 * shape[0] * shape[1] * shape[2]))
        self._memory: OrderedDict[str, Moments] = OrderedDict()
        self._pending: dict[str, Moments] = {}
        self._places = {key: (path, row) for path in parts for row, key in enumerate(_keys(path))}
        self._open = lru_cache(maxsize=64)(lambda path: safe_open(path, "pt"))

    def __contains__(self, key: str) -> bool:
        return key in self._memory or key in self._pending or key in self._places

    def get(self, key: str) -> Moments | None:
        """One picture's moments, where they are known."""
        if found := self._memory.get(key) or self._pending.get(key):
            return found
        if key not in self._places:
            return None
        path, row = self._places[key]
        file = self._open(path)
        found = (file.get_slice("part/mean")[row], file.get_slice("part/std")[row])
        self._remember(key, found)
        return found

    def put(self, key: str, moments: Moments) -> None:
        self._remember(key, moments)
        if self._folder:
            self._pending[key] = moments
            if len(self._pending) >= PART:
                self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if not self._pending:
            return
        keys = list(self._pending)
        mean, std = (torch.stack(column) for column in zip(*self._pending.values(), strict=True))
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        if path := self.write(name, mean, std, {"keys": keys}):
            self._places |= {key: (path, row) for row, key in enumerate(keys)}
        self._pending.clear()

    def write(self, name: str, mean: Tensor, std: Tensor, meta: Mapping[str, Any]) -> Path | None:
        """Keep many pictures (N, C, h, w) under a name of their own; None where there is no more room."""
        if self._folder is None or self._bytes + mean.nbytes + std.nbytes > self._limit:
            return None
        path = self._folder / f"{name}.safetensors"
        own = path.with_suffix(f".{os.getpid()}")  # several processes may write the same part
        checkpoint.save(own, {"part": {"mean": mean, "std": std}}, meta)
        os.replace(own, path)
        self._bytes += path.stat().st_size
        return path

    def read(self, name: str) -> tuple[Tensor, Tensor, dict[str, Any]] | None:
        """What `write` kept under the name."""
        path = self._folder / f"{name}.safetensors" if self._folder else None
        if path is None or not path.is_file():
            return None
        groups, meta = checkpoint.load(path)
        return groups["part"]["mean"], groups["part"]["std"], meta

    def _remember(self, key: str, moments: Moments) -> None:
        self._memory[key] = moments
        if len(self._memory) > self._most:
            self._memory.popitem(last=False)


def fingerprint(net: TextToImage) -> str:
    """Equal for models with the same VAE weights and picture size."""
    digest = hashlib.sha256(f"{net.picture_size} {net.vae.dtype}".encode())
    for name, tensor in net.vae.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _keys(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["meta"]).get("keys", [])
