import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgesafe import model
from edgesafe.erasers import ERASERS, ESD, Adversarial, ErasingBatch
from edgesafe.erasers.adversarial import inside
from edgesafe.errors import EdgeSafeError
from edgesafe.families import call
from edgesafe.model import predictor


def batch_of(rows: int, shape: tuple[int, int, int], tokens: int, width: int) -> ErasingBatch:
    draws = torch.Generator().manual_seed(0)
    concept, anchor, empty = ((torch.randn(rows, tokens, width, generator=draws),) for _ in range(3))
    timesteps = torch.randint(1000, (rows,), generator=draws)
    return ErasingBatch(torch.randn(rows, *shape, generator=draws), timesteps, concept, anchor, empty)


def linear(factor: float):
    """A model whose prediction is `factor` times its states, one pixel a number."""
    return lambda noisy, timesteps, states: factor * states.flatten(1).view(len(states), 1, 3, 4)


@pytest.fixture
def toy() -> ErasingBatch:
    return batch_of(5, (1, 3, 4), 3, 4)


@pytest.mark.parametrize("radius", [0.1, 0.4, 5.0])
def test_against_the_closed_form_of_a_linear_student(toy: ErasingBatch, radius: float):
    """2 (c + d) = 3 c at d = c / 2: that, or the nearest point of the ball of radius ||c|| r."""
    found = Adversarial(attack_steps=200, radius=radius, rate=1.0).attack(linear(2.0), linear(3.0), toy)
    states = toy.concept[0]
    expected = 0.5 * states * min(1.0, radius / 0.5)
    assert float((found - expected).norm() / expected.norm()) < (1e-4 if radius < 0.5 else 0.1)


def test_a_shared_perturbation_serves_all_rows(toy: ErasingBatch):
    """sum_b || 2 (c_b + d) - 3 c_b ||^2 is least at the mean of c_b / 2."""
    found = Adversarial(attack_steps=400, radius=2.0, rate=0.5, shared=True).attack(linear(2.0), linear(3.0), toy)
    expected = 0.5 * toy.concept[0].mean(0, keepdim=True)
    assert found.shape == (1, 3, 4)
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_the_ball():
    delta = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])
    torch.testing.assert_close(inside(delta, torch.tensor([1.0, 1.0]).view(2, 1, 1)), torch.tensor([[[0.6, 0.8]], [[0.3, 0.4]]]))


@pytest.fixture(scope="module")
def unets(tiny_sd1: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A frozen UNet, and a student that was moved away from it."""
    frozen = model.load(tiny_sd1).unet
    student = copy.deepcopy(frozen).requires_grad_(True)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05 * p.abs().mean() * torch.randn(p.shape, generator=draws))
    return frozen, student


@pytest.mark.parametrize("nothing", [{"radius": 0.0}, {"attack_steps": 0}, {"share": 0.0}])
def test_without_an_attack_it_is_esd(unets, nothing: dict):
    frozen, student = unets
    batch = batch_of(2, (4, 8, 8), 7, 32)
    ask = (lambda *given: call(student, *given), predictor(frozen), batch)
    assert torch.equal(Adversarial(**nothing).loss(*ask), ESD().loss(*ask))


def test_the_attack_brings_the_student_back_towards_the_frozen_model(unets):
    frozen, student = unets
    batch, eraser = batch_of(4, (4, 8, 8), 7, 32), Adversarial(attack_steps=8)

    def ask(*given: Tensor) -> Tensor:
        return call(student, *given)

    def distance(delta: Tensor | float) -> float:
        answer = ask(batch.noisy, batch.timesteps, batch.concept[0] + delta)
        return float((answer - predictor(frozen)(batch.noisy, batch.timesteps, *batch.concept)).square().sum().detach())

    found = eraser.attack(ask, predictor(frozen), batch)
    assert distance(found) < distance(0.0)
    assert (found.flatten(1).norm(dim=1) <= 0.5 * batch.concept[0].flatten(1).norm(dim=1) * 1.0001).all()
    torch.testing.assert_close(found, eraser.attack(ask, predictor(frozen), batch), rtol=0, atol=0)  # no random draw


@pytest.mark.parametrize("shared", [False, True])
def test_contract_only_the_student_has_gradients(unets, shared: bool):
    frozen, student = unets
    student.zero_grad()
    batch = batch_of(4, (4, 8, 8), 7, 32)
    before = [column.clone() for column in (*batch.concept, *batch.anchor, *batch.empty)]
    Adversarial(shared=shared).loss(lambda *given: call(student, *given), predictor(frozen), batch).backward()
    assert any(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in frozen.parameters())
    for column, was in zip((*batch.concept, *batch.anchor, *batch.empty), before, strict=True):
        assert torch.equal(column, was) and column.grad is None


def test_only_the_share_and_only_the_states_are_moved(toy: ErasingBatch):
    seen = []

    def student(noisy: Tensor, timesteps: Tensor, states: Tensor, other: Tensor) -> Tensor:
        seen.append((states.detach(), other))
        return linear(2.0)(noisy, timesteps, states)

    others = torch.ones(5, 6)
    batch = ErasingBatch(toy.noisy, toy.timesteps, *((column[0], others) for column in (toy.concept, toy.anchor, toy.empty)))
    Adversarial(share=0.4).loss(student, lambda x, t, states, other: linear(3.0)(x, t, states), batch)
    states, other = seen[-1]  # the eraser's; before it the attacker's
    moved = (states != toy.concept[0]).flatten(1).any(1)
    assert moved.tolist() == [True, False, True, False, False] and torch.equal(other, others)
    assert len(seen) == 1 + Adversarial().attack_steps and all(len(states) == 2 for states, _ in seen[:-1])


def test_messages():
    with pytest.raises(EdgeSafeError, match="eraser.radius -1"):
        Adversarial(radius=-1.0)
    with pytest.raises(EdgeSafeError, match="eraser.share 2"):
        Adversarial(share=2.0)
    with pytest.raises(EdgeSafeError, match="eraser.rate 0"):
        Adversarial(rate=0.0)
    with pytest.raises(EdgeSafeError, match="known: anchored"):
        Adversarial(target="negative")
    assert ERASERS["adversarial"] is Adversarial
