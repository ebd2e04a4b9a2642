"""Both levels' losses on a random pipeline: what a caption with the concept does to each, and the erasing batches."""

import contextlib
import dataclasses

import pytest
import torch

from edgesafe import losses, model, presets, pruners
from edgesafe.concepts import parse
from edgesafe.data import Batch, TextConditions, generator
from edgesafe.emoji.world import World
from edgesafe.erasers import ESD
from edgesafe.erasers.pictures import prompts_only
from edgesafe.model import predictor
from edgesafe.problem import DistilAndErase

CAPTIONS = ["red apple", "red apple neon style", "cat sepia style"]
CARRIED = torch.tensor([0.0, 1.0, 0.0])


class Fixed:
    """The same three captions at every step."""

    def __init__(self, net: model.TextToImage) -> None:
        self.latents = torch.randn(3, *net.latent_shape, generator=generator(9))

    def batch(self, n: int) -> Batch:
        return Batch(self.latents, CAPTIONS)


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2"])
def parts(request: pytest.FixtureRequest):
    net = model.load(request.getfixturevalue(request.param))
    return net, pruners.named("bk-sdm-small").prune(net.unet)


def problem(parts, **changes) -> DistilAndErase:
    net, pruned = parts
    settings = dataclasses.replace(presets.resolve("quick", []), **{"batch": 3, "erase_batch": 2, "empty_captions": 0.0} | changes)
    concepts = parse("neon", World())
    pictures, texts = prompts_only(net, concepts), TextConditions(net)
    own = (Fixed(net), concepts, pictures, texts, torch.device("cpu"), contextlib.nullcontext)
    return DistilAndErase(settings, net, net.unet, pruned.features, *own)


@pytest.mark.parametrize(
    ("mode", "task", "kd"),
    [("retarget", 1 - CARRIED, torch.ones(3)), ("mask", 1 - CARRIED, 1 - CARRIED), ("keep", torch.ones(3), torch.ones(3))],
)
def test_concept_captions(parts, mode: str, task: torch.Tensor, kd: torch.Tensor):
    p = problem(parts, concept_captions=mode)
    batch = p.lower_batch(0)
    assert torch.equal(batch.task_rows, task)
    assert torch.equal(batch.kd_rows, kd)
    torch.testing.assert_close(batch.given[0], p.texts(CAPTIONS)[0])
    asked = ["red apple", "red apple emoji style", "cat sepia style"] if mode == "retarget" else CAPTIONS
    with torch.no_grad():
        expected = predictor(parts[0].unet)(batch.noisy, batch.timesteps, *p.texts(asked))
    torch.testing.assert_close(batch.output, expected)


def test_an_emptied_caption_carries_nothing(parts):
    batch = problem(parts, empty_captions=1.0).lower_batch(0)
    assert torch.equal(batch.task_rows, torch.ones(3))


def test_the_lower_loss_is_the_weighted_sum_of_its_terms(parts):
    p = problem(parts, concept_captions="keep")
    net, student = parts[0], parts[1].unet
    batch = p.lower_batch(4)
    loss, terms = p.lower(student, batch)
    w = p.settings.weights
    total = w.denoise * terms["denoise"] + w.output * terms["output"] + w.feature * terms["feature"]
    torch.testing.assert_close(loss.detach(), total)
    prediction = student(batch.noisy, batch.timesteps, *batch.given).sample
    torch.testing.assert_close(terms["output"], (prediction - batch.output).square().mean().detach())
    alpha = model.alphas_cumprod(net)[batch.timesteps]
    noise = (batch.noisy - alpha.sqrt().view(-1, 1, 1, 1) * p.source.latents) / (1 - alpha).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.goal, losses.target(net.prediction_type, p.source.latents, noise, alpha), atol=1e-3, rtol=1e-3)


def test_a_copy_of_the_teacher_has_no_distillation_loss(parts):
    net = parts[0]
    p = problem((net, pruners.named("none").prune(net.unet)), concept_captions="keep")
    _, terms = p.lower(net.unet, p.lower_batch(0))
    assert float(terms["output"]) == float(terms["feature"]) == 0
    assert float(terms["denoise"]) > 0


def test_batches_depend_on_the_step_only(parts):
    a, b = problem(parts).lower_batch(7), problem(parts).lower_batch(7)
    assert torch.equal(a.noisy, b.noisy) and torch.equal(a.output, b.output)
    assert not torch.equal(a.noisy, problem(parts).lower_batch(8).noisy)


@pytest.mark.parametrize("pictures", ["data", "student"])
def test_the_upper_loss_of_each_kind_of_picture(parts, pictures: str):
    p = problem(parts, eraser=ESD(pictures=pictures))
    student = parts[1].unet.requires_grad_(True)
    batch = p.upper_batch(3, student)
    assert batch.noisy.shape == (2, *parts[0].latent_shape)
    assert torch.isfinite(batch.noisy).all()
    loss, terms = p.upper(student, batch)
    loss.backward()
    assert float(terms["erase"]) > 0
    assert student.conv_in.weight.grad is not None
    student.zero_grad(set_to_none=True)
