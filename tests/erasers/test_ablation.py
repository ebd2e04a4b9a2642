import pytest
import torch

from edgesafe.erasers import ERASERS, Ablation, ErasingBatch
from edgesafe.errors import EdgeSafeError


def states(value: float) -> tuple[torch.Tensor]:
    return (torch.full((2, 3, 4), value),)


def toy_batch() -> ErasingBatch:
    return ErasingBatch(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), states(1.0), states(2.0), states(3.0))


def answer(factor: float):
    """A model that predicts `factor` times its caption."""
    return lambda noisy, timesteps, given: factor * given.mean((1, 2)).view(-1, 1, 1, 1).expand_as(noisy)


@pytest.mark.parametrize(("goal", "expected"), [("student", (5.0 - 10.0) ** 2), ("frozen", (5.0 - 6.0) ** 2)])
def test_the_loss_is_the_distance_to_the_formula(goal: str, expected: float):
    """The student predicts 5 at the concept and 10 at the anchor, the frozen model 6 at the anchor."""
    for weight in (0.0, 2.0):
        loss = Ablation(goal, weight).loss(answer(5.0), answer(3.0), toy_batch())
        assert float(loss) == pytest.approx(expected + weight * (10.0 - 6.0) ** 2)


def test_the_gradient_against_the_formula_written_out():
    """The stop-gradient: of the first term only the concept's prediction has one."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, generator=generator, requires_grad=True)
    batch = toy_batch()
    c, a = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    batch = ErasingBatch(batch.noisy, batch.timesteps, (c,), (a,), batch.empty)

    def student(noisy, timesteps, given):
        return (given.mean(1) @ weight).view(-1, 1, 1, 1).expand_as(noisy)

    (found,) = torch.autograd.grad(Ablation(regularisation=0.5).loss(student, answer(0.7), batch), weight)
    w = weight.detach()
    at_c, at_a, frozen = c.mean(1) @ w, a.mean(1) @ w, 0.7 * a.mean((1, 2))
    expected = sum(2 * (at_c[b] - at_a[b]) * c[b].mean(0) + 0.5 * 2 * (at_a[b] - frozen[b]) * a[b].mean(0) for b in range(2)) / 2
    torch.testing.assert_close(found, expected)


def test_no_regularisation_and_a_student_that_ignores_its_prompt_have_nothing_to_learn():
    assert float(Ablation(regularisation=0.0).loss(lambda x, t, s: x, answer(1.0), toy_batch())) == 0


def test_contract_only_the_student_has_gradients_and_the_loss_falls():
    student, frozen = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)
    batch, optimizer, seen = toy_batch(), torch.optim.Adam(student.parameters(), 0.05), []
    for _ in range(60):
        loss = Ablation().loss(lambda x, t, s: student(x) * s.mean((1, 2)).view(-1, 1, 1, 1), lambda x, t, s: frozen(x), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.5 * seen[0] and frozen.weight.grad is None


def test_the_pictures_show_the_anchor():
    assert ERASERS["ablation"] is Ablation and Ablation().anchor_share == 1.0


def test_messages():
    with pytest.raises(EdgeSafeError, match="known: student, frozen"):
        Ablation(goal="teacher")
    with pytest.raises(EdgeSafeError, match="eraser.regularisation -1"):
        Ablation(regularisation=-1.0)
    with pytest.raises(EdgeSafeError, match="eraser.anchor_share"):
        Ablation(anchor_share=2.0)
