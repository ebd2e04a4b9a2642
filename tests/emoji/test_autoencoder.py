import time
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor

from edgesafe.emoji import budget
from edgesafe.emoji.autoencoder import SCALING_FACTOR, build, fold_scale, loss, psnr_db
from edgesafe.emoji.budget import Budget
from edgesafe.emoji.world import World


@pytest.fixture
def vae() -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = AutoencoderKL(
            latent_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            scaling_factor=SCALING_FACTOR,
        )
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return World(8).sample(24, Generator().manual_seed(0)).pixels * 2 - 1


def test_the_shape_of_the_shipped_vae(pixels: Tensor) -> None:
    net = build().eval()
    with torch.no_grad():
        z = net.encode(pixels[:1]).latent_dist.mode()
    assert z.shape == (1, 8, 8, 8)
    assert net.config.scaling_factor == SCALING_FACTOR


@torch.no_grad()
def test_folding_the_scale_leaves_pictures_and_gives_unit_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    before = vae.encode(pixels).latent_dist
    shown = vae.decode(before.mode()).sample
    fold_scale(vae, pixels)
    after = vae.encode(pixels).latent_dist
    assert torch.allclose(vae.decode(after.mode()).sample, shown, atol=1e-4)
    z = after.mode() * SCALING_FACTOR
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(3), atol=1e-3)
    gain = after.std / before.std  # the posterior's noise is scaled with its mean
    assert torch.allclose(gain, gain[:1, :, :1, :1].expand_as(gain), rtol=1e-3)


@torch.no_grad()
def test_psnr_equals_its_definition(vae: AutoencoderKL, pixels: Tensor) -> None:
    rebuilt = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    mse = sum(float(((a - b) / 2).square().mean()) for a, b in zip(rebuilt, pixels, strict=True)) / len(pixels)
    assert psnr_db(vae, pixels) == pytest.approx(-10 * torch.tensor(mse).log10().item(), abs=1e-3)


def test_the_loss_falls_when_followed(pixels: Tensor, vae: AutoencoderKL) -> None:
    vae.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        first = loss(vae, pixels[:8])
        optimizer = torch.optim.Adam(vae.parameters(), 2e-3)
        for _ in range(12):
            optimizer.zero_grad()
            value = loss(vae, pixels[:8])
            value.backward()
            optimizer.step()
    assert float(value.detach()) < 0.9 * float(first.detach())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, for the test to move."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_budget_counts_work_and_no_pauses(clock: list[float]) -> None:
    spent = Budget(2, _mark=clock[0])
    clock[0] += 30
    assert spent.tick() == pytest.approx(0.25)
    clock[0] += 3600  # the machine slept
    assert spent.tick() == pytest.approx(0.25)
    clock[0] += 50
    spent.start()
    clock[0] += 30
    assert spent.tick() == pytest.approx(0.5)
    assert Budget(2, spent_s=500, _mark=clock[0]).tick() == 1.0


def test_a_budgets_rate_warms_up_then_falls() -> None:
    assert Budget(1).rate(0, 1e-3, warmup=10) == pytest.approx(1e-4)
    rates = [Budget(1, spent_s=s).rate(1000, 1e-3) for s in (0, 15, 30, 45, 60, 90)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[4] == rates[5] == pytest.approx(1e-5)
    assert all(a > b for a, b in pairwise(rates[:5]))
    assert Budget(2, spent_s=60).rate(1000, 1e-3) > Budget(1, spent_s=60).rate(1000, 1e-3)


@pytest.mark.parametrize(
    ("seconds", "expected"), [({None: 2.0, torch.bfloat16: 1.0}, torch.bfloat16), ({None: 1.0, torch.bfloat16: 1.5}, None)]
)
def test_the_faster_precision_wins(seconds: dict, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])

    def step(dtype: torch.dtype | None) -> None:
        now[0] += seconds[dtype]

    assert budget.faster_dtype(step) == expected
