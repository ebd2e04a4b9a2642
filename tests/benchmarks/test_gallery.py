"""Kept pictures: drawn once, named by all they depend on, in batches that no stop and no second process changes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.gallery import Drawing, Gallery, Order
from edgesafe.benchmarks.leakage import Cell, Question
from edgesafe.benchmarks.probes import Probe, Target, learned
from edgesafe.benchmarks.probes.plain import Plain
from edgesafe.benchmarks.sources import Source
from edgesafe.concepts import Concept

NEON = Concept("neon", "style", ("neon",), "emoji", (("cat neon style", "cat"),))
EXPORT = Source("export", "ab" * 32)
BATCH = 4


class Counting:
    """A runtime whose pictures tell prompt, seed and place in the batch; it stops where it is told to."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.batches: list[list[int]] = []
        self.stop_after = stop_after

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], **options: object) -> np.ndarray:
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(list(seeds))
        rows = zip(prompts, seeds, range(len(seeds)), strict=True)
        return np.stack([np.full((8, 8, 3), (sum(prompt.encode()) + 7 * seed + i) % 256, np.uint8) for prompt, seed, i in rows])


@dataclass(frozen=True)
class Learning(Probe):
    """Draws its own way, from a file that it learned for the cell."""

    strength: int = 1

    name: ClassVar[str] = "learning"
    attacker: ClassVar[str] = "files"
    what: ClassVar[str] = "a test"

    def questions(self, target: Target, cell: Cell) -> tuple[Question, ...]:
        path = learned.place(self, target, "token", ".json", cell)
        if not path.is_file():
            learned.write(path, {"strength": self.strength})
        return cell.questions

    def draw(self, model: Counting, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:  # type: ignore[override]
        facts = learned.read(learned.place(self, target, "token", ".json", cell))
        return Plain().draw(model, target, cell, questions) + np.uint8(facts["strength"])  # type: ignore[arg-type, index]


@pytest.fixture
def artist(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    monkeypatch.setattr(runtimes, "load", lambda *given: found)
    return found


def gallery(root: Path, **drawing: object) -> Gallery:
    return Gallery(root / "pictures", Drawing(**{"steps": 2, "guidance": 4.0, "sampler": "ddim", "batch": BATCH} | drawing), 1)  # type: ignore[arg-type]


def target(root: Path, source: Source = EXPORT, seed: int = 0) -> Target:
    return Target(source, "torch", source, source, (NEON,), Drawing(2, 4.0, "ddim", BATCH), 1, seed, root / "learned")


def cell(n: int = 10, first: int = 0) -> Cell:
    return Cell("erased", NEON, tuple(Question(f"cat {i % 3} neon style", first + i) for i in range(n)))


def test_pictures_are_drawn_once_in_the_order_asked(tmp_path: Path, artist: Counting) -> None:
    seen: list[int] = []
    first = gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), seen.append)
    assert artist.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (first.shape, first.dtype, seen) == ((10, 8, 8, 3), np.uint8, [4, 4, 2])
    again = gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), seen.append)
    assert len(artist.batches) == 3
    assert np.array_equal(first, again)


def test_a_stopped_one_goes_on_with_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artist: Counting) -> None:
    whole = gallery(tmp_path / "whole").sit(Plain(), target(tmp_path), cell(), lambda n: None)
    stopped = Counting(stop_after=1)
    monkeypatch.setattr(runtimes, "load", lambda *given: stopped)
    with pytest.raises(KeyboardInterrupt):
        gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), lambda n: None)
    rest = Counting()
    monkeypatch.setattr(runtimes, "load", lambda *given: rest)
    assert gallery(tmp_path).missing(Order(Plain(), target(tmp_path), cell(), cell(), EXPORT, "torch")) == 6
    assert np.array_equal(gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), lambda n: None), whole)
    assert rest.batches == [[4, 5, 6, 7], [8, 9]]


def test_a_batch_with_one_picture_missing_is_drawn_whole_and_the_others_stay(tmp_path: Path, artist: Counting) -> None:
    whole = gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), lambda n: None)
    pictures = sorted((tmp_path / "pictures").rglob("*.png"))
    assert len(pictures) == 10
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:40])  # half a file
    before = {path: path.stat().st_mtime_ns for path in pictures[2:]}
    assert np.array_equal(gallery(tmp_path).sit(Plain(), target(tmp_path), cell(), lambda n: None), whole)
    assert 1 <= len(artist.batches) - 3 <= 2
    assert {path: path.stat().st_mtime_ns for path in pictures[2:]} == before


