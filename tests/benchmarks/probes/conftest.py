"""Cells of the emoji world and of an open one, and a target: the tiny pipeline on torch, another one as its un-erased control."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgesafe.artifact import Manifest
from edgesafe.benchmarks import questions
from edgesafe.benchmarks.gallery import Drawing
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.sources import Source
from edgesafe.concepts import parse
from edgesafe.emoji.world import World


def erased_cell(text: str, n: int = 12, emoji: bool = True) -> Cell:
    """Of one concept: of the emoji world, or of a model that reads English."""
    base = {"id": "emoji:teacher" if emoji else "owner/model", "revision": None, "sha256": None}
    concepts = parse(text, World() if emoji else None)
    return questions.cells(Manifest("run", base, base["id"], (), concepts, {}), concepts, n, 100)[0]


@pytest.fixture
def cell_of() -> Callable[..., Cell]:
    return erased_cell


@pytest.fixture
def target(tiny_sd1: Path, tmp_path: Path) -> Target:
    """Three steps of two pictures; the control is the same pipeline. To be changed with dataclasses.replace."""
    source = Source(str(tiny_sd1), "ab" * 32)
    return Target(source, "torch", source, source, parse("neon", World()), Drawing(3, 3.0, "ddim", 2), 1, 7, tmp_path / "cache")
