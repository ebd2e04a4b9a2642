import copy
from pathlib import Path

import pytest
import torch

from edgesafe.erasers.rece import RECE, adversary
from edgesafe.erasers.uce import UCE, edit_map
from edgesafe.errors import EdgeSafeError

from .test_uce import toy, work_on


def test_the_adversary_is_where_brute_force_finds_the_least_objective():
    W, E, A, P = toy(n=2)
    layers = [W, torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)]
    M, mu = edit_map(E, A, P, 0.5, 1.0, 1.0), 0.3
    x = torch.zeros_like(E).requires_grad_(True)
    search = torch.optim.LBFGS([x], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = mu * x.square().sum() + sum((x @ (w @ M).T - E @ w.T).square().sum() for w in layers)
        loss.backward()
        return loss

    search.step(closure)
    found = E @ adversary(sum(w.T @ w for w in layers), M, mu).T
    torch.testing.assert_close(found, x.detach(), rtol=0, atol=1e-6)


def test_limits_of_the_adversary():
    W, E, A, P = toy(n=2)
    G, M = W.T @ W + torch.eye(6, dtype=torch.float64), edit_map(E, A, P, 0.5, 1.0, 1.0)
    assert float(adversary(G, M, 1e12).norm()) < 1e-9, "a state of no length brings nothing back"
    torch.testing.assert_close(E @ adversary(G, M, 1e-12).T @ M.T, E, rtol=0, atol=1e-6)  # M has an inverse: all comes back
    torch.testing.assert_close(adversary(G, torch.eye(6, dtype=torch.float64), 1e-12), torch.eye(6, dtype=torch.float64))


def test_no_round_is_uce(tiny_sd1: Path):
    once, none = work_on(tiny_sd1), work_on(tiny_sd1)
    numbers = RECE(rounds=0).edit(once)
    expected = UCE().edit(none)
    assert {key: numbers[key] for key in expected} == expected
    assert all(torch.equal(a, b) for a, b in zip(once.unet.state_dict().values(), none.unet.state_dict().values(), strict=True))


def test_rounds_follow_the_equations_layer_by_layer(tiny_sd1: Path):
    """With each W' in place of M, every edit solved by least squares over the rows held so far."""
    work, mu, lambda_ = work_on(tiny_sd1), 0.1, 0.5
    E, A, P = RECE("last").states(work)
    s_p = len(P) ** -0.5
    names = [name for name in work.unet.state_dict() if ".attn2.to_k." in name or ".attn2.to_v." in name]
    W = [work.unet.state_dict()[name].double() for name in names]
    eye = torch.eye(32, dtype=torch.float64)
    ridge = mu * float(sum(w.square().sum() for w in W)) / 32
    held, anchors = [E], [A]
    for turn in range(3):
        s_e = ((turn + 1) * len(E)) ** -0.5
        given = torch.cat([lambda_**0.5 * eye, s_e * torch.cat(held), s_p * P])
        wanted = torch.cat([lambda_**0.5 * eye, s_e * torch.cat(anchors), s_p * P])
        edited = [torch.linalg.lstsq(given, wanted @ w.T).solution.T for w in W]
        if turn < 2:
            gram = ridge * eye + sum(v.T @ v for v in edited)
            held.append(torch.linalg.solve(gram, sum(v.T @ w for v, w in zip(edited, W, strict=True)) @ E.T).T)
            anchors.append(A)
    RECE("last", rounds=2, mu=mu, lambda_=lambda_).edit(work)
    for name, expected in zip(names, edited, strict=True):
        torch.testing.assert_close(work.unet.state_dict()[name], expected.float())


def test_a_round_brings_the_keys_and_values_of_its_adversary_nearer_to_the_anchors():
    """M_1 minimises what M_0 does and one term more, so that term cannot be larger at M_1."""
    W, E, A, P = toy(n=2)
    first = edit_map(E, A, P, 0.5, 1.0, 1.0)
    found = E @ adversary(W.T @ W, first, 0.1).T
    second = edit_map(torch.cat([E, found]), torch.cat([A, A]), P, 0.5, 1.0, 1.0)
    far = [float(((found @ M.T - A) @ W.T).norm()) for M in (first, second)]
    assert far[1] < 0.8 * far[0]


@pytest.mark.parametrize("family", ["tiny_sd2", "tiny_sdxl"])
def test_contract_keys_and_values_change_and_nothing_else(family: str, request: pytest.FixtureRequest):
    work = work_on(request.getfixturevalue(family))
    before = copy.deepcopy(work.unet.state_dict())
    numbers = RECE().edit(work)
    changed = {name for name, weight in work.unet.state_dict().items() if not weight.equal(before[name])}
    assert changed == {name for name in before if ".attn2.to_k.weight" in name or ".attn2.to_v.weight" in name}
    assert numbers["weights_edited"] == len(changed) and numbers["concept_left"] < 1 and numbers["adversary_returns"] < 1


def test_messages():
    with pytest.raises(EdgeSafeError, match="eraser.rounds -1: needs 0 or more"):
        RECE(rounds=-1)
    with pytest.raises(EdgeSafeError, match="eraser.mu 0: needs more than 0"):
        RECE(mu=0)
    with pytest.raises(EdgeSafeError, match="known: all, text, last"):
        RECE(tokens="first")
