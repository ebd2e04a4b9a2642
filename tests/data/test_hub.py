"""Hugging Face datasets on this machine, streamed by `datasets` itself: parquet, imagefolder, tar shards, JSON lines."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from edgesafe.data import Keep, Stream, hub, open_source, read_metadata, read_picture, silent
from edgesafe.errors import EdgeSafeError

from .conftest import png, tar


def to_parquet(rows: list[dict], kinds: dict, path: Path) -> None:
    """Pictures as the bytes that are given, so that a broken one gets into the file."""
    import datasets

    files = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    stored = {name: files if isinstance(kind, datasets.Image) else kind for name, kind in kinds.items()}
    made = datasets.Dataset.from_list(rows, features=datasets.Features(stored)).cast(datasets.Features(kinds))
    made.to_parquet(str(path))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of 4, 4 and 3 pictures; the sixth is broken, the eighth has no caption."""
    import datasets

    folder = tmp_path_factory.mktemp("parquet")
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "text": f"picture {i}", "url": f"{i}"} for i in range(11)]
    rows[5]["image"]["bytes"], rows[7]["text"] = b"broken", None
    kinds = {"image": datasets.Image(), "text": datasets.Value("string"), "url": datasets.Value("string")}
    for number, (start, end) in enumerate(((0, 4), (4, 8), (8, 11))):
        to_parquet(rows[start:end], kinds, folder / f"train-{number:05d}-of-00003.parquet")
    return folder


def captions(data: str) -> list[str | None]:
    found = hub.parse(data)
    return [r.caption for shard in found.names() for r in found.read(shard)]


def test_parquet_is_streamed_by_shard(net, parquet: Path, tmp_path: Path):
    found = hub.parse(f"hf:{parquet}")
    assert list(found.names()) == ["0 of 3", "1 of 3", "2 of 3"]
    rows = list(found.read("1 of 3"))
    assert [r.caption for r in rows] == ["picture 4", "picture 5", "picture 6", None] and rows[0].picture == png(4)
    source = open_source(f"hf:{parquet}", net, 0, 11, 16, 0)
    source.prepare(tmp_path / "run", silent)
    assert set(source.batch(0).captions) == {f"picture {i}" for i in range(11) if i not in (5, 7)}
    assert [line.split(" shard ")[1] for line in sorted(source.skipped)] == [
        "1 of 3 row 1: not a readable picture (UnidentifiedImageError)",
        "1 of 3 row 3: no caption",
    ]


@pytest.mark.parametrize("keep", [Keep(), Keep(gib=0)])
def test_a_resumed_run_sees_what_it_would_have_seen(net, parquet: Path, tmp_path: Path, keep: Keep):
    def opened(run: str) -> Stream:
        source = Stream(hub.parse(f"hf:{parquet}"), net, 3, 4, 4, keep, part=2)
        source.prepare(tmp_path / run, silent)
        return source

    whole, begun = opened("whole"), opened("run")
    straight = [whole.batch(n) for n in range(6)]
    for n in range(4):
        begun.batch(n)
    resumed = opened("run")
    for n in (4, 5):
        batch = resumed.batch(n)
        assert batch.captions == straight[n].captions and torch.equal(batch.latents, straight[n].latents)


def test_an_imagefolder_gives_the_pictures_of_its_files(net, tiny_images: Path, tmp_path: Path):
    found = hub.parse(f"hf:{tiny_images}")
    rows = [r for shard in found.names() for r in found.read(shard)]
    known = {caption: path for path, caption in read_metadata(tiny_images)}
    assert {r.caption for r in rows} == set(known)
    assert all(r.picture == known[r.caption].read_bytes() for r in rows)
    source = open_source(f"hf:{tiny_images}", net, 0, 8, 8, 0)
    source.prepare(tmp_path / "run", silent)
    kept = source._window.pictures
    with torch.no_grad():
        pixels = torch.stack([read_picture(known[caption], 64) for caption in kept.captions])
        mode = net.vae.encode(pixels * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(kept.mean.float(), mode, atol=2e-3, rtol=2e-3)


def test_columns_are_found_or_named(tmp_path: Path):
    import datasets

    folder = tmp_path / "two"
    image = {"bytes": png(1), "path": None}
    text = datasets.Value("string")
    kinds = {"left": datasets.Image(), "right": datasets.Image(), "title": text, "notes": datasets.List(text)}
    folder.mkdir()
    to_parquet([{"left": image, "right": image, "title": "a title", "notes": ["first", "second"]}], kinds, folder / "train.parquet")
    with pytest.raises(EdgeSafeError, match=r"which column is the image; it has left, right, title, notes: add \?image="):
        captions(f"hf:{folder}")
    assert captions(f"hf:{folder}?image=left") == ["a title"]
    assert captions(f"hf:{folder}?image=right&caption=notes") == ["first"]
    with pytest.raises(EdgeSafeError, match="has no column 'middle'; it has left, right"):
        captions(f"hf:{folder}?image=middle")
    with pytest.raises(EdgeSafeError, match="no split 'test'; it has train"):
        captions(f"hf:{folder}?image=left&split=test")
    with pytest.raises(EdgeSafeError, match="unknown option 'column'; known: image, caption, split, config, revision"):
        captions(f"hf:{folder}?column=left")


def test_tar_shards_through_datasets(tmp_path: Path):
    members = {name: data for i in range(3) for name, data in {f"{i}.jpg": _jpeg(png(i)), f"{i}.txt": f"picture {i}".encode()}.items()}
    tar(tmp_path / "tars" / "train-0.tar", members)
    assert captions(f"hf:{tmp_path / 'tars'}?image=jpg&caption=txt") == ["picture 0", "picture 1", "picture 2"]


def _jpeg(data: bytes) -> bytes:
    made = io.BytesIO()
    Image.open(io.BytesIO(data)).save(made, "JPEG")
    return made.getvalue()


def test_datasets_that_cannot_be_opened(tmp_path: Path):
    with pytest.raises(EdgeSafeError, match="datasets cannot open it"):
        captions(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(EdgeSafeError, match="hf:nobody/nothing: datasets cannot open it"):
        captions("hf:nobody/nothing")
    with pytest.raises(EdgeSafeError, match="--data hf:.split=train: no dataset after the colon"):
        captions("hf:?split=train")


def test_a_dataset_that_changed_is_refused(net, tmp_path: Path):
    import datasets

    def write(n: int) -> None:
        rows = [{"image": Image.open(io.BytesIO(png(i))), "text": f"picture {i}"} for i in range(n)]
        datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "data" / "train.parquet"))

    (tmp_path / "data").mkdir()
    write(2)
    open_source(f"hf:{tmp_path / 'data'}", net, 0, 2, 8, 0).prepare(tmp_path / "run", silent)
    write(3)
    with pytest.raises(EdgeSafeError, match="its shards are not those that the run began with"):
        open_source(f"hf:{tmp_path / 'data'}", net, 0, 2, 8, 0).prepare(tmp_path / "run", silent)
