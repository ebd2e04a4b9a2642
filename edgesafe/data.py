"""Captioned pictures to distil on: the embedded emoji world, an image folder, or captions alone, whose pictures the teacher draws.

Every source gives step n's batch from the seed and n alone, so that a run resumed at step n sees what it would have seen.
Latents are (B, C, h, w), scaled by the VAE's `scaling_factor`; what is kept in memory is the posterior's mean and deviation, fp16.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Generator, Tensor

from . import checkpoint, model, sampling
from .emoji.world import World
from .errors import EdgeSafeError
from .families import Conditions, stack
from .model import TextToImage, predictor

Show = Callable[[Sequence, str], Iterable]  # a progress bar around a sequence
DRAW_BATCH = 16  # pictures drawn at once
CACHE_BYTES = 2**31  # of encoded pictures and of text states


def silent(rows: Sequence, _what: str) -> Iterable:
    return rows


def generator(seed: int, *purpose: object) -> Generator:
    """A CPU generator of its own for each purpose: equal on every device, independent of what ran before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


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


@torch.no_grad()
def encode_pixels(net: TextToImage, pixels: Tensor, chunk: int = 32) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) in [0, 1] -> mean and deviation (N, C, h, w), fp16 on the CPU."""
    parts = []
    for x in pixels.split(chunk):
        if x.shape[-1] != net.picture_size:
            x = F.interpolate(x, size=(net.picture_size,) * 2, mode="bilinear", antialias=True)
        posterior = net.vae.encode((x * 2 - 1).to(net.vae.device, net.vae.dtype)).latent_dist
        parts.append((posterior.mean.half().cpu(), posterior.std.half().cpu()))
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    return mean, std


class TextConditions:
    """What the UNet reads of captions, each encoded once, alone (so that its bits do not depend on its neighbours)."""

    def __init__(self, net: TextToImage) -> None:
        size = 4 * net.tokenizer.model_max_length * net.unet.config.cross_attention_dim
        self._one = lru_cache(maxsize=max(64, CACHE_BYTES // 4 // size))(lambda caption: model.conditions(net, [caption]))

    def __call__(self, captions: Sequence[str]) -> Conditions:
        return stack(*(self._one(caption) for caption in captions))


@dataclass
class EmojiWorld:
    """Pictures of the world drawn anew: `bank` at a time, and again once each was seen `replays` times on average (0: never again)."""

    world: World
    net: TextToImage
    seed: int
    size: int  # of a batch
    bank: int
    replays: int
    _era: int = -1
    _pictures: Pictures = field(init=False)

    def prepare(self, folder: Path, show: Show) -> None:
        self._fill(0, show)

    def batch(self, n: int) -> Batch:
        era = n * self.size // (self.bank * self.replays) if self.replays else 0
        if era != self._era:
            self._fill(era, silent)
        rows = generator(self.seed, "emoji rows", n)
        return self._pictures.draw(torch.randint(self.bank, (self.size,), generator=rows), rows)

    def examples(self) -> list[str]:
        return [f"{s.name} {style} style" for s in self.world.subjects[9:33:8] for style in self.world.styles]

    def _fill(self, era: int, show: Show) -> None:
        draws, parts, captions = generator(self.seed, "emoji bank", era), [], []
        for start in show(range(0, self.bank, 64), "drawing emoji pictures"):
            drawn = self.world.sample(min(64, self.bank - start), draws)
            parts.append(encode_pixels(self.net, drawn.pixels))
            captions += drawn.captions
        mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
        self._pictures, self._era = Pictures(mean, std, captions, self.net.vae.config.scaling_factor), era


@dataclass
class ImageFolder:
    """A Hugging Face imagefolder: pictures and `metadata.jsonl` of {"file_name", "text"}. Each epoch shows each picture once."""

    folder: Path
    net: TextToImage
    seed: int
    size: int
    skipped: list[str] = field(default_factory=list)  # "file: reason"
    rows: list[tuple[Path, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = read_metadata(self.folder)
        shape = self.net.latent_shape
        keep = CACHE_BYTES // (4 * shape[0] * shape[1] * shape[2])
        self._moments = lru_cache(maxsize=keep)(self._encode)

    def prepare(self, folder: Path, show: Show) -> None:
        """Open every picture once; those that cannot be read are skipped, named in `skipped`."""
        with ThreadPoolExecutor(4) as pool:
            reasons = pool.map(_unreadable, [path for path, _ in self.rows])
            checked = [(row, next(reasons)) for row in show(self.rows, "reading pictures")]
        self.skipped = [f"{path}: {why}" for (path, _), why in checked if why]
        self.rows = [row for row, why in checked if not why]
        if not self.rows:
            raise EdgeSafeError(f"--data {self.folder}: none of its {len(checked)} pictures can be read; the first is {self.skipped[0]}")

    def batch(self, n: int) -> Batch:
        total = len(self.rows)
        places = range(n * self.size, (n + 1) * self.size)
        epochs = {e: torch.randperm(total, generator=generator(self.seed, "epoch", e)) for e in {p // total for p in places}}
        rows = [int(epochs[p // total][p % total]) for p in places]
        return self.pictures(rows).draw(torch.arange(self.size), generator(self.seed, "posterior", n))

    def pictures(self, rows: Sequence[int]) -> Pictures:
        mean, std = (torch.stack(column) for column in zip(*(self._moments(i) for i in rows), strict=True))
        return Pictures(mean, std, [self.rows[i][1] for i in rows], self.net.vae.config.scaling_factor)

    def examples(self) -> list[str]:
        return [caption for _, caption in self.rows[:12]]

    def _encode(self, index: int) -> tuple[Tensor, Tensor]:
        mean, std = encode_pixels(self.net, read_picture(self.rows[index][0], self.net.picture_size)[None])
        return mean[0], std[0]


@dataclass
class CaptionList:
    """Captions without pictures: the teacher draws `bank` of them once (DDIM with guidance) and they are kept with the run."""

    captions: list[str]
    net: TextToImage
    seed: int
    size: int
    bank: int
    _pictures: Pictures = field(init=False)

    def prepare(self, folder: Path, show: Show) -> None:
        asked = [self.captions[i % len(self.captions)] for i in range(max(self.bank, len(self.captions)))]
        self._pictures = drawn_by(self.net, asked, self.seed, folder / "drawn.safetensors", show)

    def batch(self, n: int) -> Batch:
        rows = generator(self.seed, "caption rows", n)
        return self._pictures.draw(torch.randint(len(self._pictures.captions), (self.size,), generator=rows), rows)

    def examples(self) -> list[str]:
        return self.captions[:12]


def drawn_by(net: TextToImage, prompts: list[str], seed: int, path: Path, show: Show) -> Pictures:
    """Pictures of the prompts by the model itself, kept in `path` after every batch."""
    done = checkpoint.load(path)[0]["drawn"]["latents"] if path.is_file() else torch.empty(0, *net.latent_shape)
    unet, call = net.unet, predictor(net.unet)
    for start in show(range(len(done), len(prompts), DRAW_BATCH), "the teacher draws pictures"):
        asked = prompts[start : start + DRAW_BATCH]
        noise = sampling.starting_latents([(seed << 20) + start + i for i in range(len(asked))], net.latent_shape).to(unet.device)
        schedule = sampling.scheduler("ddim", net.scheduler_config)
        new = sampling.sample(call, model.conditions(net, asked), model.conditions(net, [""]), noise, schedule)
        done = torch.cat([done, new.cpu()])
        checkpoint.save(path, {"drawn": {"latents": done}}, {"prompts": prompts})
    scale = net.vae.config.scaling_factor
    mean = (done[: len(prompts)] / scale).half()
    return Pictures(mean, torch.zeros_like(mean), prompts, scale)


def read_metadata(folder: Path) -> list[tuple[Path, str]]:
    """(picture, caption) rows of an imagefolder.

    Raises: EdgeSafeError, which names the file and line.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file():
        example = '{"file_name": "1.png", "text": "a red apple"}'
        raise EdgeSafeError(f"--data {folder}: no metadata.jsonl, so no captions. Write it with one line a picture: {example}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
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


def read_picture(path: Path, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the picture's middle square."""
    with Image.open(path) as image:
        square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255


def _unreadable(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        return "missing"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"not a readable picture ({type(error).__name__})"
    return None


def read_captions(path: Path) -> list[str]:
    captions = [text for line in path.read_text(encoding="utf-8").splitlines() if (text := line.strip())]
    if not captions:
        raise EdgeSafeError(f"--data {path}: empty; write one caption a line")
    return captions


def open_source(data: str, net: TextToImage, seed: int, size: int, bank: int, replays: int) -> Source:
    """The source that `--data` names: "emoji", an image folder, or a .txt file of captions."""
    if data == "emoji":
        return EmojiWorld(World(), net, seed, size, bank, replays)
    path = Path(data).expanduser()
    if path.is_dir():
        return ImageFolder(path, net, seed, size)
    if path.is_file() and path.suffix == ".txt":
        return CaptionList(read_captions(path), net, seed, size, bank)
    raise EdgeSafeError(f"--data {data}: needs 'emoji', a folder with metadata.jsonl, or a .txt file with one caption a line")
