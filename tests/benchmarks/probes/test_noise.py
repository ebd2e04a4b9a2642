from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import sampling
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.probes.noise import Injecting, Noise
from edgesafe.benchmarks.probes.plain import Plain
from edgesafe.benchmarks.sources import Source
from edgesafe.errors import EdgeSafeError

KINDS = ("epsilon", "v_prediction")


def generators(seeds: range) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ddim(kind: str, steps: int):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "set_alpha_to_one": False}
    scheduler = sampling.scheduler("ddim", config | {"prediction_type": kind})
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_is_that_of_diffusers_given_the_same_noise(kind: str, eta: float) -> None:
    scheduler = ddim(kind, 7)
    ours = Injecting(scheduler, torch.full((3,), eta), 1.0, generators(range(3)))
    theirs = generators(range(3))
    z = expected = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    for t in scheduler.timesteps:
        prediction = z.roll(1, -1) * 0.7
        noise = torch.stack([torch.randn(4, 8, 8, generator=g) for g in theirs])
        expected = scheduler.step(prediction, t, expected, eta=eta, variance_noise=noise, return_dict=False)[0]
        (z,) = ours.step(prediction, t, z)
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-6)
        z = expected


@pytest.mark.parametrize("eta", [1.85, 4.0])
def test_the_variance_of_the_next_level_is_never_passed(eta: float) -> None:
    scheduler = ddim("epsilon", 25)
    probe = Injecting(scheduler, torch.full((64,), eta), 1.0, generators(range(64)))
    e = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    for t in scheduler.timesteps[:-1]:
        left = 1 - scheduler.alphas_cumprod[t - 40]
        (z,) = probe.step(e, t, e * (1 - scheduler.alphas_cumprod[t]) ** 0.5)  # x0 is nought, so z is noise alone
        assert float(z.var() / left) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sd2"])
def test_without_noise_it_is_the_plain_probe(
    pipeline: str, request: pytest.FixtureRequest, target: Target, cell_of: Callable[..., Cell]
) -> None:
    place: Path = request.getfixturevalue(pipeline)
    model, cell = runtimes.load(place, "torch", 1), cell_of("neon", 2)
    target = replace(target, source=Source(str(place), None))
    pictures = Noise(etas=(0.0,)).draw(model, target, cell, cell.questions)
    assert (pictures == Plain().draw(model, target, cell, cell.questions)).all()
    assert (pictures != Noise(etas=(1.0,)).draw(model, target, cell, cell.questions)).any()


def test_the_seed_chooses_the_eta(target: Target, cell_of: Callable[..., Cell]) -> None:
    model, cell = runtimes.load(target.source.place, "torch", 1), cell_of("neon", 3)
    questions = [replace(question, seed=seed) for question, seed in zip(cell.questions, (6, 7, 8), strict=True)]
    together = Noise(etas=(0.0, 1.0, 1.85)).draw(model, target, cell, questions)
    for i, eta in enumerate((0.0, 1.0, 1.85)):
        alone = Noise(etas=(eta,)).draw(model, target, cell, questions)
        assert (together[i] == alone[i]).all()


def test_it_draws_with_ddim_whatever_the_sampler(target: Target, cell_of: Callable[..., Cell]) -> None:
    model, cell = runtimes.load(target.source.place, "torch", 1), cell_of("neon", 1)
    other = replace(target, drawing=replace(target.drawing, sampler="dpm++"))
    assert (Noise().draw(model, target, cell, cell.questions) == Noise().draw(model, other, cell, cell.questions)).all()


@pytest.mark.parametrize(
    ("settings", "message"), [({"etas": ()}, "etas"), ({"etas": (1.0, 5.0)}, "numbers from 0 to 4"), ({"scale": 0.0}, "scale 0.0")]
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        Noise(**settings)
