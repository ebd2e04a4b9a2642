"""How long exports take and how much memory, beside the tools that people use now; alternately in one run, each in a process of its own.

    python -m edgesafe.benchmarks.exporting MODEL [--case onnx] [--rounds 3] [--json FILE]

Nobody draws or compares a picture here: files alone, the weights read from the same folder. The last column is ours / theirs.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

GIB = 2**30
WRITE = "edgesafe.export.write"


@dataclass(frozen=True)
class Case:
    ours: tuple[str, ...]  # module and options; MODEL and FOLDER come after the module
    theirs: tuple[str, ...]
    peer: str


CASES = {
    "onnx": Case((WRITE, "--target", "onnx"), ("edgesafe.benchmarks.peers.optimum_onnx",), "Optimum's exporter, fp32, all parts"),
    "coreml": Case(
        (WRITE, "--target", "coreml", "--part", "unet"), ("edgesafe.benchmarks.peers.plain_coreml",), "plain trace and convert, fp16, UNet"
    ),
}


def child(command: tuple[str, ...], source: str, out: Path) -> dict[str, Any]:
    """{"wall_s", "peak_gib", "size_gib"} of one export into the new folder `out`. Raises: click.ClickException with its last words."""
    shutil.rmtree(out, ignore_errors=True)
    log = out.with_suffix(".log")
    start = time.perf_counter()
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "-m", command[0], source, str(out), *command[1:]], stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    scale = 1 if sys.platform == "darwin" else 1024
    return {"wall_s": wall_s, "peak_gib": used.ru_maxrss * scale / GIB, "size_gib": size / GIB}


def measure(name: str, source: str, rounds: int, calls: int, console: Console) -> dict[str, Any]:
    """Ours and theirs in turn, the first of a pair changing place each round; then, for onnx, the two UNets in onnxruntime."""
    case, rows = CASES[name], {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(rounds):
            for who in ("ours", "theirs") if i % 2 == 0 else ("theirs", "ours"):
                with console.status(f"{name}, round {i + 1} of {rounds}: {who}"):
                    rows[who].append(child(getattr(case, who), source, Path(scratch) / who))
        facts = {}
        if name == "onnx" and calls:
            with console.status("the two UNets in onnxruntime"):
                facts["unet_call"] = race(*(Path(scratch) / who / "unet" / "model.onnx" for who in rows), calls)
    medians = {who: {key: statistics.median(row[key] for row in found) for key in found[0]} for who, found in rows.items()}
    ratios = {key: medians["ours"][key] / medians["theirs"][key] for key in medians["ours"]}
    return {"peer": case.peer, "rounds": rounds, **medians, "ratios": ratios, "samples": rows, **facts}


def race(ours: Path, theirs: Path, calls: int) -> dict[str, Any]:
    """Median milliseconds of a UNet call at batch 2 and the model's own size, alternately; and how far apart the two outputs are."""
    import numpy as np
    import onnx
    import onnxruntime

    config = json.loads(ours.with_name("config.json").read_text())
    side, rng = config["sample_size"], np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((2, config["in_channels"], side, side), np.float32),
        "timestep": np.array(500),
        "encoder_hidden_states": rng.standard_normal((2, 77, config["cross_attention_dim"]), np.float32),
    }
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (ours, theirs)]
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    inputs = [{port.name: feeds[port.name].astype(types[port.type]) for port in session.get_inputs()} for session in sessions]
    samples_ms: tuple[list[float], list[float]] = ([], [])
    outputs = [session.run(None, given)[0] for session, given in zip(sessions, inputs, strict=True)]
    for i in range(calls):
        for j in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            sessions[j].run(None, inputs[j])
            samples_ms[j].append(1e3 * (time.perf_counter() - start))
    medians = [statistics.median(times) for times in samples_ms]
    nodes = [len(onnx.load(path, load_external_data=False).graph.node) for path in (ours, theirs)]
    return {
        "ours_ms": medians[0],
        "theirs_ms": medians[1],
        "ratio": medians[0] / medians[1],
        "ours_nodes": nodes[0],
        "theirs_nodes": nodes[1],
        "max_abs": float(np.abs(outputs[0] - outputs[1]).max()),
    }


@click.command()
@click.argument("source")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="All by default.")
@click.option("--rounds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--calls", default=10, show_default=True, help="Timed UNet calls in onnxruntime; 0: none.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(source: str, cases: tuple[str, ...], rounds: int, calls: int, file: Path | None) -> None:
    """Export SOURCE, a pipeline folder, with EdgeSafe and its peers in turn. `benchmarks.random_pipeline` writes folders of real sizes."""
    console = Console()
    found = {name: measure(name, source, rounds, calls, console) for name in cases or CASES}
    table = Table("case", "peer", "figure", "ours", "theirs", "ratio", title=f"exports of {source}, rounds: {rounds}")
    for name, row in found.items():
        for key, unit in (("wall_s", "s"), ("peak_gib", "GiB"), ("size_gib", "GiB")):
            figures = f"{row['ours'][key]:.2f} {unit}", f"{row['theirs'][key]:.2f} {unit}", f"{row['ratios'][key]:.2f}"
            table.add_row(name, row["peer"], key, *figures)
        if call := row.get("unet_call"):
            figures = f"{call['ours_ms']:.1f} ms", f"{call['theirs_ms']:.1f} ms", f"{call['ratio']:.2f}"
            table.add_row(name, f"UNet, {call['ours_nodes']} and {call['theirs_nodes']} nodes", "onnxruntime call", *figures)
    console.print(table)
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
