"""What `benchmarks.training` runs: a training problem built as `edgesafe train` builds it, and the solvers as it runs them, without files.

In a process of its own (`python -m edgesafe.benchmarks.training_runs`, a spec on standard input) it measures the peak memory of one.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from edgesafe import preparation, presets, trainer
from edgesafe.bilevel import State
from edgesafe.concepts import retarget
from edgesafe.journal import NAME, Journal
from edgesafe.preparation import Setup
from edgesafe.presets import Settings
from edgesafe.problem import DistilAndErase
from edgesafe.processes import Processes

from .child import MARK
from .training_plain import PlainLoop

ENDLESS = 10**9
SOLVERS: dict[str, dict[str, Any]] = {
    "distil": {"name": "distil"},
    "alternate": {"name": "alternate"},
    "adaptive": {"name": "adaptive"},
    "penalty": {"name": "penalty"},
}


def settings(solver: str, batch: int, inner_steps: int, model: str | None = None) -> Settings:
    """The emoji student and its teacher, or a model that is pruned here; the eraser's batch is a quarter, as in the defaults."""
    table = SOLVERS[solver] | ({} if solver == "distil" else {"inner_steps": inner_steps})
    numbers = {"batch": batch, "erase_batch": max(1, batch // 4), "bank": 4 * batch, "concept_bank": batch, "replays": 0, "steps": ENDLESS}
    own = {"model": model, "data": "emoji"} if model else {"eraser": {"frozen": "teacher"}}
    own["erase"] = "none" if solver == "distil" else "neon"
    return presets.resolve(None, [("benchmark", {**own, **numbers, "solver": table})])


@dataclass
class Bench:
    """The problem, once; each contender gets a copy of the student."""

    setup: Setup
    problem: DistilAndErase

    def contender(self, solver: str, inner_steps: int) -> "Contender":
        mine = settings(solver, self.setup.settings.batch, inner_steps)
        setup = replace(self.setup, settings=mine, student=replace(self.setup.student, unet=copy.deepcopy(self.setup.student.unet)))
        return Contender(setup, replace(self.problem, settings=mine))

    def plain(self) -> PlainLoop:
        s, source, teacher = self.setup.settings, self.setup.source, self.setup.teacher
        pictures = source._pictures
        states = {caption: self.problem.texts([caption])[0] for caption in pictures.captions}
        w = s.weights
        return PlainLoop(
            copy.deepcopy(teacher.unet),
            copy.deepcopy(self.setup.student.unet),
            self.setup.features,
            pictures.mean,
            pictures.std,
            pictures.scale,
            pictures.captions,
            states,
            self.problem.alphas,
            s.batch,
            s.rate,
            (w.denoise, w.output, w.feature),
            w.min_snr_gamma,
        )


@dataclass
class Contender:
    """A solver that goes on for ever, with its journal, as `edgesafe train` runs it between two checkpoints."""

    setup: Setup
    problem: DistilAndErase
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = trainer._state(self.setup, Processes())
        self.folder = tempfile.TemporaryDirectory()
        (Path(self.folder.name) / NAME).touch()
        self.journal = Journal(Path(self.folder.name), 0).__enter__()
        self.iterations = self.setup.settings.solver.solve(self.state, self.problem, ENDLESS)

    def step(self) -> None:
        self.journal.write(next(self.iterations))

    def close(self) -> None:
        self.journal.__exit__(None, None, None)
        self.folder.cleanup()


def bench(solver: str, batch: int, inner_steps: int, model: str | None = None) -> Bench:
    chosen = settings(solver, batch, inner_steps, model)
    accelerator, console = Accelerator(cpu=True), Console(quiet=True)
    setup = preparation.set_up(chosen, accelerator.device)
    with tempfile.TemporaryDirectory() as folder:
        return Bench(setup, preparation.problem(setup, Path(folder), accelerator, console))


@contextmanager
def counted(**modules: nn.Module) -> Iterator[dict[str, int]]:
    """How often each module is called."""
    calls = dict.fromkeys(modules, 0)

    def note(name: str):
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def counts(of: Bench, inner_steps: int) -> dict[str, Any]:
    """Calls of frozen networks in one cycle of penalty, once each caption was encoded. One call of the teacher is the eraser's."""
    teacher, problem = of.setup.teacher, of.problem
    captions = [*of.setup.source._pictures.captions, *problem.pictures.pictures.captions]
    for caption in dict.fromkeys(["", *captions, *(retarget(c, problem.concepts) for c in captions), *problem.pictures.anchors]):
        problem.texts([caption])
    with counted(teacher=teacher.unet) as calls:
        each = []
        for n in range(3):
            before = calls["teacher"]
            problem.lower_batch(n)
            each.append(calls["teacher"] - before)
    watched = {"teacher": teacher.unet, "text_encoder": teacher.text_encoder.text_model, "vae_encoder": teacher.vae.encoder}
    with closing(of.contender("penalty", inner_steps)) as contender, counted(**watched) as calls:
        for _ in range(inner_steps + 1):
            contender.step()
    return {"iterations": inner_steps + 1, "teacher_calls_of_a_distillation_batch": each, **{f"{k}_calls": v for k, v in calls.items()}}


def main() -> None:
    from .memory import peak_mib

    spec = json.load(sys.stdin)
    torch.set_num_threads(1)
    made = bench(spec["solver"], spec["batch"], spec["inner_steps"], spec["model"])
    with closing(made.contender(spec["solver"], spec["inner_steps"])) as contender:
        before = peak_mib()
        for _ in range(2 * (spec["inner_steps"] + 1)):
            contender.step()
    print(MARK + json.dumps({"peak_mib": round(peak_mib(), 1), "before_the_first_step_mib": round(before, 1)}))


if __name__ == "__main__":
    main()
