"""What an eraser noises: shares of ten concepts, of a folder's captions, of concepts that stay erased."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.concepts import carriers, parse
from edgesafe.data import EmojiWorld, ImageFolder, Pictures, generator, silent
from edgesafe.emoji.world import World
from edgesafe.erasers import ESD
from edgesafe.erasers.pictures import EARLIER_SHARE, ConceptPictures, from_folder, from_teacher, from_world, gather, prompts_only, shares
from edgesafe.errors import EdgeSafeError

WORLD = World()
TEN = parse("kitchen knife, dagger, bomb, cigarette, syringe, banana, cat, rose, bus, guitar", WORLD)


@pytest.fixture(scope="module")
def net(tiny_sd1: Path) -> model.TextToImage:
    return model.load(tiny_sd1)


def owned(concepts, prompts: list[str]) -> Counter[str]:
    return Counter(c.name for prompt in prompts for c in carriers(prompt, concepts))


def blank(owners: list[int]) -> ConceptPictures:
    empty = torch.zeros(len(owners), 1, 1, 1, dtype=torch.float16)
    return ConceptPictures(Pictures(empty, empty, [f"{owner}" for owner in owners], 1.0), ["" for _ in owners], owners)


@pytest.mark.parametrize(("count", "parts", "found"), [(512, 10, [52, 52] + 8 * [51]), (4, 1, [4]), (2, 3, [1, 1, 1]), (512, 1, [512])])
def test_shares(count: int, parts: int, found: list[int]):
    assert shares(count, parts) == found


def test_a_bank_of_512_and_a_batch_of_32_hold_ten_concepts_evenly(net, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgesafe.erasers.pictures.encode_pixels", lambda net, pixels: 2 * (pixels[:, :1, :8, :8].half(),))
    found = from_world(WORLD, TEN, net, 512, 0.5, 0, silent)
    assert set(Counter(found.owners).values()) == {51, 52}
    for n in range(5):
        _, prompts, anchors = found.draw(32, generator(0, "upper", n))
        assert set(owned(TEN, prompts).values()) == {3, 4} and len(owned(TEN, prompts)) == 10
        assert not owned(TEN, anchors)


def test_a_batch_smaller_than_the_concepts_takes_turns():
    seen = Counter(p for n in range(200) for p in blank(list(range(10)) * 3).draw(4, generator(n))[1])
    assert len(seen) == 10 and min(seen.values()) > 40, "80 of each are expected; sd 7"


def test_of_uneven_groups_each_has_its_share_and_each_row_its_chance():
    found = blank([0] * 90 + [1] * 10)
    _, prompts, _ = found.draw(10, generator(1))
    assert Counter(prompts) == {"0": 5, "1": 5}
    rows = torch.cat([found._rows(10, generator(n)) for n in range(400)])
    counts = torch.bincount(rows, minlength=100).float()
    assert abs(counts[:90].mean() / counts[90:].mean() - 1 / 9) < 1e-3
    assert counts[:90].std() < 2 * counts[:90].mean().sqrt(), "as of a fair die"


def test_one_concept_draws_as_it_always_did():
    rows = torch.randint(7, (5,), generator=generator(3))
    assert torch.equal(blank([0] * 7)._rows(5, generator(3)), rows)


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_earlier_concepts_have_their_share_of_a_batch(n: int):
    found = blank([0] * 4)
    found.earlier = blank([8, 9])
    counts = [sum(p in "89" for p in found.draw(n, generator(seed))[1]) for seed in range(200)]
    assert abs(sum(counts) / (200 * n) - EARLIER_SHARE) < 0.1
    assert max(counts) - min(counts) <= 1
    assert {len(found.draw(n, generator(seed))[0]) for seed in range(5)} == {n}


def test_no_anchor_of_a_new_concept_carries_an_earlier_one(net):
    new, earlier = parse("beer", WORLD), parse("neon, cat", WORLD)
    source = EmojiWorld(WORLD, net, seed=0, size=2, bank=4, replays=0)
    found = gather(ESD(), source, new, earlier, net, 16, 0, Path("unused"), silent)
    assert found.earlier and len(found.earlier.owners) == round(16 * EARLIER_SHARE)
    assert any(owned(earlier, [prompt]) for prompt in found.pictures.captions)
    for part in (found, found.earlier):
        assert not owned((*new, *earlier), part.anchors)


def test_what_the_data_do_not_show_the_teacher_draws(net, tiny_images: Path, tmp_path: Path):
    source = ImageFolder(tiny_images, net, seed=0, size=2)
    found = gather(ESD(), source, parse("style:neon", None), parse("style:van gogh", None), net, 4, 0, tmp_path, silent)
    assert (tmp_path / "earlier" / "concept.safetensors").is_file() and not (tmp_path / "concept.safetensors").is_file()
    assert all("van gogh" in prompt for prompt in found.earlier.pictures.captions)


def test_a_folder_is_shared_evenly_and_the_rarer_concept_gets_the_doubtful_picture(net, tmp_path: Path):
    from PIL import Image

    captions = [*(f"a cat {i}" for i in range(9)), "a cat and a dog", "a dog", "a cow"]
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(captions)]
    for row in rows:
        Image.new("RGB", (64, 64), "white").save(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ImageFolder(tmp_path, net, seed=0, size=2)
    concepts = parse("cat, dog", None)
    found = from_folder(source, concepts, 4)
    assert found.pictures.captions == ["a cat 0", "a cat and a dog", "a cat 1", "a dog"] and found.owners == [0, 1, 0, 1]
    assert len(from_folder(source, concepts, 100).owners) == 11
    with pytest.raises(EdgeSafeError, match="holds 'horse'"):
        from_folder(source, parse("cat, horse", None), 4)


def test_the_teacher_draws_as_many_of_each(net, tmp_path: Path):
    concepts = parse("style:van gogh, nudity, gun", None)
    found = from_teacher(net, concepts, 7, 0.5, 0, tmp_path, silent)
    assert Counter(found.owners) == {0: 3, 1: 2, 2: 2}
    assert owned(concepts, found.pictures.captions) == {"van gogh": 3, "nudity": 2, "gun": 2}
    assert not owned(concepts, found.anchors)


def test_prompts_of_concepts_with_few_and_many_pairs_come_alike(net):
    concepts = parse("neon, cat", WORLD)
    found = prompts_only(net, concepts)
    assert len(found.anchors) == sum(len(c.pairs) for c in concepts)
    assert not owned(concepts, found.anchors)
    assert Counter(found.owners[i] for i in found._rows(32, generator(0)).tolist()) == {0: 16, 1: 16}
