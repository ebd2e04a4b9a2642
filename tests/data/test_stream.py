"""What every stream promises: batches that depend on the seed and the step alone, whatever was read, kept or stopped before."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgesafe.data import Keep, Stream, encode_pixels, generator, silent, tar_shards
from edgesafe.errors import EdgeSafeError

from .conftest import pair, tar

KEPT, NONE = Keep(), Keep(gib=0)


def opened(net, data: Path | str, run: Path, keep: Keep = KEPT, seed: int = 0, size: int = 4, part: int = 3, bank: int = 6) -> Stream:
    source = Stream(tar_shards.find(str(data)), net, seed, size, bank, keep, part)
    source.prepare(run, silent)
    return source


def test_batches_are_those_of_a_plain_reading_of_the_orders(net, shards: Callable[..., Path], tmp_path: Path):
    """Written out by hand: shards in the epoch's order, parts of 3 within each, windows of 2 parts, each in its own order."""
    sizes, seed = (7, 2, 4), 5
    firsts = (0, 7, 9)
    source = opened(net, shards(*sizes), tmp_path / "run", seed=seed)
    expected: list[int] = []
    for epoch in range(3):
        parts: list[list[int]] = []
        for s in torch.randperm(3, generator=generator(seed, "shards", epoch)).tolist():
            rows = list(range(firsts[s], firsts[s] + sizes[s]))
            parts += [rows[i : i + 3] for i in range(0, len(rows), 3)]
        for number, start in enumerate(range(0, len(parts), 2)):
            window = [row for part in parts[start : start + 2] for row in part]
            expected += [window[i] for i in torch.randperm(len(window), generator=generator(seed, "window", epoch, number)).tolist()]
    got = [caption for n in range(9) for caption in source.batch(n).captions]
    assert got == [f"picture {i}" for i in expected[:36]]
    assert all(Counter(got[e * 13 : (e + 1) * 13]) == Counter(f"picture {i}" for i in range(13)) for e in range(2))


@pytest.mark.parametrize("keep", [KEPT, NONE])
@pytest.mark.parametrize("step", [0, 2, 5, 7])
def test_a_resumed_run_sees_what_it_would_have_seen(net, shards: Callable[..., Path], tmp_path: Path, keep: Keep, step: int):
    folder = shards(7, 2, 4)
    whole = opened(net, folder, tmp_path / "whole", keep)
    straight = [whole.batch(n) for n in range(9)]
    begun = opened(net, folder, tmp_path / "run", keep)
    for n in range(step):
        begun.batch(n)
    resumed = opened(net, folder, tmp_path / "run", keep)
    fresh = opened(net, folder, tmp_path / "fresh", keep)
    for n in range(step, 9):
        for source in (resumed, fresh):
            batch = source.batch(n)
            assert batch.captions == straight[n].captions and torch.equal(batch.latents, straight[n].latents)
    assert resumed.examples() == whole.examples() == fresh.examples()