@pytest.mark.parametrize("change", ["steps", "guidance", "sampler", "model", "runtime", "version", "seed"])
def test_pictures_are_named_by_what_they_depend_on(tmp_path: Path, artist: Counting, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    gallery(tmp_path).sit(Plain(), target(tmp_path), cell(4), lambda n: None)
    drawing = {"steps": {"steps": 3}, "guidance": {"guidance": 1.0}, "sampler": {"sampler": "pndm"}}.get(change, {})
    aim, asked = target(tmp_path), cell(4, first=100 if change == "seed" else 0)
    if change == "model":
        aim = replace(aim, source=Source("export", "cd" * 32))
    if change == "runtime":
        aim = replace(aim, runtime="openvino")
    if change == "version":
        monkeypatch.setattr("edgesafe.artifact.versions", lambda *packages: {"torch": "of tomorrow"})
    gallery(tmp_path, **drawing).sit(Plain(), aim, asked, lambda n: None)
    assert len(artist.batches) == 2


def test_a_probe_that_draws_its_own_way_has_pictures_of_its_own(tmp_path: Path, artist: Counting) -> None:
    def drawn(probe: Probe, asked: Cell, **aim: object) -> int:
        before = len(artist.batches)
        gallery(tmp_path).sit(probe, replace(target(tmp_path), **aim), asked, lambda n: None)  # type: ignore[arg-type]
        return len(artist.batches) - before

    assert drawn(Plain(), cell(4)) == 1
    assert drawn(Learning(), cell(4)) == 1
    assert drawn(Learning(), cell(4)) == 0
    assert drawn(Learning(strength=2), cell(4)) == 1, "other settings"
    assert drawn(Learning(), cell(4, first=4)) == 1, "another cell learns another file"
    assert drawn(Learning(), cell(4)) == 0, "and leaves the first cell's pictures as they are"
    for path in (tmp_path / "learned").iterdir():
        path.write_text('{"strength": 9}')
    assert drawn(Learning(), cell(4)) == 1, "what was learned is another"
    assert drawn(Plain(), cell(4)) == 0


def test_a_source_without_a_hash_is_drawn_anew(tmp_path: Path, artist: Counting) -> None:
    hub = Source("somebody/model", None)
    for n in (1, 2):
        gallery(tmp_path).sit(Plain(), target(tmp_path, hub), cell(4), lambda n: None)
        assert len(artist.batches) == n
    gallery(tmp_path).share(Order(Plain(), target(tmp_path, hub), cell(4), cell(4), hub, "torch"))
    assert len(artist.batches) == 2, "nobody else would see what is drawn"


def test_two_models_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(runtimes, "load", lambda place, runtime, threads: loaded.append(place) or Counting())
    one = gallery(tmp_path)
    for place in ("export", "control", "export", "control", "tuned", "control", "export"):
        one.model(Source(place, None), "torch")
    assert loaded == ["export", "control", "tuned", "export"]


HOLD = """
import json, sys, time
from pathlib import Path
from edgesafe.benchmarks.gallery import Drawing, Gallery
with Gallery(Path(sys.argv[1]), Drawing(2, 4.0, "ddim", 4), 1).claim(json.loads(sys.argv[2])):
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Callable[[str], subprocess.Popen]:
    def start(what: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "pictures"), what], stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "holding\n"
        return process

    return start


def test_a_claim_of_another_process_is_left_alone_and_ends_with_it(tmp_path: Path, artist: Counting, holder: Callable) -> None:
    one = gallery(tmp_path)
    order = Order(Plain(), target(tmp_path), cell(), cell(), EXPORT, "torch")
    second = json.dumps([str(place) for place in one._places(order)[BATCH : 2 * BATCH]])
    other = holder(second)
    with other:
        one.share(order)
        assert artist.batches == [[0, 1, 2, 3], [8, 9]]
        with one.claim("something else", wait=False) as mine:
            assert mine
        os.kill(other.pid, signal.SIGKILL)
    assert len(one.draw(order)) == 10, "a dead process holds nothing"
    assert artist.batches[2:] == [[4, 5, 6, 7]]
