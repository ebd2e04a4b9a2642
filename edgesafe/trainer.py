"""Run a solver: the loop with its log, previews and checkpoints, and the sealed run at the end.

RUN/ {config.json, metrics.jsonl, previews/, logs/, checkpoint/, model/, manifest.json last}. A checkpoint holds networks, optimizers,
the step and the solver's memory. It needs no generator state: every random draw's generator is made from the seed and the step. So a
run that was killed, whenever, ends in the same bits as one that never stopped, on a CPU with the same number of threads and processes.
What is written before a checkpoint (metrics, previews) is written again by the run that goes on from the one before it.
"""

import contextlib
import copy
import importlib.util
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from . import artifact, checkpoint, journal, model, not_finite, preparation, presets, previews, processes
from .bilevel import NotFinite, Record, State, check_weights
from .erasers import GradientEraser
from .erasers.parameters import select
from .errors import EdgeSafeError, Stopped
from .journal import Journal
from .preparation import Setup
from .presets import Settings
from .problem import DistilAndErase
from .processes import Processes

CHECKPOINT = Path("checkpoint") / "state.safetensors"
GO_ON = "Go on with: edgesafe train --resume"
LOGGED = ("lower", "upper", "gap", "lambda")
AT_ONCE_S = 1.0  # a second Ctrl-C stops at once; one that comes sooner is the first one, passed on by what started the process


@dataclass
class Run:
    """What every stage of a run reads."""

    setup: Setup
    problem: DistilAndErase
    state: State
    out: Path
    accelerator: Accelerator
    processes: Processes
    console: Console

    @property
    def settings(self) -> Settings:
        return self.setup.settings

    def __post_init__(self) -> None:
        self.asked = previews.prompts(self.setup.concepts, self.setup.source)

    def preview(self) -> None:
        """By the leading process; training goes on as if nothing had been drawn."""
        if self.processes.leads:
            self.state.theta.eval()
            pictures = previews.draw(self.setup.teacher, self.state.theta, self.asked)
            previews.save_grid(pictures, self.out / "previews" / f"step-{self.state.step:06d}.png")
            self.state.theta.train()


def train(settings: Settings, out: Path, resume: bool, console: Console) -> Path:
    """Train into `out`, or go on in it. Returns the sealed run.

    Of several processes all call it, and the leading one's `out` counts.

    Raises: Stopped after Ctrl-C, with a checkpoint; EdgeSafeError where a loss is not finite, with the last good checkpoint kept.
    """
    accelerator, team = processes.join(
        mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision),
        log_with="tensorboard" if importlib.util.find_spec("tensorboard") else None,
        project_dir=out,
    )
    out = team.share(out)
    if team.share(not resume and out.exists()):
        raise EdgeSafeError(f"--out {out} exists. Give another --out, or go on with it: edgesafe train --resume {out}")
    team.rows(settings.batch), team.rows(settings.erase_batch, "erase_batch")
    try:
        setup = preparation.set_up(settings, accelerator.device, None if resume else console)
        if not resume and team.leads:
            _begin(settings, out)
        problem = _gathered(setup, out, accelerator, team, console, keep=resume)
        run = Run(setup, problem, _state(setup, team), out, accelerator, team, console)
        return _run(run)
    except KeyboardInterrupt as interrupt:
        begun = (out / "config.json").is_file()
        rest = f"what came after the last checkpoint is lost. {GO_ON} {out}" if begun else "nothing was written"
        raise Stopped(f"Stopped at once; {rest}") from interrupt
    finally:
        accelerator.end_training()


def _begin(settings: Settings, out: Path) -> None:
    """The run's folder, with what --resume needs: it appears whole or not at all."""
    part = artifact.unfinished(out)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(presets.to_dict(settings), indent=1) + "\n")
    (part / journal.NAME).touch()
    os.rename(part, out)


def _gathered(setup: Setup, out: Path, accelerator: Accelerator, team: Processes, console: Console, keep: bool) -> DistilAndErase:
    """The problem; where its data are at fault the run's folder goes again, unless it is to be kept.

    The leading process first: the others read the pictures that it drew.
    """
    if not team.leads:
        team.wait()
    try:
        problem = preparation.problem(setup, out, accelerator, console, team)
    except EdgeSafeError:
        if not keep and team.leads:
            shutil.rmtree(out)
        raise
    if team.leads:
        team.wait()
    return problem


def _run(run: Run) -> Path:
    state, settings, out = run.state, run.settings, run.out
    if (out / CHECKPOINT).is_file():
        before = restore(state, out / CHECKPOINT)
        run.console.print(f"resuming {out} at step {state.step} of {settings.steps}")
        for what, now in _parallel(state).items():
            if (then := before.get(what, now)) != now:
                run.console.print(f"with {now} {what} in place of {then}: sums round in another order, so the last bits will differ")
    if state.step == 0:
        run.preview()
    _loop(run)
    if run.processes.leads:
        if settings.edits:
            _edit(run)
        check_weights(state)
        _keep_model(run)
        artifact.seal(out, preparation.manifest(run.setup))
    run.processes.wait()
    return out


