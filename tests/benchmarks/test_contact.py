"""A tile is the picture it stands for, and what does not fit is left out by rule."""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgesafe.benchmarks import contact
from edgesafe.benchmarks.leakage import Cell, Question, Reading, Sitting
from edgesafe.concepts import Concept

NEON = Concept("neon", "style", ("neon",), "emoji", ())


def sitting(pictures: np.ndarray, role: str = "export", leaked: tuple[int, ...] = (), probe: str = "plain") -> Sitting:
    n = len(pictures)
    cell = Cell("erased", NEON, tuple(Question(f"prompt {i}", i) for i in range(n)))
    outcomes = tuple("leaked" if i in leaked else "removed" for i in range(n))
    return Sitting(probe, cell, role, pictures, tuple(Reading(f"seen {i}", {"neon": i / n}, frozenset()) for i in range(n)), outcomes)


def noise(n: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def opened(model: dict) -> np.ndarray:
    head, data = model["uri"].split(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("n", [1, 5, 16, 37])
def test_each_tile_is_its_picture(n: int) -> None:
    grey = np.linspace(0, 250, n).astype(np.uint8)
    found = contact.build([sitting(np.broadcast_to(grey[:, None, None, None], (n, 64, 64, 3)))], "judge", {}, 10**7)
    model = found["sets"]["plain|erased neon"]["models"]["export"]
    image, columns = opened(model), model["columns"]
    assert image.shape == (math.ceil(n / columns) * 64, columns * 64, 3)
    for i, place in enumerate(model["tiles"]):
        top, left = place // columns * 64, place % columns * 64
        assert abs(image[top + 8 : top + 56, left + 8 : left + 56].mean() - grey[i]) < 3  # what WebP costs
    assert found["shown"] == found["pictures"] == n


@pytest.mark.parametrize("n", [1, 15, 200, 2000, 10_000])
def test_a_sheet_is_no_larger_than_a_webp_can_be(n: int) -> None:
    columns = contact._columns(n)
    assert max(columns, math.ceil(n / columns)) * max(contact.SIDES) <= 16_383
    assert columns <= n


def test_words_of_all_pictures_and_of_all_detectors() -> None:
    lines = [{"prompt": f"prompt {i}", "seed": i, "label": "clip", "outcome": "gone", "scores": {"neon": 0.5}} for i in range(3)]
    given = {("export", "plain", "erased neon"): {"clip": lines}}
    words = contact.build([sitting(noise(3), leaked=(1,))], "judge", given, 10**7)["sets"]["plain|erased neon"]
    assert (words["probe"], words["cell"], words["concept"]) == ("plain", "erased neon", "neon")
    assert words["models"]["export"]["asked"] == [["prompt 0", "prompt 0", 0], ["prompt 1", "prompt 1", 1], ["prompt 2", "prompt 2", 2]]
    assert words["models"]["export"]["seen"]["clip"] == [["clip", "gone", {"neon": 0.5}]] * 3
    assert [row[1] for row in words["models"]["export"]["seen"]["judge"]] == ["removed", "leaked", "removed"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.99, 1.0])
def test_leaked_pictures_come_first_and_the_others_are_spread(share: float) -> None:
    outcomes = ["leaked" if i in (3, 50, 98) else "removed" for i in range(100)]
    chosen = contact.choose(outcomes, share)
    assert len(chosen) == len(set(chosen)) == round(100 * share)
    assert chosen == sorted(chosen)
    assert len({3, 50, 98} & set(chosen)) == min(3, len(chosen))
    if len(chosen) > 5:
        others = [i for i in chosen if i not in (3, 50, 98)]
        assert max(np.diff(others)) <= 3 + 97 / (len(others) - 1)


@pytest.mark.parametrize("room", [10**7, 300_000, 60_000, 100])
def test_the_sheets_keep_within_their_room(room: int) -> None:
    found = contact.build([sitting(noise(60)), sitting(noise(60), "control")], "judge", {}, room)
    words = len(json.dumps(found | {"sets": {}})) + sum(
        len(json.dumps(model | {"uri": ""})) for drawn in found["sets"].values() for model in drawn["models"].values()
    )
    assert len(json.dumps(found)) <= max(room, words + 1000)
    assert (found["shown"] == found["pictures"]) == (room == 10**7)
    tiles = [model["tiles"] for model in found["sets"]["plain|erased neon"]["models"].values()]
    assert tiles[0] == tiles[1]  # so that they stand side by side


def test_tiles_are_as_large_as_the_room_allows() -> None:
    large = [sitting(noise(30, 256))]
    sides = [contact.build(large, "judge", {}, room)["side"] for room in (10**7, 700_000, 100_000)]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == max(contact.SIDES)
    assert sides[-1] == min(contact.SIDES)
    assert contact.build([sitting(noise(3, 100))], "judge", {}, 10**7)["side"] == 96  # not larger than the pictures are


def test_lines_are_grouped_as_they_stand(tmp_path: Path) -> None:
    same = {"probe": "plain", "cell": "rest", "detector": "judge"}
    rows = [same | {"model": model, "seed": seed} for seed in (2, 1) for model in ("export", "control")]
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = contact.read_lines(tmp_path / "pictures.jsonl")
    assert [row["seed"] for row in found["control", "plain", "rest"]["judge"]] == [2, 1]
    assert len(found) == 2
