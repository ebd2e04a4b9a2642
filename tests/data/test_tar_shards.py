import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from edgesafe.data import Stream, open_source, tar_shards
from edgesafe.errors import EdgeSafeError

from .conftest import pair, png, tar


class Planted:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def records(path: Path) -> list[tuple[bytes | None, str | None]]:
    found = tar_shards.find(str(path))
    return [(r.picture, r.caption) for r in found.read(str(path))]


def test_shards_of_webdatasets_own_writer(tmp_path: Path):
    path = tmp_path / "0.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for i in range(3):
            sink.write({"__key__": f"{i:03d}", "png": png(i), "txt": f"number {i}", "cls": i})
    assert records(path) == [(png(i), f"number {i}") for i in range(3)]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "PNG"])
def test_every_kind_of_picture_and_caption(tmp_path: Path, suffix: str):
    members = {f"a/1.{suffix}": png(1), "a/1.txt": b" one \n", "a/1.json": b'{"caption": "not this"}'}
    members |= {f"a/2.{suffix}": png(2), "a/2.json": b'{"caption": "two", "width": 64}'}
    members |= {f"a/3.{suffix}": png(3), "a/3.json": b'"three"'}
    members |= {f"a/4.{suffix}": png(4), "a/4.json": b'{"text": "four"}'}
    members |= {f"a/5.{suffix}": png(5), "a/5.json": b'{"width": 64}'}
    path = tar(tmp_path / "0.tar", members)
    assert records(path) == [(png(i + 1), caption) for i, caption in enumerate(("one", "two", "three", "four", None))]


def test_pickles_in_a_shard_are_never_opened(tmp_path: Path):
    trap, path = tmp_path / "trap", tar(tmp_path / "0.tar", {"1.pyd": pickle.dumps(Planted(tmp_path / "trap"))})
    with path.open("rb") as stream:  # webdataset's own decoder falls for it
        files = tar_file_expander([{"url": str(path), "stream": stream}])
        assert len(list(webdataset.decode()(group_by_keys(files)))) == 1
    assert trap.exists()
    trap.rmdir()
    planted = {f"0000.{suffix}": pickle.dumps(Planted(trap)) for suffix in ("pyd", "pickle", "pkl", "pth", "npy")}
    path = tar(tmp_path / "1.tar", pair(0) | planted)
    assert records(path) == [(png(0), "picture 0")]
    assert not trap.exists()


def test_what_names_shards(tmp_path: Path, net):
    for i in (0, 1, 2, 10):
        tar(tmp_path / "s" / f"{i:05d}.tar", pair(i))

    def found(data: str) -> list[str]:
        return [path.stem for path in tar_shards.find(str(tmp_path / data)).paths]

    assert found("s") == found("s/*.tar") == found("s/{{00000..00002},00010}.tar") == ["00000", "00001", "00002", "00010"]
    assert found("s/{00000..00001}.tar") == found("s/0000[01].tar") == ["00000", "00001"]
    assert found("s/00002.tar") == ["00002"]
    assert isinstance(open_source(str(tmp_path / "s"), net, 0, 2, 8, 0), Stream)
    assert tar_shards.find(str(tmp_path)) is None and tar_shards.find("captions.txt") is None
    with pytest.raises(EdgeSafeError, match=r"1 of 4 shards are missing; the first is .*00003.tar"):
        tar_shards.find(str(tmp_path / "s" / "{00000..00003}.tar")).names()
    with pytest.raises(EdgeSafeError, match="no file has such a name"):
        tar_shards.find(str(tmp_path / "t*.tar"))
    with pytest.raises(EdgeSafeError, match="its braces do not close"):
        tar_shards.find(str(tmp_path / "{00.tar"))


def test_damaged_shards_are_named(tmp_path: Path):
    path = tar(tmp_path / "0.tar", pair(0) | pair(1))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(EdgeSafeError, match=r"shard .*0.tar cannot be read \(unexpected end of data"):
        records(path)
    path.write_bytes(b"no tar file at all" * 100)
    with pytest.raises(EdgeSafeError, match=r"shard .*0.tar cannot be read"):
        records(path)
    tar(path, pair(0) | {"0000.PNG": png(0)})
    with pytest.raises(EdgeSafeError, match="duplicate file name"):
        records(path)
