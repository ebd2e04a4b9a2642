"""Pictures whose mean colour tells which one it is, in tar shards and in folders that `datasets` reads."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgesafe import model

Members = dict[str, bytes]


@pytest.fixture(scope="session")
def net(tiny_sd1: Path) -> model.TextToImage:
    return model.load(tiny_sd1)


def png(i: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), (10 * (i % 25), 10 * (i // 25), 90)).save(made, "PNG")
    return made.getvalue()


def pair(i: int) -> Members:
    return {f"{i:04d}.png": png(i), f"{i:04d}.txt": f"picture {i}".encode()}


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            file.addfile(about, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Tar shards of so many pictures each, in a folder."""

    def make(*sizes: int, folder: str = "shards") -> Path:
        first = 0
        for number, size in enumerate(sizes):
            tar(tmp_path / folder / f"{number:05d}.tar", {k: v for i in range(first, first + size) for k, v in pair(i).items()})
            first += size
        return tmp_path / folder

    return make


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the VAE's encoder got."""
    from edgesafe.data import image_folder, stream
    from edgesafe.data.picture import encode_pixels

    calls: list[int] = []

    def counting(net, pixels, *chunk):
        calls.append(len(pixels))
        return encode_pixels(net, pixels, *chunk)

    for module in (image_folder, stream):
        monkeypatch.setattr(module, "encode_pixels", counting)
    return calls