def test_latents_are_the_vaes_posterior_of_the_captions_picture(net, shards: Callable[..., Path], tmp_path: Path):
    source = opened(net, shards(8), tmp_path / "run", size=8, part=8, bank=8)
    batch = source.batch(0)
    colour = torch.tensor([[10 * (i % 25), 10 * (i // 25), 90] for i in (int(c.split()[1]) for c in batch.captions)]) / 255
    mean, std = encode_pixels(net, colour[:, :, None, None].expand(8, 3, 64, 64))
    noise = torch.randn(8, *net.latent_shape, generator=generator(0, "posterior", 0))
    torch.testing.assert_close(batch.latents, (mean.float() + std.float() * noise) * net.vae.config.scaling_factor, atol=2e-3, rtol=2e-3)


def test_a_second_epoch_and_a_resumed_run_encode_nothing(net, shards: Callable[..., Path], tmp_path: Path, encoded: list[int]):
    folder = shards(7, 2, 4)
    source = opened(net, folder, tmp_path / "run")
    for n in range(12):
        source.batch(n)
    assert sum(encoded) == 13
    encoded.clear()
    opened(net, folder, tmp_path / "run").batch(9)
    assert not encoded
    shared = Keep(str(tmp_path / "shared"))
    for run in ("a", "b"):
        opened(net, folder, tmp_path / run, shared).batch(0)
        assert bool(encoded) is (run == "a")
        encoded.clear()
    without = opened(net, folder, tmp_path / "c", NONE)
    for n in range(12):
        without.batch(n)
    assert sum(encoded) > 2 * 13 and not (tmp_path / "c" / "latents").exists()


def test_a_full_cache_keeps_no_more(net, shards: Callable[..., Path], tmp_path: Path):
    channels, height, width = net.latent_shape
    room = Keep(gib=4 * (4 * channels * height * width) / 2**30)  # of four pictures, so of one part with its header
    folder = shards(7, 2, 4)
    source, whole = opened(net, folder, tmp_path / "run", room), opened(net, folder, tmp_path / "whole")
    assert all(torch.equal(source.batch(n).latents, whole.batch(n).latents) for n in range(7))
    kept = list((tmp_path / "run" / "latents").rglob("*.safetensors"))
    assert len(kept) == 1 and len(list((tmp_path / "whole" / "latents").rglob("*.safetensors"))) == 6


def test_a_resumed_run_without_cache_reads_one_window(net, shards: Callable[..., Path], tmp_path: Path, encoded: list[int]):
    folder = shards(*[6] * 8)
    begun = opened(net, folder, tmp_path / "run", NONE)
    for n in range(10):
        begun.batch(n)
    encoded.clear()
    resumed = opened(net, folder, tmp_path / "run", NONE)
    read: list[str] = []
    reading = resumed.shards.read
    object.__setattr__(resumed.shards, "read", lambda shard: (read.append(shard), reading(shard))[1])
    resumed.batch(9)  # places 36 to 39 of windows of 6: the seventh
    assert sum(encoded) == 6 and len(read) == 1


def test_records_that_cannot_be_used_are_named_and_another_stands_in(net, tmp_path: Path):
    members = pair(0) | {"0001.png": b"no picture", "0001.txt": b"broken"} | {"0002.png": pair(2)["0002.png"]} | {"0003.txt": b"alone"}
    members |= {"0004.png": pair(4)["0004.png"], "0004.txt": b"  "} | {"0005.png": pair(5)["0005.png"], "0005.json": b"{nonsense"}
    tar(tmp_path / "s" / "0.tar", members | pair(6))
    tar(tmp_path / "s" / "1.tar", {})
    source = opened(net, tmp_path / "s", tmp_path / "run", part=8, bank=8, size=7)
    shown = Counter(source.batch(0).captions)
    source.batch(1)  # of the other shard or the next epoch
    reasons = {Path(line.split(": ")[0]).name: line.split(": ")[1].split(" (")[0] for line in source.skipped}
    assert reasons == {
        "0.tar 0001": "not a readable picture",
        "0.tar 0002": "no caption",
        "0.tar 0003": "no picture",
        "0.tar 0004": "no caption",
        "0.tar 0005": "its caption is not readable",
        "1.tar": "empty",
    }
    assert set(shown) == {"picture 0", "picture 6"} and sorted(shown.values()) == [3, 4]
    assert opened(net, tmp_path / "s", tmp_path / "run").skipped == source.skipped  # a resumed run names them again


def test_shards_that_vanish_change_or_are_all_unusable(net, shards: Callable[..., Path], tmp_path: Path):
    folder = shards(4, 4)
    source = opened(net, folder, tmp_path / "run", NONE, bank=3)
    first = next(iter(source._index)) if torch.randperm(2, generator=generator(0, "shards", 0))[0] else str(folder / "00001.tar")
    Path(first).rename(tmp_path / "moved.tar")
    with pytest.raises(EdgeSafeError, match=f"shard {first} cannot be read \\(No such file"):
        for n in range(2):
            source.batch(n)
    with pytest.raises(EdgeSafeError, match="its shards are not those that the run began with: .* and is gone"):
        opened(net, folder, tmp_path / "run")
    tar(Path(first), pair(0))
    with pytest.raises(EdgeSafeError, match=r"was \d+ bytes of \S+ and is \d+ bytes of \S+\. Put them back"):
        opened(net, folder, tmp_path / "run")
    tar(tmp_path / "bad" / "0.tar", {"a.png": b"x", "a.txt": b"y"})
    with pytest.raises(EdgeSafeError, match=r"none of 1 records in .*0.tar can be used; the first is .*0.tar a: not a readable picture"):
        opened(net, tmp_path / "bad", tmp_path / "run2")
    tar(tmp_path / "void" / "0.tar", {})
    with pytest.raises(EdgeSafeError, match="there is no record in its shards"):
        opened(net, tmp_path / "void", tmp_path / "run3")


def test_memory_holds_one_window(net, shards: Callable[..., Path], tmp_path: Path):
    source = opened(net, shards(*[20] * 3), tmp_path / "run", part=5, bank=10)
    assert all(len(source._window.pictures.captions) == 10 for n in range(20) if source.batch(n))


def test_shards_are_counted_as_they_are_read(net, shards: Callable[..., Path], tmp_path: Path):
    source = opened(net, shards(4, 4, 4), tmp_path / "run", size=4, part=4, bank=4)
    known = json.loads((tmp_path / "run" / "shards.json").read_text())["shards"]
    assert sorted(entry.get("rows", 0) for entry in known.values()) == [0, 0, 4]
    for n in range(4):
        source.batch(n)
    known = json.loads((tmp_path / "run" / "shards.json").read_text())["shards"]
    assert [(entry["rows"], entry["whole"]) for entry in known.values()] == [(4, True)] * 3
