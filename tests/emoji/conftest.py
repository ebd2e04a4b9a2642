"""Small worlds and a judge that knows nothing."""

import pytest
import torch

from edgesafe.emoji.judge import Classes, Judge
from edgesafe.emoji.styles import STYLES
from edgesafe.emoji.world import World


@pytest.fixture(scope="session")
def world() -> World:
    """12 subjects in the shipped styles."""
    return World(12)


@pytest.fixture(scope="session")
def whole() -> World:
    """Every subject in every style."""
    return World(World.atlas_size(), tuple(STYLES))


@pytest.fixture(scope="session")
def random_judge(world: World) -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge(Classes(tuple(s.name for s in world.subjects), world.styles), widths=(8, 8, 8, 8, 8), embedding=6)
    return judge.eval().requires_grad_(False)
