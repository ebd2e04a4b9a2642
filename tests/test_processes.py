"""Several processes at one run. Tests marked `processes` really start two, which talk over gloo; CPUs suffice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from edgesafe import artifact
from edgesafe.cli import main
from edgesafe.errors import EdgeSafeError
from edgesafe.processes import BUCKET, Processes, _buckets, join

TOLERANCE = 1e-4  # of a loss, relative: sums are rounded in another order, and what differs grows from step to step
BATCH, STEPS = 5, 6  # an odd batch: shares of two and three rows
SETTINGS = ("bank=8", "concept_bank=4", "erase_batch=3", "rate=1e-4", "erase_rate=1e-4", "warmup=0", "concept_captions=mask")


def arguments(model: Path, out: Path, *more: str) -> list[str]:
    named = ["--model", str(model), "--data", "emoji", "--erase", "neon", "--inner-steps", "2", "--batch", str(BATCH)]
    return [*named, "--steps", str(STEPS), *(f"--set={text}" for text in SETTINGS), *more, "--out", str(out)]


def begin(command: list[str], **environment: str) -> subprocess.Popen:
    whole = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "250"} | environment
    return subprocess.Popen([sys.executable, "-m", *command], env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def pair(train: list[str]) -> list[subprocess.Popen]:
    """Two processes of one run, as a launcher would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [begin(["edgesafe", "train", *train], **shared, RANK=str(i), LOCAL_RANK=str(i)) for i in range(2)]


def ended(*started: subprocess.Popen) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=280)[0] for process in started]
    return [process.returncode for process in started], said


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def unet(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.processes
def test_two_launched_processes_have_the_losses_of_one_with_the_whole_batch(tiny_sd1: Path, tmp_path: Path):
    """Captions with the concept are masked, so the rows' weight differs by process; penalty's gap and lambda hang on both levels."""
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m", "edgesafe", "train"]
    options = ("--set=solver.adapt=1.5",)
    codes, said = ended(
        begin(["edgesafe", "train", *arguments(tiny_sd1, tmp_path / "one", *options)]),
        begin([*launch, *arguments(tiny_sd1, tmp_path / "two", *options)]),
    )
    assert codes == [0, 0], said
    assert said[1].count("done: ") == 1, "only the leading process speaks"
    assert artifact.read(tmp_path / "two").steps[0].method == "penalty/esd"
    a, b = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [row["level"] for row in b] == ["inner", "inner", "outer"] * 2
    for x, y in zip(a, b, strict=True):
        for name in x.keys() - {"level", "seconds", "gap"}:
            assert y[name] == pytest.approx(x[name], rel=TOLERANCE), (x["step"], name)
        assert y.get("gap", 0) == pytest.approx(x.get("gap", 0), abs=TOLERANCE * x["lower"])
    assert [row["lambda"] for row in a[2::3]] == [row["lambda"] for row in b[2::3]]
    untrained, one, two = unet(tiny_sd1), unet(tmp_path / "one" / "model"), unet(tmp_path / "two" / "model")
    moved = (one["conv_in.weight"].float() - untrained["conv_in.weight"]).norm()
    assert (one["conv_in.weight"].float() - two["conv_in.weight"].float()).norm() < 0.05 * moved


@pytest.mark.processes
def test_an_interrupt_of_one_process_stops_both_and_one_alone_can_go_on(tiny_sd1: Path, tmp_path: Path):
    out = tmp_path / "run"
    both = pair(arguments(tiny_sd1, out, "--set=checkpoint_every=1", "--steps", "2000"))
    deadline = time.monotonic() + 200
    while not (out / "checkpoint" / "state.safetensors").is_file():
        assert all(process.poll() is None for process in both) and time.monotonic() < deadline
        time.sleep(0.02)
    both[1].send_signal(signal.SIGINT)
    codes, said = ended(*both)
    assert codes == [130, 130], said
    assert "checkpoint kept" in said[0]
    rows, config = metrics(out), json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"steps": len(rows) + 1}))
    resumed = CliRunner().invoke(main, ["train", "--resume", str(out)], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.output
    assert "with 1 processes in place of 2" in resumed.output
    assert [row["step"] for row in metrics(out)] == list(range(1, len(rows) + 2))
    assert metrics(out)[:-1] == rows


@pytest.mark.processes
def test_nan_in_the_rows_of_one_process_stops_both(tiny_sd1: Path, tmp_path: Path):
    codes, said = ended(*pair(arguments(tiny_sd1, tmp_path / "run", "--set=rate=1e38", "--set=checkpoint_every=1")))
    assert codes == [2, 2], said
    assert "there is no checkpoint yet" in said[0] and "The first tensor that is not finite: the student's" in said[0]
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_sharding_is_refused_rather_than_ignored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(EdgeSafeError, match="configured for FSDP .*holds the whole student"):
        join()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_rows_of_all_processes_are_the_batch(count: int):
    rows = [r for rank in range(count) for r in range(7)[Processes(rank, count).rows(7)]]
    assert rows == list(range(7))


def test_a_batch_that_is_too_small_is_refused():
    with pytest.raises(EdgeSafeError, match="--batch 2: 3 processes share it"):
        Processes(0, 3).rows(2)


def test_buckets_hold_one_dtype_and_about_so_many_bytes():
    tensors = [torch.zeros(BUCKET // 8), torch.zeros(BUCKET // 8), torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1)]
    buckets = _buckets(tensors)
    assert [len(bucket) for bucket in buckets] == [2, 1, 1, 1]
    assert all(a is b for a, b in zip([t for bucket in buckets for t in bucket], tensors, strict=True))
