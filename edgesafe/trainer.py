"""Run a solver: the loop with its log, previews and checkpoints, and the sealed run at the end.

RUN/ {config.json, metrics.jsonl, previews/, logs/, checkpoint/, model/, manifest.json last}. A checkpoint holds networks, optimizers,
the step and the solver's memory. It needs no generator state: every random draw's generator is made from the seed and the step. So a
resumed run gives the same bits as one that was never stopped, on a CPU with the same number of threads.
"""

import contextlib
import copy
import importlib.util
import json
import math
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from . import artifact, checkpoint, model, preparation, presets, previews
from .bilevel import NotFinite, Record, State
from .erasers import GradientEraser
from .erasers.parameters import select
from .errors import EdgeSafeError, Stopped
from .preparation import Setup
from .presets import Settings
from .problem import DistilAndErase

CHECKPOINT = Path("checkpoint") / "state.safetensors"
GO_ON = "Go on with: edgesafe train --resume"
LOGGED = ("lower", "upper", "gap", "lambda")


def train(settings: Settings, out: Path, resume: bool, console: Console) -> Path:
    """Train into `out`, or go on in it. Returns the sealed run.

    Raises: Stopped after Ctrl-C, with a checkpoint; EdgeSafeError where a loss is not finite, with the last good checkpoint kept.
    """
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision),
        log_with="tensorboard" if importlib.util.find_spec("tensorboard") else None,
        project_dir=out,
    )
    if not resume and out.exists():
        raise EdgeSafeError(f"--out {out} exists. Give another --out, or go on with it: edgesafe train --resume {out}")
    setup = preparation.set_up(settings, accelerator.device)
    if not resume:
        out.mkdir(parents=True)
        (out / "config.json").write_text(json.dumps(presets.to_dict(settings), indent=1) + "\n")
        (out / "metrics.jsonl").touch()
    try:
        problem = _gathered(setup, out, accelerator, console, keep=resume)
        return _run(setup, problem, out, accelerator, console)
    except KeyboardInterrupt as interrupt:
        raise Stopped(f"Stopped at once; what came after the last checkpoint is lost. {GO_ON} {out}") from interrupt


def _gathered(setup: Setup, out: Path, accelerator: Accelerator, console: Console, keep: bool) -> DistilAndErase:
    """The problem; where its data are at fault the run's folder goes again, unless it is to be kept."""
    try:
        return preparation.problem(setup, out, accelerator, console)
    except EdgeSafeError:
        if not keep:
            shutil.rmtree(out)
        raise


def _run(setup: Setup, problem: DistilAndErase, out: Path, accelerator: Accelerator, console: Console) -> Path:
    state, settings = _state(setup), setup.settings
    if (out / CHECKPOINT).is_file():
        restore(state, out / CHECKPOINT)
        console.print(f"resuming {out} at step {state.step} of {settings.steps}")
    asked = previews.prompts(setup.concepts, setup.source)
    if state.step == 0:
        _preview(setup, state, asked, out)
    _loop(setup, state, problem, asked, out, accelerator, console)
    if setup.settings.edits:
        _edit(setup, state, problem, asked, out, console)
    setup.student.unet = state.theta
    model.save(setup.student, out / "model")
    artifact.seal(out, preparation.manifest(setup))
    return out


