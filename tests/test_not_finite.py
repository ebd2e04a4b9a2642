"""Where a NaN or an infinity began: each tensor on the way broken in turn, and the one that is named."""

import contextlib
import copy

import pytest
import torch

from edgesafe import model, not_finite, presets, pruners
from edgesafe.bilevel import NotFinite, State, check_weights, lower_step, upper_step
from edgesafe.concepts import parse
from edgesafe.data import Batch, TextConditions, generator
from edgesafe.emoji.world import World
from edgesafe.erasers.pictures import prompts_only
from edgesafe.problem import DistilAndErase

CAPTIONS = ["red apple", "cat sepia style"]


class Fixed:
    """The same two captions at every step."""

    def __init__(self, net: model.TextToImage) -> None:
        self.latents = torch.randn(2, *net.latent_shape, generator=generator(9))

    def batch(self, n: int) -> Batch:
        return Batch(self.latents, CAPTIONS)


@pytest.fixture
def broken(tiny_sd1) -> tuple[DistilAndErase, State]:
    """To be broken by the test."""
    net = model.load(tiny_sd1)
    pruned = pruners.named("bk-sdm-small").prune(net.unet)
    settings = presets.resolve("quick", [("test", {"batch": 2, "erase_batch": 2, "empty_captions": 0.0})])
    concepts = parse("neon", World())
    own = (Fixed(net), concepts, prompts_only(net, concepts), TextConditions(net), torch.device("cpu"), contextlib.nullcontext)
    problem = DistilAndErase(settings, net, copy.deepcopy(net.unet), pruned.features, *own)
    theta = pruned.unet.train().requires_grad_(True)
    optimizers = [torch.optim.AdamW(theta.parameters(), 1e-3) for _ in range(2)]
    return problem, State(theta, theta, *optimizers, rates=(1e-3, 1e-3))


def picture(problem: DistilAndErase, state: State) -> None:
    problem.source.latents[1, 0, 3, 3] = float("nan")


def text(problem: DistilAndErase, state: State) -> None:
    problem.teacher.text_encoder.text_model.final_layer_norm.bias.data[3] = float("inf")


def teacher(problem: DistilAndErase, state: State) -> None:
    """Past the range of the dtype, as fp16 does from 65504 on."""
    torch.nn.Module.to(problem.teacher.unet, torch.bfloat16)
    problem.teacher.unet.down_blocks[1].resnets[0].conv1.weight.data.mul_(1e38)
    problem.teacher.unet.down_blocks[1].resnets[0].conv1.bias.data.fill_(3e38)


def weight(problem: DistilAndErase, state: State) -> None:
    state.theta.conv_out.weight.data[0, 0, 0, 0] = float("nan")


def activation(problem: DistilAndErase, state: State) -> None:
    state.theta.conv_in.weight.data.fill_(3e38)


@pytest.mark.parametrize(
    ("breaking", "named"),
    [
        (picture, "the latents of the picture 'cat sepia style'"),
        (text, "the text states of 'red apple'"),
        (teacher, "the teacher's down_blocks.1"),
        (weight, "the student's weight conv_out.weight"),
        (activation, "the student's conv_in"),
    ],
)
def test_the_first_bad_tensor_of_the_lower_level_is_named(broken, breaking, named: str):
    problem, state = broken
    breaking(problem, state)
    with pytest.raises(NotFinite, match="step 0: the denoise loss is|step 0: the output loss is|step 0: the feature loss is"):
        lower_step(state, problem)
    assert not_finite.first(problem, state) == named


def test_the_first_bad_tensor_of_the_upper_level_is_named(broken):
    problem, state = broken
    assert not_finite.first(problem, state) is None
    problem.pictures.pictures.mean = problem.pictures.pictures.mean.clone()
    problem.pictures.pictures.mean[:] = float("inf")  # fp16, as a VAE's latents past its range become
    with pytest.raises(NotFinite, match="step 0: the erase loss is"):
        upper_step(state, problem)
    assert not_finite.first(problem, state).startswith("the latents of the concept's picture 0")
    problem.pictures.pictures.mean[:] = 0
    problem.frozen.conv_in.bias.data[0] = float("nan")
    assert not_finite.first(problem, state) == "the frozen UNet's prediction at the concept prompts"


def test_an_eraser_without_an_upper_level_has_no_tensors_there(broken):
    problem, state = broken
    problem.settings = presets.resolve("quick", [("test", {"batch": 2, "eraser": {"name": "uce"}})])
    problem.frozen.conv_in.bias.data[0] = float("nan")
    assert not_finite.first(problem, state) is None


def test_weights_and_moments_are_checked_before_they_are_kept(broken):
    problem, state = broken
    lower_step(state, problem)
    check_weights(state)
    state.inner.state[state.theta.conv_in.weight]["exp_avg"][0] = float("nan")
    with pytest.raises(NotFinite, match="after step 1: exp_avg of the weight conv_in.weight is not finite"):
        check_weights(state)
    state.theta.conv_in.weight.data[0] = float("inf")
    with pytest.raises(NotFinite, match="after step 1: the weight conv_in.weight is not finite"):
        check_weights(state)
