from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.data import ImageFolder, Keep, generator, latents, silent

from .conftest import png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten captioned pictures."""
    made = tmp_path / "pictures"
    made.mkdir()
    for i in range(10):
        (made / f"{i}.png").write_bytes(png(i))
    (made / "metadata.jsonl").write_text("".join(f'{{"file_name": "{i}.png", "text": "picture {i}"}}\n' for i in range(10)))
    return made


def opened(net, folder: Path, run: Path, keep: Keep) -> ImageFolder:
    source = ImageFolder(folder, net, 0, 4, keep)
    source.prepare(run, silent)
    return source


def test_a_second_epoch_and_a_resumed_run_encode_nothing(net, folder: Path, tmp_path: Path, encoded: list[int]):
    source = opened(net, folder, tmp_path / "run", Keep())
    straight = [source.batch(n) for n in range(8)]
    assert sum(encoded) == 10
    encoded.clear()
    resumed = opened(net, folder, tmp_path / "run", Keep())
    for n in range(8):
        batch = resumed.batch(n)
        assert batch.captions == straight[n].captions and torch.equal(batch.latents, straight[n].latents)
    assert not encoded
    bare = opened(net, folder, tmp_path / "bare", Keep(gib=0))
    assert all(torch.equal(bare.batch(n).latents, straight[n].latents) for n in range(8))
    assert sum(encoded) == 10 and not (tmp_path / "bare").exists()


def test_bits_do_not_depend_on_what_was_kept_when_the_run_stopped(net, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = opened(net, folder, tmp_path / "whole", Keep())
    straight = [whole.batch(n).latents for n in range(6)]
    monkeypatch.setattr(latents, "PART", 3)
    stopped = opened(net, folder, tmp_path / "run", Keep())
    stopped.batch(0)  # three of its four are on disk
    resumed = opened(net, folder, tmp_path / "run", Keep())
    assert len(resumed._cache._places) == 3
    assert all(torch.equal(resumed.batch(n).latents, straight[n]) for n in range(1, 6))


def test_a_changed_picture_is_encoded_again(net, folder: Path, tmp_path: Path, encoded: list[int]):
    shared = Keep(str(tmp_path / "shared"))
    source = opened(net, folder, tmp_path / "a", shared)
    before = source.pictures(range(10))
    source.batch(2)  # the epoch's end
    (folder / "3.png").write_bytes(png(200))
    encoded.clear()
    after = opened(net, folder, tmp_path / "b", shared).pictures(range(10))
    assert sum(encoded) == 1
    assert [i for i in range(10) if not torch.equal(before.mean[i], after.mean[i])] == [3]


def test_other_vaes_have_other_folders(net, tiny_sd2: Path, tiny_sdxl: Path):
    others = [model.load(folder) for folder in (tiny_sd2, tiny_sdxl)]
    changed = model.load(net.folder)
    with torch.no_grad():
        next(changed.vae.parameters()).view(-1)[0] += 1e-3
    names = [latents.fingerprint(n) for n in (net, *others, changed)]
    assert len(set(names)) == 4 and latents.fingerprint(model.load(net.folder)) == names[0]


def test_memory_is_bounded(net, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]):
    shape = net.latent_shape
    monkeypatch.setattr(latents, "CACHE_BYTES", 3 * 4 * shape[0] * shape[1] * shape[2])
    source = opened(net, folder, tmp_path / "run", Keep(gib=0))
    for n in range(5):
        source.batch(n)
        assert len(source._cache._memory) <= 3
    assert sum(encoded) > 10


def test_parts_come_back_as_they_were_written(net, tmp_path: Path):
    cache = latents.LatentCache(net, Keep(gib=1e-4), tmp_path)
    mean = torch.randn(5, *net.latent_shape, generator=generator(0)).half()
    assert cache.read("part") is None
    path = cache.write("part", mean, mean.abs(), {"rows": 5})
    found = latents.LatentCache(net, Keep(), tmp_path).read("part")
    assert torch.equal(found[0], mean) and torch.equal(found[1], mean.abs()) and found[2] == {"rows": 5}
    assert [p.name for p in path.parent.iterdir()] == ["part.safetensors"]
    big = torch.zeros(100, *net.latent_shape, dtype=torch.float16)
    assert cache.write("more", big, big, {}) is None and len(list(path.parent.iterdir())) == 1