def _loop(
    setup: Setup, state: State, problem: DistilAndErase, asked: list[str], out: Path, accelerator: Accelerator, console: Console
) -> None:
    settings, path = setup.settings, out / CHECKPOINT
    _cut_metrics(out / "metrics.jsonl", state.step)
    if accelerator.log_with:
        accelerator.init_trackers("logs")
    seen: dict[str, float] = {}
    started = time.perf_counter()
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with (out / "metrics.jsonl").open("a") as metrics, _interrupts() as interrupts, Progress(*columns, console=console) as bar:
        task = bar.add_task("train", total=settings.steps, completed=state.step)
        try:
            for row in settings.solver.solve(state, problem, settings.steps):
                seen |= {name: row.values[name] for name in LOGGED if name in row.values}
                _write(metrics, row, time.perf_counter() - started)
                accelerator.log(row.values, step=row.step)
                numbers = " ".join(f"{name} {value:.4g}" for name, value in seen.items())
                bar.update(task, completed=row.step, description=numbers)
                if not console.is_terminal and row.step % max(1, settings.steps // 10) == 0:
                    console.print(f"step {row.step}/{settings.steps} {numbers}", highlight=False)
                last = row.step == settings.steps
                if interrupts or last or row.step % settings.checkpoint_every == 0:
                    metrics.flush()
                    save(state, path)
                if last or row.step % settings.preview_every == 0:
                    _preview(setup, state, asked, out)
                if interrupts and not last:
                    raise Stopped(f"Stopped at step {row.step} of {settings.steps}, checkpoint kept. {GO_ON} {out}")
        except NotFinite as error:
            kept = f"the last good checkpoint is {path}" if path.is_file() else "there is no checkpoint yet"
            raise EdgeSafeError(f"{error}; {kept}. Try a lower rate or erase_rate (--set rate=...), or --precision fp32") from error
        finally:
            accelerator.end_training()


def _edit(setup: Setup, state: State, problem: DistilAndErase, asked: list[str], out: Path, console: Console) -> None:
    """The closed-form erasers; the checkpoint stays the one before them, so a resumed run comes to the same weights."""
    started = time.perf_counter()
    values = preparation.edit(setup, problem.texts, state.theta.eval(), console)
    row = Record(setup.settings.steps, "edit", values)
    with (out / "metrics.jsonl").open("a") as metrics:
        _write(metrics, row, time.perf_counter() - started)
    console.print("erased in closed form: " + " ".join(f"{name} {value:.4g}" for name, value in values.items()), highlight=False)
    _preview(setup, state, asked, out)


def _state(setup: Setup) -> State:
    s = setup.settings
    theta = setup.student.unet.train().requires_grad_(True)
    if s.gradient_checkpointing:
        theta.enable_gradient_checkpointing()
    vartheta = copy.deepcopy(theta) if s.solver.two_networks else theta

    def adamw(weights: Iterable[nn.Parameter], rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(weights, rate, betas=(0.9, 0.99), weight_decay=s.weight_decay, fused=True)

    inner = adamw(vartheta.parameters(), s.rate)
    moved = select(theta, s.eraser.parameters).values() if isinstance(s.eraser, GradientEraser) else theta.parameters()
    outer = adamw(moved, s.erase_rate)
    return State(theta, vartheta, inner, outer, (s.rate, s.erase_rate), lambda n: rate_share(n, s.steps, s.warmup, s.final_rate), s.clip)


def rate_share(n: int, steps: int, warmup: int, final: float) -> float:
    """Linear warm-up, then a cosine from 1 down to `final` at the last step."""
    ramp = min(1.0, (n + 1) / warmup) if warmup else 1.0
    return ramp * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * n / max(1, steps - 1))))


def save(state: State, path: Path) -> None:
    groups = {"theta": state.theta.state_dict()}
    groups |= {name: checkpoint.optimizer_tensors(o) for name, o in (("inner", state.inner), ("outer", state.outer))}
    if state.vartheta is not state.theta:
        groups["vartheta"] = state.vartheta.state_dict()
    checkpoint.save(path, groups, {"step": state.step, "memory": state.memory})


def restore(state: State, path: Path) -> None:
    groups, meta = checkpoint.load(path)
    state.theta.load_state_dict(groups["theta"])
    if state.vartheta is not state.theta:
        state.vartheta.load_state_dict(groups["vartheta"])
    for name, optimizer in (("inner", state.inner), ("outer", state.outer)):
        checkpoint.restore_optimizer(optimizer, groups.get(name, {}))
    state.step, state.memory = meta["step"], meta["memory"]


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, so that the step in progress ends; a second Ctrl-C stops at once."""
    caught: list[int] = []

    def note(number: int, _frame: Any) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, former)


def _write(metrics: Any, row: Record, seconds: float) -> None:
    values = {name: float(f"{value:.6g}") for name, value in row.values.items()}
    metrics.write(json.dumps({"step": row.step, "level": row.level, **values, "seconds": round(seconds, 2)}) + "\n")


def _cut_metrics(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from."""
    rows = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in rows))


def _preview(setup: Setup, state: State, asked: list[str], out: Path) -> None:
    state.theta.eval()
    previews.save_grid(previews.draw(setup.teacher, state.theta, asked), out / "previews" / f"step-{state.step:06d}.png")
    state.theta.train()
