"""Each solver on a quadratic: L_ft = |x - a|^2 / 2, L_CU = |x - b|^2 / 2, so all minimisers are known."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from edgesafe.bilevel import NotFinite, State
from edgesafe.errors import EdgeSafeError
from edgesafe.solvers import SOLVERS, Adaptive, Alternate, Distil, Penalty, TwoStage
from edgesafe.solvers.adaptive import barrier

A, B = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])


class Quadratic:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def lower_batch(self, n):
        self.calls.append(("lower", n))
        return A

    def upper_batch(self, n, network):
        self.calls.append(("upper", n))
        return B

    def lower(self, network, batch):
        loss = (network.weight[0] - batch).square().sum() / 2
        return loss, {"fit": loss.detach()}

    upper = lower


def state(two_networks: bool, rate: float = 0.1) -> State:
    theta = nn.Linear(2, 1, bias=False)
    nn.init.constant_(theta.weight, 5.0)
    vartheta = copy.deepcopy(theta) if two_networks else theta
    optimizers = [torch.optim.SGD(network.parameters(), rate) for network in (vartheta, theta)]
    return State(theta, vartheta, *optimizers, rates=(rate, rate), clip=1e9)


def run(solver, steps: int, rate: float = 0.1):
    s, problem = state(solver.two_networks, rate), Quadratic()
    return s, problem, list(solver.solve(s, problem, steps))


def test_penalty_once_finds_the_minimiser_of_the_penalised_objective():
    weight = 3.0
    s, _, records = run(Penalty(lambda_=weight, inner_steps=2, follow="once"), 600)
    torch.testing.assert_close(s.theta.weight[0].detach(), (B + weight * A) / (1 + weight))
    torch.testing.assert_close(s.vartheta.weight[0].detach(), A)  # argmax of G: plain distillation
    gap = float((s.theta.weight[0].detach() - A).square().sum() / 2)
    assert records[-1].values["gap"] == pytest.approx(gap, rel=1e-3)


def test_penalty_restart_is_the_recurrence_of_its_docstring():
    k, weight, rate = 3, 2.0, 0.1
    s, _, _ = run(Penalty(lambda_=weight, inner_steps=k, follow="restart"), 40)
    x = torch.full((2,), 5.0)
    for _ in range(10):
        for _ in range(k):
            x = x - rate * (x - A)
        x = x - rate * ((x - B) + weight * (x - A))
    torch.testing.assert_close(s.theta.weight[0].detach(), x)


def test_penalty_counts_inner_and_outer_iterations_and_ends_on_an_outer_step():
    _, problem, records = run(Penalty(inner_steps=20), 50)
    assert [r.step for r in records if r.level == "outer"] == [21, 42, 50]
    assert len(records) == 50
    assert {n for kind, n in problem.calls if kind == "upper"} == {20, 41, 49}


def test_lambda_adapts_to_the_gap():
    _, _, records = run(Penalty(lambda_=1.0, inner_steps=1, follow="once", adapt=2.0), 8)
    lambdas = [r.values["lambda"] for r in records if r.level == "outer"]
    assert lambdas[0] == 1.0
    assert all(b in (a * 2, a / 2) for a, b in pairwise(lambdas))


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_the_barrier_is_the_smallest_lambda_that_satisfies_the_constraint(cosine: float):
    draws = torch.Generator().manual_seed(3)
    for _ in range(20):
        u, q = (torch.randn(7, generator=draws, dtype=torch.float64) for _ in range(2))
        grid = torch.linspace(0, 20, 200_001, dtype=torch.float64)
        enough = (u @ q + grid * (q @ q)) >= cosine * u.norm() * q.norm() - 1e-12
        found = barrier([u[:3], None, u[3:]], [q[:3], None, q[3:]], cosine)
        assert float(found) == pytest.approx(float(grid[enough.nonzero()[0]]), abs=1e-4)
        scaled = barrier([100 * u], [0.01 * q], cosine)  # the direction does not depend on the losses' scales
        torch.testing.assert_close(100 * u + scaled * 0.01 * q, 100 * (u + found * q))


def test_adaptive_never_raises_the_lower_loss_and_erases_where_that_is_free():
    s, problem, records = run(Adaptive(inner_steps=1, eta=0.5, tolerance=1e-3), 400, rate=0.05)
    at_the_lower_optimum = problem.lower(s.theta, A)[0]
    assert float(at_the_lower_optimum.detach()) < 0.05  # the two minimisers exclude each other, and the lower level comes first
    assert all(r.values["lambda"] > 0 for r in records[-20:] if r.level == "outer")

    class Free(Quadratic):  # the lower loss leaves the second coordinate alone
        def lower(self, network, batch):
            loss = (network.weight[0, 0] - batch[0]).square() / 2
            return loss, {"fit": loss.detach()}

        def upper(self, network, batch):
            return Quadratic.lower(self, network, batch)

    s = state(False, 0.1)
    list(Adaptive(inner_steps=1).solve(s, Free(), 400))
    torch.testing.assert_close(s.theta.weight[0].detach(), torch.tensor([1.0, 2.0]), atol=5e-2, rtol=0)


def test_adaptive_measures_the_gap_of_the_inner_loop_on_the_outer_batch():
    _, _, records = run(Adaptive(inner_steps=3, smoothing=0.0), 4)
    x, rate = torch.full((2,), 5.0), 0.1
    before = float((x - A).square().sum() / 2)
    after = float((x - A).square().sum() / 2 * (1 - rate) ** 6)
    assert records[-1].values["gap"] == pytest.approx(before - after, rel=1e-4)


def test_adaptive_on_batches_without_any_loss():
    class Nothing(Quadratic):  # every row masked, or a student that answers as its teacher
        def lower(self, network, batch):
            loss = 0 * network.weight.sum()
            return loss, {"fit": loss.detach()}

        def upper(self, network, batch):
            return Quadratic.lower(self, network, batch)

    s = state(False, 0.1)
    records = list(Adaptive(inner_steps=1).solve(s, Nothing(), 400))
    assert {r.values["lambda"] for r in records if r.level == "outer"} == {0.0}
    torch.testing.assert_close(s.theta.weight[0].detach(), B)


def test_alternate_is_the_published_rhythm():
    _, _, records = run(Alternate(), 20)
    assert [r.step for r in records if r.level == "outer"] == [10, 20]


def test_two_stage_forgets_distillation_at_the_end():
    s, _, records = run(TwoStage(erase_share=0.5), 400)
    assert [r.level for r in records] == ["inner"] * 200 + ["outer"] * 200
    torch.testing.assert_close(s.theta.weight[0].detach(), B)


def test_distil_never_asks_for_the_eraser():
    s, problem, _ = run(Distil(), 200)
    torch.testing.assert_close(s.theta.weight[0].detach(), A)
    assert not [c for c in problem.calls if c[0] == "upper"]


@pytest.mark.parametrize("name", SOLVERS)
def test_contract(name: str):
    """Losses fall, iterations are counted, and a solver that goes on in the middle takes the same way."""
    solver = SOLVERS[name]()
    whole, problem, records = run(solver, 60, rate=0.01)
    assert [r.step for r in records] == list(range(1, 61))
    assert all(r.level in ("inner", "outer") for r in records)
    assert problem.lower(whole.theta, A)[0] < problem.lower(state(False).theta, A)[0]
    halves = state(solver.two_networks, rate=0.01)
    for row in solver.solve(halves, problem, 60):
        if row.step == 23:
            break
    list(solver.solve(halves, problem, 60))
    assert torch.equal(halves.theta.weight, whole.theta.weight)


def test_not_finite_is_refused_before_the_weights_move():
    class Broken(Quadratic):
        def lower(self, network, batch):
            loss, terms = super().lower(network, batch)
            return loss, terms | {"feature": torch.tensor(float("nan"))}

    s = state(False)
    before = s.theta.weight.clone()
    with pytest.raises(NotFinite, match="step 0: the feature loss is nan"):
        list(Distil().solve(s, Broken(), 3))
    assert torch.equal(s.theta.weight, before)


def test_a_gradient_that_is_not_finite_is_named():
    class Root(Quadratic):
        def lower(self, network, batch):
            return (network.weight * 0).sqrt().sum(), {}

    with pytest.raises(NotFinite, match="gradient of weight"):
        list(Distil().solve(state(False), Root(), 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Penalty(follow="never"), "known: restart, once"),
        (lambda: Adaptive(eta=-1), "solver.eta -1"),
        (lambda: Adaptive(tolerance=0), "solver.tolerance 0"),
        (lambda: Adaptive(smoothing=1), "solver.smoothing 1"),
        (lambda: Penalty(inner_steps=0), "--inner-steps 0"),
        (lambda: Penalty(lambda_=-1), "--lambda -1"),
        (lambda: TwoStage(erase_share=-0.1), "erase_share"),
    ],
)
def test_messages(make, message: str):
    with pytest.raises(EdgeSafeError, match=message):
        make()
