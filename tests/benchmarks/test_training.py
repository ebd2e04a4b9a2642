"""The hand-written loop does EdgeSafe's arithmetic, the teacher is asked once a batch, nothing is encoded twice; and the table."""

import contextlib
import dataclasses

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from edgesafe.benchmarks import training, training_device, training_runs
from edgesafe.benchmarks.training_plain import PlainLoop
from edgesafe.data import generator
from edgesafe.errors import EdgeSafeError
from edgesafe.pruners.cost import cost


@pytest.fixture(scope="module")
def bench() -> training_runs.Bench:
    return training_runs.bench("penalty", batch=4, inner_steps=2)


def test_the_hand_written_loop_has_the_same_losses_and_weights(bench: training_runs.Bench):
    """Step by step from the same draws; captions are kept as they are, for the loop knows nothing of concepts."""
    with contextlib.closing(bench.contender("distil", 2)) as mine:
        compare(mine, bench.plain())


def compare(mine: training_runs.Contender, theirs: PlainLoop) -> None:
    mine.problem.settings = dataclasses.replace(mine.problem.settings, concept_captions="keep", empty_captions=0.0, warmup=0)
    mine.state.schedule = lambda n: 1.0
    s = mine.problem.settings
    for n in range(3):
        batch, draws = mine.problem.source.batch(n), generator(s.seed, "lower", n)
        noise = torch.randn(batch.latents.shape, generator=draws)
        timesteps = torch.randint(len(mine.problem.alphas), (s.batch,), generator=draws)
        loss = theirs.learn(batch.latents, batch.captions, noise, timesteps)
        assert next(mine.iterations).values["lower"] == pytest.approx(loss, rel=1e-4)
    moved = theirs.student.state_dict()
    for name, weight in mine.state.theta.state_dict().items():
        torch.testing.assert_close(weight, moved[name], rtol=0, atol=2e-5)


def test_one_teacher_call_a_batch_and_no_encoder_call_once_captions_are_seen(bench: training_runs.Bench):
    counts = training_runs.counts(bench, inner_steps=2)
    assert counts["teacher_calls_of_a_distillation_batch"] == [1, 1, 1]
    assert counts["teacher_calls"] == counts["iterations"] + 1  # the eraser's one, of both captions at once
    assert counts["text_encoder_calls"] == counts["vae_encoder_calls"] == 0


def test_flops_of_a_step_are_the_teachers_forward_pass_and_three_of_the_students():
    """Two a MAC; a backward pass costs two forward ones, but for the gradients of inputs, which nothing needs."""
    config, _, _ = training_device.SIZES["tiny"]
    networks = training_device.networks(config, torch.device("meta"))
    teacher, student = (cost(network, (4, 8, 8), 77).total.macs for network in networks)
    assert 5.5 * student < training_device.step_flops(config) - 2 * teacher <= 6 * student


def test_a_gpu_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EdgeSafeError, match="--parts device: torch sees no CUDA device"):
        training_device.measure("sd21")
    with pytest.raises(EdgeSafeError, match="known are sd21, tiny"):
        training_device.measure("sd3")


@pytest.mark.gpu
def test_a_tiny_step_on_the_gpu():
    rows = training_device.measure("tiny")["rows"]
    assert all(row["images_per_s"] > 0 and row["peak_gib"] > 0 for row in rows.values())


def test_the_table_of_a_record():
    times = {name: [10.0, 11.0, 10.5] for name in ("distil", *training.AGAINST)}
    ratios = {name: training.paired(times[name], times["distil"]) for name in training.AGAINST}
    record = {
        "torch": "2", "machine": {"processor": "a chip"},
        "speed": {
            "batch": 16, "inner_steps": 20, "times_plain_distillation": ratios,
            "ms": {n: training.summary(t) for n, t in times.items()},
        },
        "memory": {
            "batch": 16, "model": "m", "rows": {"distil": {"peak_mib": 900.0, "before_the_first_step_mib": 700.0}},
            "times_plain_distillation": {"distil": 1.0},
        },
        "counts": {"iterations": 3, "teacher_calls_of_a_distillation_batch": [1], "teacher_calls": 4},
    }  # fmt: skip
    text = training.markdown(record)
    assert "| penalty | 10.5 | 1.000 |  | 3 |" in text
    assert "| distil | 900 | 700 | 1.00 |" in text
    assert "Calls in 3 iterations: teacher 4; teacher calls of a distillation batch: [1]." in text
    console = Console(record=True, width=120)
    training.show(console, record)
    assert "<= 1.10" in console.export_text()


def test_unknown_parts_are_named():
    result = CliRunner().invoke(training.main, ["--parts", "speed,taste"])
    assert result.exit_code == 2 and "unknown part 'taste'; known: speed, memory, counts, device" in result.output
