"""SIGKILL at any moment: run, be killed, go on, be killed again, and end in the bits of a run that nobody killed."""

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgesafe import artifact, checkpoint

SETTINGS = (
    "bank=6", "replays=2", "concept_bank=4", "erase_batch=2", "rate=1e-3", "checkpoint_every=2", "preview_every=3", "after.name=uce",
    "solver.adapt=1.5",
)  # fmt: skip
STEPS = 10

# Imports once, then forks: a run costs its own seconds only. A line of standard input is a command; its process's id is answered, then
# its exit code and its seconds of CPU.
NURSERY = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import edgesafe.trainer, edgesafe.sampling, edgesafe.previews
from edgesafe.cli import main
edgesafe.previews.SHOWN = 2
edgesafe.sampling.sample.__defaults__ = (2, 4.0, None)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        main(json.loads(line))
    print(child, flush=True)
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
"""


class Nursery:
    def __init__(self, log: Path) -> None:
        self.log = log.open("wb")
        command, pipes = [sys.executable, "-c", NURSERY], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, bufsize=0, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)

    def run(self, arguments: list[str], kill_when: Callable[[int], bool] = lambda _: False) -> tuple[int, float]:
        """The exit code, -9 where it was killed, and the seconds of CPU. `kill_when` gets the process's id."""
        self.process.stdin.write(json.dumps(["train", *arguments]).encode() + b"\n")
        child, killed = int(self.process.stdout.readline()), False
        while not select.select([self.process.stdout], [], [], 0.002)[0]:
            if not killed and kill_when(child):
                os.kill(child, signal.SIGKILL)
                killed = True
        code, seconds = self.process.stdout.readline().split()
        return int(code), float(seconds)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        self.log.close()

    def said(self) -> str:
        return Path(self.log.name).read_text()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "log.txt")
    yield nursery
    nursery.close()


def arguments(model: Path, out: Path) -> list[str]:
    named = ["--model", model, "--data", "emoji", "--erase", "neon", "--batch", 2, "--steps", STEPS, "--inner-steps", 2, "--out", out]
    return [*map(str, named), *(f"--set={text}" for text in SETTINGS)]


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody killed, and its seconds of CPU."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, seconds = nursery.run(arguments(tiny_sd1, out))
    assert code == 0, nursery.said()
    return out, seconds


def go_on(nursery: Nursery, model: Path, out: Path, kills: list[Callable[[int], bool]]) -> int:
    """Start a run and go on with it after each kill until it ends; returns how many kills met it alive."""
    for met, kill in enumerate([*kills, lambda _: False]):
        command = ["--resume", str(out)] if out.exists() else arguments(model, out)
        code, _ = nursery.run(command, kill)
        assert code in (0, -signal.SIGKILL), nursery.said()
        if (out / "manifest.json").exists():  # a kill can also come after the end
            return met
    raise AssertionError("never ended")


def contents(run: Path) -> dict[str, object]:
    """All that a run leaves, but for the time of day."""
    tensors = {f"model/{p.parent.name}": load_file(p) for p in sorted((run / "model").rglob("*.safetensors"))}
    rows = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (run / "metrics.jsonl").read_text().splitlines()]
    pictures = {p.name: Image.open(p).tobytes() for p in sorted((run / "previews").iterdir())}
    groups, meta = checkpoint.load(run / "checkpoint" / "state.safetensors")
    return {"files": set(artifact.read(run).files), "rows": rows, "pictures": pictures, "meta": meta, "tensors": tensors | groups}


def assert_same(a: Path, b: Path) -> None:
    first, second = contents(a), contents(b)
    for key in ("files", "rows", "pictures", "meta"):
        assert first[key] == second[key], key
    assert first["tensors"].keys() == second["tensors"].keys()
    for group, tensors in first["tensors"].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second["tensors"][group][name]), (group, name)
    assert not list(b.glob("*.part")) and not list((b / "checkpoint").glob("*.part"))


def after(seconds: float) -> Callable[[int], bool]:
    """Of CPU: a busy machine does not move the moment."""

    def over(pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return sum(psutil.Process(pid).cpu_times()[:2]) > seconds
        return False

    return over


def appears(*paths: Path) -> Callable[[int], bool]:
    """One of them; where the first stands for milliseconds only, the next is what it turns into."""
    return lambda _: any(path.exists() for path in paths)


def test_killed_at_random_moments(nursery: Nursery, whole: tuple[Path, float], tiny_sd1: Path, tmp_path: Path):
    draws, (unbroken, seconds) = random.Random(0), whole
    moments = [after(draws.uniform(0.3, 0.7) * seconds) for _ in range(3)]
    assert go_on(nursery, tiny_sd1, tmp_path / "run", moments) >= 1
    assert_same(unbroken, tmp_path / "run")


def test_killed_while_something_is_written(nursery: Nursery, whole: tuple[Path, float], tiny_sd1: Path, tmp_path: Path):
    """At each of these in turn; a write takes milliseconds, so one of the kills may come too late or hit the moment after."""
    out = tmp_path / "run"
    kept, part = out / "checkpoint" / "state.safetensors", out / "checkpoint" / "state.safetensors.part"
    moments = [
        appears(tmp_path / ".run.part", out),  # the run's folder, before it has its name
        appears(part, kept),  # the first checkpoint
        appears(out / "previews" / "step-000003.png"),  # between two checkpoints
        lambda _: kept.exists() and not part.exists(),  # right after one
        appears(out / "model.part" / "unet", out / "model"),  # the model, after the last checkpoint and the edit
        appears(out / "model"),  # the whole model, before the manifest
    ]
    assert go_on(nursery, tiny_sd1, out, moments) >= 4
    assert_same(whole[0], out)


def test_a_checkpoint_killed_in_its_write_leaves_the_former(nursery: Nursery, tiny_sd1: Path, tmp_path: Path):
    out = tmp_path / "run"
    kept, part = out / "checkpoint" / "state.safetensors", out / "checkpoint" / "state.safetensors.part"
    for _ in range(5):
        shutil.rmtree(out, ignore_errors=True)
        nursery.run(arguments(tiny_sd1, out), lambda _: kept.exists() and part.exists())
        if part.exists():
            break
    assert part.exists()
    before = checkpoint.load(kept)[1]["step"]
    assert 2 <= before < STEPS
    assert len((out / "metrics.jsonl").read_text().splitlines()) >= before
