import pytest
import torch
from torch import Generator, nn

from edgesafe import losses
from edgesafe.errors import EdgeSafeError


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def test_denoise_is_the_weighted_mean_of_the_kept_rows():
    a, b, weight, rows = rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1), torch.tensor([1.0, 0.5, 7.0]), torch.tensor([1.0, 1.0, 0.0])
    by_hand = sum(float(weight[i]) * float(((a[i] - b[i]) ** 2).mean()) for i in (0, 1)) / 2
    assert float(losses.denoise(a, b, weight, rows)) == pytest.approx(by_hand, rel=1e-5)


def test_a_fully_masked_batch_costs_nothing_and_keeps_gradients():
    a = rand(2, 3).requires_grad_()
    loss = losses.mse(a, rand(2, 3, seed=1), torch.zeros(2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(a.grad, torch.zeros(2, 3))


def test_feature_loss_by_brute_force_and_its_scale_does_not_matter():
    students, teachers = [rand(2, 3, 4, 4), rand(2, 5, 2, 2, seed=1)], [rand(2, 3, 4, 4, seed=2), rand(2, 5, 2, 2, seed=3)]
    by_hand = sum(float(((s - t) ** 2).mean() / (t**2).mean()) for s, t in zip(students, teachers, strict=True)) / 2
    rows = torch.ones(2)
    assert float(losses.feature(students, teachers, rows)) == pytest.approx(by_hand, rel=1e-5)
    louder = [students[0], students[1] * 400], [teachers[0], teachers[1] * 400]
    assert float(losses.feature(*louder, rows)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_targets_agree_with_diffusers(kind: str):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    latents, noise, t = rand(4, 2, 3, 3), rand(4, 2, 3, 3, seed=1), torch.tensor([0, 10, 500, 999])
    alpha = scheduler.alphas_cumprod[t]
    torch.testing.assert_close(losses.noised(latents, noise, alpha), scheduler.add_noise(latents, noise, t))
    expected = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, t)
    torch.testing.assert_close(losses.target(kind, latents, noise, alpha), expected)


def test_unknown_prediction_type_lists_the_known():
    with pytest.raises(EdgeSafeError, match="epsilon, v_prediction"):
        losses.target("sample", rand(1, 1, 1, 1), rand(1, 1, 1, 1), torch.ones(1))


def test_min_snr():
    alpha = torch.tensor([0.99, 0.5])  # SNR 99 and 1
    torch.testing.assert_close(losses.min_snr_weight("epsilon", alpha, 5.0), torch.tensor([5 / 99, 1.0]))
    torch.testing.assert_close(losses.min_snr_weight("v_prediction", alpha, 5.0), torch.tensor([5 / 100, 0.5]))
    torch.testing.assert_close(losses.min_snr_weight("epsilon", alpha, 0.0), torch.ones(2))


def test_erasing_targets():
    c, a, e = rand(1, 2, 3, 3), rand(1, 2, 3, 3, seed=1), rand(1, 2, 3, 3, seed=2)
    torch.testing.assert_close(losses.erasing_target("esd", 1.0, concept=c, empty=e), 2 * e - c)
    torch.testing.assert_close(losses.erasing_target("anchored", 0.0, concept=c, anchor=a), losses.erasing_target("anchor", 0.0, anchor=a))
    torch.testing.assert_close(losses.erasing_target("anchored", 0.5, concept=c, anchor=a), 1.5 * a - 0.5 * c)


def test_tapped_keeps_hidden_states_and_leaves_no_hook():
    class Block(nn.Module):
        def forward(self, x):
            return x + 1, (x,)

    network = nn.Sequential()
    network.add_module("block", Block())
    with losses.tapped(network, ["block"]) as outputs:
        network(torch.zeros(1))
    assert torch.equal(outputs["block"], torch.ones(1))
    assert not network.block._forward_hooks
