"""Captioned pictures to distil on, a source a file: the embedded emoji world, an image folder, tar shards, a Hugging Face dataset, or
captions alone, whose pictures the teacher draws.

A source is a `Source`: it gives step n's batch from the seed and n alone. `open_source` makes the one that `--data` names.
"""

from pathlib import Path

from ..emoji.world import World
from ..errors import EdgeSafeError
from ..model import TextToImage
from . import hub, tar_shards
from .caption_list import CaptionList, drawn_by, read_captions
from .conditions import TextConditions
from .emoji_world import EmojiWorld
from .image_folder import ImageFolder, read_metadata
from .latents import RUN, Keep
from .picture import encode_pixels, read_picture
from .source import Batch, Pictures, Show, Source, generator, silent
from .stream import Stream

__all__ = [
    "Batch",
    "CaptionList",
    "EmojiWorld",
    "ImageFolder",
    "Keep",
    "Pictures",
    "Show",
    "Source",
    "Stream",
    "TextConditions",
    "drawn_by",
    "encode_pixels",
    "generator",
    "open_source",
    "read_captions",
    "read_metadata",
    "read_picture",
    "silent",
]

KINDS = "'emoji', a folder with metadata.jsonl, tar shards, hf:owner/name, or a .txt file with one caption a line"


def open_source(data: str, net: TextToImage, seed: int, size: int, bank: int, replays: int, keep: Keep = RUN) -> Source:
    """The source that `--data` names."""
    if data == "emoji":
        return EmojiWorld(World(), net, seed, size, bank, replays)
    if data.startswith("hf:"):
        return Stream(hub.parse(data), net, seed, size, bank, keep)
    path = Path(data).expanduser()
    if not (path / "metadata.jsonl").is_file() and (shards := tar_shards.find(data)):
        return Stream(shards, net, seed, size, bank, keep)
    if path.is_dir():
        return ImageFolder(path, net, seed, size, keep)
    if path.is_file() and path.suffix == ".txt":
        return CaptionList(read_captions(path), net, seed, size, bank)
    raise EdgeSafeError(f"--data {data}: needs {KINDS}")
