from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from edgesafe import model
from edgesafe.erasers import ERASERS, ESD, ErasingBatch
from edgesafe.erasers.parameters import SUBSETS, select
from edgesafe.errors import EdgeSafeError
from edgesafe.losses import erasing_target


def toy_batch() -> ErasingBatch:
    def states(value: float) -> tuple[torch.Tensor]:
        return (torch.full((2, 3, 4), value),)

    return ErasingBatch(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), states(1.0), states(2.0), states(3.0))


def answer(noisy, timesteps, states):
    """A model that predicts its caption."""
    return states.mean((1, 2)).view(-1, 1, 1, 1).expand_as(noisy)


@pytest.mark.parametrize(("eraser", "goal"), [(ESD("esd", 1.0), 5.0), (ESD("anchor"), 2.0), (ESD("anchored", 0.5), 2.5)])
def test_the_loss_is_the_distance_to_the_formula(eraser: ESD, goal: float):
    """Frozen predictions: concept 1, anchor 2, empty 3; the student at the concept's prompt predicts 1."""
    assert float(eraser.loss(answer, answer, toy_batch())) == pytest.approx((goal - 1.0) ** 2, rel=1e-5)


@pytest.mark.parametrize("target", ["esd", "anchor", "anchored"])
def test_contract_only_the_student_has_gradients_and_the_loss_falls(target: str):
    student = torch.nn.Conv2d(4, 4, 1)
    frozen = torch.nn.Conv2d(4, 4, 1)
    batch, optimizer, seen = toy_batch(), torch.optim.Adam(student.parameters(), 0.05), []
    for _ in range(60):
        loss = ESD(target).loss(lambda x, t, s: student(x), lambda x, t, s: frozen(x) * s.mean(), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.2 * seen[0]
    assert frozen.weight.grad is None


def test_subsets():
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2,
    )  # fmt: skip
    names = {subset: set(select(unet, subset)) for subset in SUBSETS}
    assert names["strict"] == {n for n in names["x"] if "to_k" in n or "to_v" in n}
    assert {n.split(".attn2.")[1].split(".")[0] for n in names["x"]} == {"to_q", "to_k", "to_v", "to_out"}
    assert names["x"] | names["u"] == names["full"] and not names["x"] & names["u"]
    assert names["selfattn"] and all(".attn1." in n for n in names["selfattn"])


def test_u_of_stable_diffusion_xl_stays_within_its_blocks(tiny_sdxl: Path):
    unet = model.load(tiny_sdxl).unet
    names = {subset: set(select(unet, subset)) for subset in SUBSETS}
    assert names["u"] and all("block" in n and "emb" not in n and ".attn2." not in n for n in names["u"])
    assert {n.split(".")[0] for n in names["full"] - names["x"] - names["u"]} >= {"add_embedding", "time_embedding", "conv_in", "conv_out"}
    assert any(".time_emb_proj." in n for n in names["full"] - names["u"])


def test_eta_2_of_the_later_code_is_eta_1_of_the_paper():
    concept, empty = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(concept - 2 * (concept - empty), erasing_target("esd", 1.0, concept=concept, empty=empty))


def test_messages():
    with pytest.raises(EdgeSafeError, match="known: x, strict, u, selfattn, full"):
        ESD(parameters="attn")
    with pytest.raises(EdgeSafeError, match="known: anchored, anchor, esd"):
        ESD(target="negative")
    with pytest.raises(EdgeSafeError, match="no such weight"):
        select(torch.nn.Linear(1, 1), "x")


@pytest.mark.parametrize("name", ERASERS)
def test_every_eraser_of_the_registry_gives_the_student_alone_a_gradient(name: str):
    student, frozen = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)
    batch, eraser = toy_batch(), ERASERS[name]()

    def ask(network: torch.nn.Module):
        return lambda x, t, states: network(x) * states.mean((1, 2)).view(-1, 1, 1, 1)

    loss = eraser.loss(ask(student), ask(frozen), batch)
    loss.backward()
    assert loss.shape == () and torch.isfinite(loss) and float(student.weight.grad.abs().sum()) > 0
    assert frozen.weight.grad is None and all(column.grad is None for column in (*batch.concept, *batch.anchor, *batch.empty))
    assert select(student_of(), eraser.parameters)


def student_of() -> torch.nn.Module:
    """A module with every kind of weight that the subsets name."""
    block = torch.nn.ModuleDict({part: torch.nn.ModuleDict({"to_k": torch.nn.Linear(1, 1)}) for part in ("attn1", "attn2")})
    return torch.nn.ModuleDict({"block": block})
