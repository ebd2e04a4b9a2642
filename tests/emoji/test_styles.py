"""The styles: each keeps shape and range, follows its generator, leaves its source alone, and looks unlike every other."""

import itertools

import pytest
import torch
from torch import Generator, Tensor

from edgesafe.emoji.styles import COLOURLESS, CORE_STYLES, STYLES
from edgesafe.emoji.world import World

JITTERED = [name for name in STYLES if name != "emoji"]


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """(16, 3, 64, 64), before any style."""
    return World(16, ("emoji", "neon")).render(torch.arange(16), torch.zeros(16, dtype=torch.long), Generator().manual_seed(0))


def styled(name: str, pictures: Tensor, seed: int = 0) -> Tensor:
    return STYLES[name](pictures, Generator().manual_seed(seed))


@pytest.mark.parametrize("name", STYLES)
def test_shape_and_range(name: str, pictures: Tensor) -> None:
    before = pictures.clone()
    out = styled(name, pictures)
    assert out.shape == pictures.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert 0 <= out.min() <= out.max() <= 1
    assert torch.equal(pictures, before), "the source is left alone"


@pytest.mark.parametrize("name", STYLES)
def test_the_generator_alone_decides(name: str, pictures: Tensor) -> None:
    assert torch.equal(styled(name, pictures, 1), styled(name, pictures, 1))


@pytest.mark.parametrize("name", JITTERED)
def test_the_same_source_is_never_filtered_alike(name: str, pictures: Tensor) -> None:
    assert (styled(name, pictures, 1) - styled(name, pictures, 2)).abs().mean((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(STYLES, 2)))
def test_any_two_styles_look_different(a: str, b: str, pictures: Tensor) -> None:
    assert (styled(a, pictures) - styled(b, pictures)).abs().mean() > 0.03


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(CORE_STYLES, 2)))
def test_shipped_styles_are_further_apart_than_their_own_jitter(a: str, b: str, pictures: Tensor) -> None:
    within = max((styled(name, pictures, 0) - styled(name, pictures, 1)).abs().mean() for name in (a, b))
    assert (styled(a, pictures) - styled(b, pictures)).abs().mean() > 1.5 * within


@pytest.mark.parametrize("name", JITTERED)
def test_the_subject_still_shows(name: str, pictures: Tensor) -> None:
    """Two subjects in one style, jitter equal, differ more than by the jitter of one subject."""
    out = styled(name, pictures)
    assert (out - styled(name, pictures.roll(1, 0))).abs().mean() > 0.03


@pytest.mark.parametrize("name", COLOURLESS)
def test_colourless_styles_forget_the_background(name: str) -> None:
    flat = torch.tensor([[1.0, 0.75, 0.82], [0.65, 0.82, 1.0]])[:, :, None, None].expand(-1, -1, 64, 64)
    pink, blue = (STYLES[name](picture[None], Generator().manual_seed(0)) for picture in flat)
    assert (pink - blue).abs().mean() < 0.06


def test_the_core_styles_are_known() -> None:
    assert set(CORE_STYLES) <= set(STYLES)
    assert set(COLOURLESS) <= set(STYLES)
