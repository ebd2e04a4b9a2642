"""Number for number what diffusers' DDIMScheduler gives."""

from typing import Any

import pytest
import torch

from edgesafe import sampling
from edgesafe.benchmarks.runtimes.ddim import DDIM

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1}


@pytest.mark.parametrize("steps", [1, 4, 25, 50, 500])
@pytest.mark.parametrize("config", [SD, {}, SD | {"prediction_type": "v_prediction"}, SD | {"prediction_type": "sample"}])
def test_every_step_is_diffusers(config: dict[str, Any], steps: int) -> None:
    ours, theirs = DDIM(config), sampling.scheduler("ddim", config)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 8, 8, generator=draws)
    for t in ours.timesteps[:60]:
        prediction = torch.randn(2, 4, 8, 8, generator=draws)
        expected = theirs.step(prediction, t, z, return_dict=False)
        found = ours.step(prediction, t, z)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        z = expected[0]


def test_whole_pictures_are_equal() -> None:
    def unet(sample: torch.Tensor, t: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(sample * states.mean() + t / 1000)

    latents, text, empty = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(3, 2, 2), torch.zeros(1, 2, 2)
    drawn = [sampling.sample(unet, text, empty, latents, one, 25, 4.0) for one in (DDIM(SD), sampling.scheduler("ddim", SD))]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "more", [{"thresholding": True}, {"timestep_spacing": "trailing"}, {"rescale_betas_zero_snr": True}, {"trained_betas": [0.1]}]
)
def test_what_only_diffusers_does_is_left_to_it(more: dict[str, Any]) -> None:
    assert DDIM.covers(SD)
    assert not DDIM.covers(SD | more)
    assert not DDIM.covers(SD | {"beta_schedule": "squaredcos_cap_v2"})


def test_too_many_steps() -> None:
    with pytest.raises(ValueError, match="1001 steps: the model was trained with 1000"):
        DDIM(SD).set_timesteps(1001)
    with pytest.raises(ValueError, match="1000 steps begin at timestep 1000, behind the 1000 of the model"):
        DDIM(SD).set_timesteps(1000)
