"""apps/fixtures is what `python -m edgesafe.apps.fixtures` writes."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesafe.apps import fixtures

ROOT = Path(__file__).parents[2]
# of diffusers' dpm++ and numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def written(name: str) -> dict[str, Any]:
    return json.loads((fixtures.FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["tokenizer.json", "schedulers.json", "random.json"])
def test_are_current(name: str) -> None:
    ours, made = written(name), json.loads(fixtures.text(fixtures.MAKERS[name]()))
    assert _alike(ours, made), f"{name} is not what Python gives now. Write it anew: python -m edgesafe.apps.fixtures"


def test_pictures_are_current(student: Path) -> None:
    """Within a level: processors add in different orders."""
    made, ours = fixtures.pipeline(student)["rows"], written("pipeline.json")["rows"]
    assert [{**row, "rgb": ""} for row in made] == [{**row, "rgb": ""} for row in ours]
    for row, old in zip(made, ours, strict=True):
        pixels, before = (np.frombuffer(base64.b64decode(one["rgb"]), np.uint8).astype(int) for one in (row, old))
        assert np.abs(pixels - before).max() <= 1


def test_ids_are_those_that_our_own_tokenizer_gives_too() -> None:
    from edgesafe.bpe import Tokenizer

    made = written("tokenizer.json")
    tokenizer = Tokenizer.read(ROOT / made["folder"])
    assert len(made["rows"]) == len({text for text, _ in made["rows"]}) == 1000
    for text, ids in made["rows"]:
        assert tokenizer.ids(text) == [int(one, 36) for one in ids.split()], repr(text)


def test_every_sampler_is_in_them() -> None:
    from edgesafe.sampling import SAMPLERS

    for name in ("schedulers.json", "pipeline.json"):
        assert {row["sampler"] for row in written(name)["rows"]} == set(SAMPLERS)


def test_are_small() -> None:
    assert sum(path.stat().st_size for path in fixtures.FOLDER.iterdir()) < 300 * 2**10


def _alike(one: Any, other: Any) -> bool:
    """Numbers to 1e-5: another torch or processor rounds the last digit otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return abs(one - other) <= 1e-5 * max(1, abs(one))
    return one == other
