import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from edgesafe import model
from edgesafe.concepts import parse
from edgesafe.data import CaptionList, EmojiWorld, ImageFolder, TextConditions, drawn_by, generator, open_source, read_picture, silent
from edgesafe.emoji.world import World
from edgesafe.erasers.pictures import from_folder, from_teacher, from_world
from edgesafe.errors import EdgeSafeError


@pytest.fixture(scope="module")
def net(tiny_sd1: Path) -> model.TextToImage:
    return model.load(tiny_sd1)


def test_generators_depend_on_seed_and_purpose_only():
    def first(*key) -> float:
        return float(torch.rand(1, generator=generator(*key)))

    assert first(0, "a", 1) == first(0, "a", 1)
    assert len({first(0, "a", 1), first(0, "a", 2), first(0, "b", 1), first(1, "a", 1)}) == 4


@pytest.mark.parametrize("replays", [0, 1])
def test_emoji_batches_depend_on_the_step_only(net, replays: int, tmp_path: Path):
    def source() -> EmojiWorld:
        s = EmojiWorld(World(), net, seed=3, size=4, bank=8, replays=replays)
        s.prepare(tmp_path, silent)
        return s

    straight, resumed = source(), source()
    batches = [straight.batch(n) for n in range(4)]
    again = resumed.batch(3)
    assert batches[3].captions == again.captions
    assert torch.equal(batches[3].latents, again.latents)
    assert batches[0].latents.shape == (4, *net.latent_shape)


def test_a_folders_epoch_shows_each_picture_once(net, tiny_images: Path, tmp_path: Path):
    source = ImageFolder(tiny_images, net, seed=0, size=4)
    source.prepare(tmp_path, silent)
    epoch = source.batch(0).captions + source.batch(1).captions
    assert sorted(epoch) == sorted(caption for _, caption in source.rows)
    assert source.batch(2).captions + source.batch(3).captions != epoch
    assert torch.equal(source.batch(1).latents, source.batch(1).latents)


def test_latents_are_the_vaes_posterior_scaled(net, tiny_images: Path, tmp_path: Path):
    source = ImageFolder(tiny_images, net, seed=0, size=8)
    source.prepare(tmp_path, silent)
    pictures = source.pictures(range(8))
    pixels = torch.stack([read_picture(path, 64) for path, _ in source.rows])
    with torch.no_grad():
        mode = net.vae.encode(pixels * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(pictures.mean.float(), mode, atol=2e-3, rtol=2e-3)
    many = torch.stack([pictures.draw(torch.arange(8), generator(i)).latents for i in range(200)]).mean(0)
    spread = pictures.std.float().amax() * pictures.scale
    torch.testing.assert_close(many, mode * pictures.scale, atol=float(spread) * 0.4 + 1e-3, rtol=0)


def test_corrupt_and_missing_pictures_are_named_and_skipped(net, tmp_path: Path):
    Image.new("RGB", (70, 50), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    names = ("good.png", "bad.png", "text.png", "gone.png")
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": n}) + "\n" for n in names))
    source = ImageFolder(tmp_path, net, seed=0, size=2)
    source.prepare(tmp_path, silent)
    assert [Path(line.split(": ")[0]).name for line in source.skipped] == ["bad.png", "text.png", "gone.png"]
    assert source.batch(0).captions == ["good.png"] * 2
    (tmp_path / "good.png").unlink()
    with pytest.raises(EdgeSafeError, match="none of its 4 pictures"):
        ImageFolder(tmp_path, net, seed=0, size=2).prepare(tmp_path, silent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no metadata.jsonl, so no captions"),
        ("", "empty, so no captions"),
        ('{"file_name": "a.png"}\n', 'line 1: needs "file_name" and "text"'),
        ('{"file_name": "a.png", "text": "x"}\nnonsense\n', "line 2: not valid JSON"),
    ],
)
def test_folders_without_captions(net, tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(EdgeSafeError, match=message):
        open_source(str(tmp_path), net, 0, 2, 8, 0)


def test_captions_that_are_not_utf_8(net, tmp_path: Path):
    (tmp_path / "captions.txt").write_bytes("a red apple\na café".encode("latin-1"))
    (tmp_path / "metadata.jsonl").write_bytes('{"file_name": "a.png", "text": "café"}'.encode("latin-1"))
    for data, byte in ((tmp_path / "captions.txt", 17), (tmp_path, 35)):
        with pytest.raises(EdgeSafeError, match=rf"--data .*: not UTF-8 \(byte {byte}\)"):
            open_source(str(data), net, 0, 2, 2, 0)


def test_unknown_data(net, tmp_path: Path):
    with pytest.raises(EdgeSafeError, match=r"needs 'emoji', a folder with metadata.jsonl, tar shards, hf:owner/name, or a .txt"):
        open_source(str(tmp_path / "nothing"), net, 0, 2, 8, 0)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(EdgeSafeError, match="one caption a line"):
        open_source(str(tmp_path / "empty.txt"), net, 0, 2, 8, 0)


def test_the_teacher_draws_for_a_caption_list_and_goes_on_where_it_stopped(net, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("edgesafe.data.caption_list.DRAW_BATCH", 2)
    captions = ["red apple", "a cat", "sailboat"]
    whole = drawn_by(net, captions, 5, tmp_path / "whole.safetensors", silent)

    def stopping(rows, what):
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn_by(net, captions, 5, tmp_path / "part.safetensors", stopping)
    resumed = drawn_by(net, captions, 5, tmp_path / "part.safetensors", silent)
    assert torch.equal(whole.mean, resumed.mean)
    source = CaptionList(captions, net, seed=5, size=4, bank=3)
    source.prepare(tmp_path, silent)
    assert set(source.batch(0).captions) <= set(captions)


def test_text_states_are_the_encoders(net):
    texts = TextConditions(net)
    captions = ["red apple", "", "red apple"]
    torch.testing.assert_close(texts(captions)[0], model.encode(net, captions))
    assert texts(captions)[0].data_ptr() != texts(captions)[0].data_ptr()


def test_concept_pictures_of_the_world_show_concept_and_anchor(net):
    world = World()
    concepts = parse("neon, beer", world, None)
    found = from_world(world, concepts, net, 128, 0.5, 0, silent)
    assert found.pictures.mean.shape == (128, *net.latent_shape)
    assert all(any(c.carried_by(p) for c in concepts) for p in found.pictures.captions)
    assert not any(c.carried_by(a) for c in concepts for a in found.anchors)
    latents, prompts, anchors = found.draw(5, generator(0))
    assert len(latents) == len(prompts) == len(anchors) == 5


def test_concept_pictures_of_a_folder_and_of_the_teacher(net, tiny_images: Path, tmp_path: Path):
    source = ImageFolder(tiny_images, net, seed=0, size=2)
    found = from_folder(source, parse("neon", World()), 3)
    assert len(found.anchors) == 3
    assert all("emoji style" in anchor for anchor in found.anchors)
    with pytest.raises(EdgeSafeError, match="eraser.pictures=teacher"):
        from_folder(source, parse("style:van gogh", None), 3)
    drawn = from_teacher(net, parse("style:van gogh", None), 4, 0.5, 0, tmp_path, silent)
    assert len(drawn.anchors) == len(drawn.pictures.captions) == 4
