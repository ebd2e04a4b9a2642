"""Erasing on top of an erasure: what was erased before stays among the concepts, in captions, batches and manifest."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from rich.console import Console

from edgesafe import artifact, preparation, presets
from edgesafe.cli import main
from edgesafe.concepts import carriers, parse
from edgesafe.emoji.world import World
from edgesafe.erasers.pictures import EARLIER_SHARE
from edgesafe.errors import EdgeSafeError

SMALL = ("--data", "emoji", "--batch", 2, "--set=erase_batch=4", "--set=bank=4", "--set=concept_bank=8", "--set=warmup=1", "--steps", 2)


def train(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, (*arguments, *SMALL))])


@pytest.fixture(scope="module")
def erased(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without neon."""
    out = tmp_path_factory.mktemp("runs") / "first"
    result = train("--model", tiny_sd1, "--erase", "neon", "--inner-steps", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "erase style neon: 192 prompts, anchor “emoji”, terms: neon" in result.output
    return out


def setup(student: Path, teacher: Path, erase: str, **changes) -> preparation.Setup:
    few = {"data": "emoji", "batch": 6, "erase_batch": 8, "bank": 64, "concept_bank": 8, "steps": 2, "empty_captions": 0.0}
    values = {"student": str(student), "teacher": str(teacher), "erase": erase} | few | changes
    return preparation.set_up(presets.resolve("quick", [("test", values)]), torch.device("cpu"))


def problem(parts: preparation.Setup, folder: Path):
    return preparation.problem(parts, folder, Accelerator(), Console(quiet=True))


def test_what_was_erased_before_stays_a_concept(erased: Path, tiny_sd1: Path, tmp_path: Path):
    parts = setup(erased, tiny_sd1, "beer")
    assert [c.name for c in parts.concepts] == ["neon", "beer mug"]
    assert [c.name for c in parts.new] == ["beer mug"]
    p = problem(parts, tmp_path)
    _, answered, carried = p.captions(["red apple neon style", "beer mug neon style", "red apple"], torch.zeros(3))
    assert answered == ["red apple emoji style", "glass of milk emoji style", "red apple"]
    assert carried.tolist() == [True, True, False]
    assert p.frozen is parts.teacher.unet, "the student's own answers to neon would be pushed away from"


def test_a_share_of_the_erasing_batches_keeps_it_erased(erased: Path, tiny_sd1: Path, tmp_path: Path):
    parts = setup(erased, tiny_sd1, "beer")
    pictures = problem(parts, tmp_path).pictures
    _, prompts, anchors = pictures.draw(8, torch.Generator().manual_seed(0))
    earlier = prompts[-round(8 * EARLIER_SHARE) :]
    assert all(carriers(prompt, parts.earlier) for prompt in earlier)
    assert all(carriers(prompt, parts.new) for prompt in prompts[: -len(earlier)])
    assert not [anchor for anchor in anchors if carriers(anchor, parts.concepts)]


def test_ignore_teaches_it_again(erased: Path, tiny_sd1: Path, tmp_path: Path):
    parts = setup(erased, tiny_sd1, "beer", earlier="ignore")
    assert [c.name for c in parts.concepts] == ["beer mug"]
    p = problem(parts, tmp_path)
    _, answered, carried = p.captions(["red apple neon style"], torch.zeros(1))
    assert answered == ["red apple neon style"] and not carried.any()
    assert p.pictures.earlier is None and p.frozen is not parts.teacher.unet


def test_distilling_only_keeps_it_erased_by_captions(erased: Path, tiny_sd1: Path, tmp_path: Path):
    parts = setup(erased, tiny_sd1, "none")
    p = problem(parts, tmp_path)
    assert p.captions(["red apple neon style"], torch.zeros(1))[1] == ["red apple emoji style"]
    assert p.pictures.earlier is None
    assert preparation.manifest(parts).steps[-1].method == "distil"
    assert [row["name"] for row in preparation.manifest(parts).concepts] == ["neon"]


def test_the_same_concept_again_is_listed_once(erased: Path, tiny_sd1: Path):
    parts = setup(erased, tiny_sd1, "neon, beer")
    assert not parts.earlier
    assert [row["name"] for row in preparation.manifest(parts).concepts] == ["neon", "beer mug"]


def test_a_teacher_that_lacks_it_too_has_no_pictures_of_it(erased: Path, tmp_path: Path):
    parts = setup(erased, erased, "beer")
    p = problem(parts, tmp_path)
    assert [c.name for c in parts.earlier] == ["neon"] and p.pictures.earlier is None
    pruned = replace(parts.settings, student=None, teacher=None, model=str(erased))
    assert [c.name for c in preparation._earlier(pruned, ())] == ["neon"], "pruning an erased run goes on from it as well"


def test_a_run_may_be_named_by_the_model_in_it(erased: Path, tiny_sd1: Path):
    assert [c.name for c in setup(erased / "model", tiny_sd1, "beer").earlier] == ["neon"]


def test_a_run_may_be_named_from_the_home_folder(erased: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(erased.parent))
    parts = setup(Path("~") / erased.name, tiny_sd1, "beer")
    assert [c.name for c in parts.earlier] == ["neon"] and len(preparation.manifest(parts).steps) == 2


def test_an_anchor_that_was_erased_before(erased: Path, tiny_sd1: Path):
    with pytest.raises(EdgeSafeError, match="'neon', which is to take the place of 'sepia', is 'neon', which is erased too"):
        setup(erased, tiny_sd1, "sepia", anchor="neon")


def test_a_run_of_the_emoji_world_goes_on_in_it():
    values = {"student": "runs/a", "teacher": "emoji:teacher", "erase": "sepia"}
    settings = presets.resolve(None, [("test", values)])
    assert (settings.data, settings.steps) == ("emoji", presets.resolve("quick", []).steps)
    assert settings.earlier == "keep-erased"


def test_an_unknown_way_with_earlier_concepts():
    with pytest.raises(EdgeSafeError, match="earlier 'forget' is unknown; known: keep-erased, ignore"):
        presets.resolve("quick", [("test", {"earlier": "forget"})])


def test_three_in_a_row(erased: Path, tiny_sd1: Path, tmp_path: Path):
    second, third = tmp_path / "second", tmp_path / "third"
    result = train("--student", erased, "--teacher", tiny_sd1, "--erase", "sepia", "--inner-steps", 1, "--out", second)
    assert result.exit_code == 0, result.output
    assert "keep erased style neon" in result.output and "25% of each erasing batch keeps neon erased; the teacher answers" in result.output
    result = train("--student", second, "--teacher", tiny_sd1, "--erase", "cat", "--inner-steps", 1, "--out", third)
    assert result.exit_code == 0, result.output
    manifest = artifact.read(third)
    assert [row["name"] for row in manifest.concepts] == ["neon", "sepia", "cat"]
    assert manifest.control == str(tiny_sd1), "the un-erased model"
    assert len(manifest.steps) == 3
    cat = manifest.concepts[-1]
    assert not [pair for pair in cat["pairs"] if carriers(pair[1], parse("neon, sepia, cat", World()))]
