"""What the judge learns to call none, and what stays a picture of its subject."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor

from edgesafe.emoji import broken
from edgesafe.emoji.broken import BROKEN, LATENT_BROKEN, NO_STYLE
from edgesafe.emoji.world import World

WORLD = World(12, ("emoji", "neon", "mosaic"))
SEES_NO_STYLE = {"blurred", "faded", "noisy", "noise", "half-denoised"}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return AutoencoderKL(**levels, block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=8).eval().requires_grad_(False)


def draw(kind: str, vae: AutoencoderKL, seed: int = 0) -> broken.Labelled:
    if kind in BROKEN:
        return broken.broken(kind, WORLD, 9, seeded(seed))
    return broken.latent_broken(kind, vae, WORLD, 9, seeded(seed))


@pytest.mark.parametrize("kind", [*BROKEN, *LATENT_BROKEN])
def test_every_kind(kind: str, vae: AutoencoderKL) -> None:
    a, b = draw(kind, vae), draw(kind, vae)
    assert a.pixels.shape == (9, 3, 64, 64)
    assert a.pixels.isfinite().all()
    assert 0 <= a.pixels.min() <= a.pixels.max() <= 1
    assert (a.subjects == len(WORLD.subjects)).all(), "none"
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.styles, b.styles), "the generator alone decides"
    if kind in SEES_NO_STYLE:
        assert (a.styles == NO_STYLE).all()
    else:
        assert (a.styles >= 0).all() and (a.styles < len(WORLD.styles)).all()


def test_an_unknown_latent_kind_lists_the_known(vae: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match="unknown kind 'eaten'; known: half-denoised, latents blended, latents shuffled"):
        broken.latent_broken("eaten", vae, WORLD, 2, seeded())


def test_mild_changes_are_small_and_broken_ones_are_not() -> None:
    x = WORLD.sample(64, seeded()).pixels
    mild = (broken.mild(x, seeded(1)) - x).abs().mean()
    blurred = (broken._blur(x, torch.full((64, 1, 1, 1), 6.0)) - x).abs().mean()
    assert 0.005 < mild < 0.06 < blurred


def test_mild_leaves_its_source_and_the_range() -> None:
    x = WORLD.sample(32, seeded()).pixels
    before = x.clone()
    out = broken.mild(x, seeded(1))
    assert torch.equal(x, before)
    assert 0 <= out.min() <= out.max() <= 1


def test_blur_keeps_a_flat_picture_and_the_mean() -> None:
    flat = torch.full((2, 3, 64, 64), 0.3)
    assert torch.allclose(broken._blur(flat, torch.tensor([1.0, 6.0]).view(2, 1, 1, 1)), flat, atol=1e-5)
    dot = torch.zeros(1, 1, 64, 64)
    dot[..., 32, 32] = 1
    out = broken._blur(dot, torch.full((1, 1, 1, 1), 2.0))
    assert out.sum() == pytest.approx(1, abs=1e-4)
    assert out[0, 0, 32, 32] == pytest.approx(1 / (2 * torch.pi * 4), rel=0.01), "a Gaussian's peak, 1 / (2 pi sigma^2)"


def test_warp_of_nothing_is_nothing() -> None:
    x = WORLD.sample(4, seeded()).pixels
    assert torch.allclose(broken._warp(x, torch.zeros(4, 1, 1, 1), 5, seeded()), x, atol=1e-4)


def test_shuffle_permutes_cells_and_loses_nothing() -> None:
    x = WORLD.sample(4, seeded()).pixels
    out = broken._shuffle(x, 16, seeded())

    def cells(y: Tensor) -> Tensor:
        return y.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(4, 16, -1).sum(2).sort(1).values

    assert not torch.equal(out, x)
    assert torch.allclose(cells(out), cells(x), atol=1e-3)


def test_renders_and_twins_cover_all_pairs() -> None:
    drawn = broken.renders(WORLD, 300, seeded())
    assert WORLD.heldout[drawn.subjects, drawn.styles].any(), "the held-out ones too"
    assert (drawn.subjects < len(WORLD.subjects)).all()
    a, b, styles = broken._twins(WORLD, 40, seeded())
    assert a.shape == b.shape and styles.shape == (40,)
    assert (a - b).abs().mean((1, 2, 3)).min() > 0.01, "never the same subject"


def test_noise_in_the_latents_keeps_their_spread() -> None:
    z = torch.randn(64, 8, 8, 8, generator=seeded()) * 3 + 1
    for level in (0.0, 0.5, 1.0):
        out = broken._noised(z, torch.full((64, 1, 1, 1), level), seeded(1))
        assert out.std() == pytest.approx(3, rel=0.05)
        assert out.mean() == pytest.approx(1, abs=0.1)
    assert torch.allclose(broken._noised(z, torch.zeros(64, 1, 1, 1), seeded(1)), z, atol=1e-5)


def test_through_the_vae(vae: AutoencoderKL) -> None:
    x = WORLD.sample(5, seeded()).pixels
    clean, noisy = broken.through_vae(vae, x, seeded()), broken.through_vae(vae, x, seeded(), noise_level=0.5)
    assert clean.shape == x.shape
    assert 0 <= clean.min() <= clean.max() <= 1
    assert not torch.equal(clean, noisy)
    half = broken.through_vae(vae.to(torch.bfloat16), x, seeded())
    vae.float()
    assert half.dtype == torch.float32


def test_join_keeps_rows_together() -> None:
    parts = [broken.broken(kind, WORLD, 3, seeded()) for kind in ("empty", "noise")]
    whole = broken.join(parts)
    assert torch.equal(whole.pixels[3:], parts[1].pixels)
    assert whole.styles[3:].tolist() == [NO_STYLE] * 3
