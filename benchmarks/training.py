"""What erasing costs beside plain distillation, and EdgeSafe's loop beside one written by hand: ratios of things timed in turn in one run.

    python -m edgesafe.benchmarks.training [--parts speed,memory,counts] [--minutes 4] [--out work/training]

    speed    seconds an iteration: cycles of K + 1 iterations of each solver and of the hand-written loop, in turn, one process, one thread
    memory   peak resident memory of a process each, imports included; nothing is subtracted
    counts   calls of the teacher, the text encoder and the VAE in one cycle, once each caption was seen
    device   a UNet of Stable Diffusion 2.1's size on a GPU: images/s, MFU, GiB (--parts device; it needs CUDA, or --size tiny)

The eraser's batch is a quarter of the distillation batch, as in the defaults (64 and 16), and asks the un-pruned teacher.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.spread import paired, summary

from .child import MARK, environment, last_words
from .parts import asked

PARTS = ("speed", "memory", "counts", "device")
SOLVERS = ("distil", "penalty", "adaptive", "alternate")
AGAINST = ("penalty", "adaptive", "alternate", "hand-written")
GOALS = {"penalty": 1.10, "alternate": 1.10}  # times plain distillation, an iteration
MEMORY_GOAL = 1.35  # times plain distillation, of the one-network form


def speed(batch: int, inner_steps: int, minutes: float, console: Console) -> dict[str, Any]:
    """Milliseconds an iteration of each, over whole cycles; ratios to plain distillation in the same round."""
    import torch

    from . import training_runs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = training_runs.bench("penalty", batch, inner_steps)
    with contextlib.ExitStack() as stack:
        contenders = {name: stack.enter_context(contextlib.closing(made.contender(name, inner_steps))) for name in SOLVERS}
        racing = {name: contender.step for name, contender in contenders.items()} | {"hand-written": made.plain().step}
        times = _race(racing, inner_steps + 1, minutes, console)
    ratios = {name: paired(times[name], times["distil"]) for name in AGAINST}
    return {"batch": batch, "inner_steps": inner_steps, "ms": {n: summary(t) for n, t in times.items()}, "times_plain_distillation": ratios}


def _race(racing: dict[str, Callable[[], Any]], iterations: int, minutes: float, console: Console) -> dict[str, list[float]]:
    """Cycles in turn; who begins changes."""
    names, times = list(racing), {name: [] for name in racing}
    for step in racing.values():
        for _ in range(2):
            step()
    begun, rounds = time.perf_counter(), 0
    with console.status("iterations in turn"):
        while rounds < 3 or time.perf_counter() - begun < 60 * minutes:
            for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
                times[name].append(_cycle(racing[name], iterations))
            rounds += 1
    return times


def _cycle(step: Callable[[], Any], iterations: int) -> float:
    begun = time.perf_counter()
    for _ in range(iterations):
        step()
    return 1e3 * (time.perf_counter() - begun) / iterations


def memory(batch: int, model: str | None, console: Console) -> dict[str, Any]:
    rows = {}
    for solver in SOLVERS:
        spec = {"solver": solver, "batch": batch, "inner_steps": 2, "model": model}
        with console.status(f"memory of {solver}"):
            rows[solver] = _child(spec)
    plain = rows["distil"]["peak_mib"]
    ratios = {solver: round(row["peak_mib"] / plain, 3) for solver, row in rows.items()}
    return {"batch": batch, "model": model or "emoji:student", "rows": rows, "times_plain_distillation": ratios}


def _child(spec: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", f"{__package__}.training_runs"]
    done = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True, env=environment(1), check=False)
    if done.returncode:
        raise EdgeSafeError(f"memory of {spec['solver']}: {last_words(done.stderr, done.returncode)}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith(MARK)).removeprefix(MARK))


def counts(batch: int, inner_steps: int) -> dict[str, Any]:
    from . import training_runs

    return training_runs.counts(training_runs.bench("penalty", batch, inner_steps), inner_steps)


def markdown(record: dict[str, Any]) -> str:
    lines = [f"{record['machine']['processor']}, torch {record['torch']}, one thread", ""]
    if part := record.get("speed"):
        lines += [f"Batch {part['batch']}, K = {part['inner_steps']}. Hand-written: the same arithmetic in sixty lines.", ""]
        lines += ["| | ms an iteration | times plain distillation | 95 % | cycles |", "|---|---|---|---|---|"]
        for name, row in part["ms"].items():
            ratio = part["times_plain_distillation"].get(name)
            ends = ratio and ratio["interval95"]
            interval = f"{ends[0]:.3f}-{ends[1]:.3f}" if ends else ""
            lines.append(f"| {name} | {row['median_ms']:.1f} | {ratio['median'] if ratio else 1:.3f} | {interval} | {row['n']} |")
        lines.append("")
    for key in ("memory", "memory_own"):
        if part := record.get(key):
            lines += [f"Peak resident memory of a process, {part['model']}, batch {part['batch']}; nothing subtracted.", ""]
            lines += ["| | MiB | before the first step | times plain distillation |", "|---|---|---|---|"]
            for name, row in part["rows"].items():
                times = part["times_plain_distillation"][name]
                lines.append(f"| {name} | {row['peak_mib']:.0f} | {row['before_the_first_step_mib']:.0f} | {times:.2f} |")
            lines.append("")
    if part := record.get("counts"):
        calls = ", ".join(f"{name.removesuffix('_calls')} {n}" for name, n in part.items() if name.endswith("_calls"))
        each = part["teacher_calls_of_a_distillation_batch"]
        lines += [f"Calls in {part['iterations']} iterations: {calls}; teacher calls of a distillation batch: {each}.", ""]
    if part := record.get("device"):
        lines += ["| | images/s | TFLOP/s | MFU | peak GiB |", "|---|---|---|---|---|"]
        for name, row in part["rows"].items():
            lines.append(f"| {name} | {row['images_per_s']} | {row['tflops']} | {row['mfu']:.1%} | {row['peak_gib']} |")
        lines += ["", f"{part['device']}; MFU: of {part['peak_tflops']} TFLOP/s, what a {part['dtype']} matrix product reaches there.", ""]
    return "\n".join(lines)


def show(console: Console, record: dict[str, Any]) -> None:
    part = record.get("speed")
    if part:
        table = Table("", "ms an iteration", "times plain distillation", "goal")
        for name, row in part["ms"].items():
            ratio = part["times_plain_distillation"].get(name, {"median": 1.0})["median"]
            table.add_row(name, f"{row['median_ms']:.1f}", f"{ratio:.3f}", f"<= {GOALS[name]:.2f}" if name in GOALS else "")
        console.print(table)
    console.print(markdown({key: value for key, value in record.items() if key != "speed"}), highlight=False)


@click.command()
@click.option("--parts", default="speed,memory,counts", show_default=True, help="What to measure.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(2))
@click.option("--inner-steps", default=20, show_default=True, type=click.IntRange(1), help="K.")
@click.option("--minutes", default=4.0, show_default=True, help="Of part speed, though never below 3 cycles of each.")
@click.option("--model", help="A pipeline folder for part memory, pruned to bk-sdm-small, beside the emoji student; see random_pipeline.")
@click.option("--model-batch", default=2, show_default=True, type=click.IntRange(2), help="With --model.")
@click.option("--size", default="sd21", show_default=True, help="Of part device: sd21 or tiny.")
@click.option("--out", default=Path("work/training"), show_default=True, type=click.Path(path_type=Path), help="JSON and Markdown.")
def main(parts: str, batch: int, inner_steps: int, minutes: float, model: str | None, model_batch: int, size: str, out: Path) -> None:
    """Time erasing beside plain distillation and a hand-written loop; measure memory; count calls."""
    import torch

    from edgesafe.machine import machine

    chosen = asked("--parts", parts, PARTS, "part")
    console, facts = Console(), machine()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "training.json"
    record = json.loads(file.read_text()) if file.is_file() else {}
    record |= {"torch": torch.__version__, "machine": {key: facts[key] for key in ("processor", "cores", "memory", "system")}}
    try:
        if "device" in chosen:
            from . import training_device

            record["device"] = training_device.measure(size)
        if "counts" in chosen:
            record["counts"] = counts(batch, inner_steps)
        if "memory" in chosen:
            record["memory"] = memory(batch, None, console)
            if model:
                record["memory_own"] = memory(model_batch, model, console)
        if "speed" in chosen:
            record["speed"] = speed(batch, inner_steps, minutes, console)
    except EdgeSafeError as error:
        raise click.ClickException(str(error)) from error
    file.write_text(json.dumps(record, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(record))
    show(console, record)
    console.print(f"{file}, {file.with_suffix('.md')}")


if __name__ == "__main__":
    main()