def _loop(run: Run) -> None:
    settings, state, out, path = run.settings, run.state, run.out, run.out / CHECKPOINT
    if run.accelerator.log_with:
        run.accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": state.step + 1}})
    seen: dict[str, float] = {}
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    journaled, shown = Journal(run.out, state.step, run.processes.leads), Progress(*columns, console=run.console)
    with journaled as metrics, _interrupts() as interrupts, shown as bar:
        task = bar.add_task("train", total=settings.steps, completed=state.step)
        try:
            for row in settings.solver.solve(state, run.problem, settings.steps):
                seen |= {name: row.values[name] for name in LOGGED if name in row.values}
                metrics.write(row)
                run.accelerator.log(row.values, step=row.step)
                numbers = " ".join(f"{name} {value:.4g}" for name, value in seen.items())
                bar.update(task, completed=row.step, description=numbers)
                if not run.console.is_terminal and row.step % max(1, settings.steps // 10) == 0:
                    run.console.print(f"step {row.step}/{settings.steps} {numbers}", highlight=False)
                stop, last = run.processes.any(bool(interrupts)), row.step == settings.steps
                if last or row.step % settings.preview_every == 0:
                    run.preview()
                if stop or last or row.step % settings.checkpoint_every == 0:
                    check_weights(state)
                    metrics.flush()
                    if run.processes.leads:
                        save(state, path)
                if stop and not last:
                    raise Stopped(f"Stopped at step {row.step} of {settings.steps}, checkpoint kept. {GO_ON} {out}")
        except NotFinite as error:
            raise EdgeSafeError(_blame(run, error)) from error


def _blame(run: Run, error: NotFinite) -> str:
    run.console.print(f"{error}; looking for the tensor it began with", highlight=False)
    cause = not_finite.first(run.problem, run.state)
    began = f". The first tensor that is not finite: {cause}" if cause else ""
    path = run.out / CHECKPOINT
    kept = f"the last good checkpoint is {path}" if path.is_file() else "there is no checkpoint yet"
    return f"{error}; {kept}{began}. Try a lower rate or erase_rate (--set rate=...), or --precision fp32"


def _edit(run: Run) -> None:
    """The closed-form erasers; the checkpoint stays the one before them, so a resumed run comes to the same weights."""
    with Journal(run.out, run.settings.steps) as metrics:
        values = preparation.edit(run.setup, run.problem.texts, run.state.theta.eval(), run.console)
        metrics.write(Record(run.settings.steps, "edit", values))
    run.console.print("erased in closed form: " + " ".join(f"{name} {value:.4g}" for name, value in values.items()), highlight=False)
    run.preview()


def _keep_model(run: Run) -> None:
    """`model/`, which appears whole or not at all."""
    run.setup.student.unet = run.state.theta
    part, place = run.out / "model.part", run.out / "model"
    shutil.rmtree(part, ignore_errors=True)
    model.save(run.setup.student, part)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(part, place)


def _state(setup: Setup, team: Processes) -> State:
    s = setup.settings
    theta = setup.student.unet.train().requires_grad_(True)
    if s.channels_last:
        nn.Module.to(theta, memory_format=torch.channels_last)
    if s.gradient_checkpointing:
        theta.enable_gradient_checkpointing()
    vartheta = copy.deepcopy(theta) if s.solver.two_networks else theta

    def adamw(weights: Iterable[nn.Parameter], rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(weights, rate, betas=(0.9, 0.99), weight_decay=s.weight_decay, fused=True)

    inner = adamw(vartheta.parameters(), s.rate)
    moved = select(theta, s.eraser.parameters).values() if isinstance(s.eraser, GradientEraser) else theta.parameters()
    outer = adamw(moved, s.erase_rate)
    shares = (s.rate, s.erase_rate), lambda n: rate_share(n, s.steps, s.warmup, s.final_rate)
    state = State(theta, vartheta, inner, outer, *shares, s.clip, processes=team)
    if s.compile:
        for network in state.networks:
            preparation.compile_blocks(network)
    return state


def rate_share(n: int, steps: int, warmup: int, final: float) -> float:
    """Linear warm-up, then a cosine from 1 down to `final` at the last step."""
    ramp = min(1.0, (n + 1) / warmup) if warmup else 1.0
    return ramp * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * n / max(1, steps - 1))))


def save(state: State, path: Path) -> None:
    groups = {"theta": state.theta.state_dict()}
    groups |= {name: checkpoint.optimizer_tensors(o) for name, o in (("inner", state.inner), ("outer", state.outer))}
    if state.vartheta is not state.theta:
        groups["vartheta"] = state.vartheta.state_dict()
    checkpoint.save(path, groups, {"step": state.step, "memory": state.memory, **_parallel(state)})


def restore(state: State, path: Path) -> dict[str, Any]:
    """Returns the facts that `save` wrote."""
    groups, meta = checkpoint.load(path)
    state.theta.load_state_dict(groups["theta"])
    if state.vartheta is not state.theta:
        state.vartheta.load_state_dict(groups["vartheta"])
    for name, optimizer in (("inner", state.inner), ("outer", state.outer)):
        checkpoint.restore_optimizer(optimizer, groups.get(name, {}))
    state.step, state.memory = meta["step"], meta["memory"]
    return meta


def _parallel(state: State) -> dict[str, int]:
    """What the order of sums, and so the last bits, depend on."""
    return {"threads": torch.get_num_threads(), "processes": state.processes.count}


@contextlib.contextmanager
def _interrupts() -> Iterator[list[float]]:
    """A list that Ctrl-C or SIGTERM fills, so that the step in progress ends; a later second one stops at once."""
    caught: list[float] = []

    def note(number: int, frame: Any) -> None:
        caught.append(time.monotonic())
        if caught[-1] - caught[0] > AT_ONCE_S:
            raise KeyboardInterrupt

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
