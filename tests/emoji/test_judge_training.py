"""The judge's training on a toy scale: what its banks hold, that it learns and resumes, and what it reports of itself."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Generator

from edgesafe.emoji import judge_training
from edgesafe.emoji.broken import BROKEN, LATENT_BROKEN, NO_STYLE
from edgesafe.emoji.judge import Classes, Judge
from edgesafe.emoji.world import World

WORLD = World(12, ("emoji", "neon", "mosaic"))
NONE = len(WORLD.subjects)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return AutoencoderKL(**levels, block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=8).eval().requires_grad_(False)


def network() -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judge(Classes(tuple(s.name for s in WORLD.subjects), WORLD.styles))


def test_a_bank_holds_all_kinds(vae: AutoencoderKL) -> None:
    data = judge_training.bank(WORLD, vae, 240, Generator().manual_seed(0))
    assert 240 <= len(data.pixels) <= 240 + len(BROKEN) + len(LATENT_BROKEN)
    assert 0 <= data.pixels.min() <= data.pixels.max() <= 1
    named = data.subjects < NONE
    assert named.sum() == 240 * 0.75
    assert len(set(zip(data.subjects[named].tolist(), data.styles[named].tolist(), strict=True))) > 30, "nearly all 36 pairs"
    assert (data.styles[~named] == NO_STYLE).any() and (data.styles[~named] >= 0).any()


def test_a_picture_without_a_style_teaches_none() -> None:
    judge = network().eval()
    pixels = WORLD.sample(4, Generator().manual_seed(0)).pixels
    judge_training.loss(judge, pixels, torch.full((4,), NONE), torch.tensor([0, NO_STYLE, NO_STYLE, NO_STYLE])).backward()
    one = judge.style_head.weight.grad.clone()
    judge.zero_grad()
    judge_training.loss(judge, pixels[:1], torch.full((1,), NONE), torch.tensor([0])).backward()
    assert torch.allclose(one, judge.style_head.weight.grad, atol=1e-5), "the mean over the pictures that have a style"


def test_a_batch_without_any_style_is_finite() -> None:
    pixels = WORLD.sample(4, Generator().manual_seed(0)).pixels
    assert judge_training.loss(network(), pixels, torch.full((4,), NONE), torch.full((4,), NO_STYLE)).isfinite()


def test_the_loss_can_be_learned(vae: AutoencoderKL) -> None:
    judge, data = network(), judge_training.bank(WORLD, vae, 60, Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(judge.parameters(), judge_training.PEAK_RATE)
    losses = []
    for _ in range(15):
        value = judge_training.loss(judge, data.pixels, data.subjects, data.styles)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_training_resumes(vae: AutoencoderKL, tmp_path: Path) -> None:
    _, first = judge_training.train(WORLD, vae, tmp_path, minutes=0.02, size=60)
    judge, second = judge_training.train(WORLD, vae, tmp_path, minutes=0.04, size=60)
    again, third = judge_training.train(WORLD, vae, tmp_path, minutes=0.04, size=60)
    assert 0 < first < second == third, "more minutes go on, spent ones do not"
    assert not judge.training
    assert torch.equal(again.embed.weight, judge.embed.weight)


def test_it_measures_itself_on_every_kind(vae: AutoencoderKL) -> None:
    figures = judge_training.measure(network().eval(), WORLD, vae, count=16)
    assert {f"{pairs} {what}: {rate}" for pairs in ("trained", "heldout") for what in ("renders", "mildly worse", "reconstructions")
            for rate in ("subject right", "style right", "called none")} <= set(figures)  # fmt: skip
    assert {f"broken, {kind}: called none" for kind in (*BROKEN, *LATENT_BROKEN)} <= set(figures)
    assert all(figure["numerator"] <= figure["denominator"] for figure in figures.values())
    assert figures["heldout renders: subject right"]["denominator"] == 16
