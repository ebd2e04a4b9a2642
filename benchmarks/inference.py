"""How fast EdgeSafe draws beside what people use now: alternately in one run, each in a process of its own.

    python -m edgesafe.benchmarks.inference [--parts emoji,emoji-int8,sd,sd-int8,profile] [--threads 2] [--out work/inference]

    emoji        whole pictures of the packaged teacher: our onnxruntime against Optimum, diffusers eager and our OpenVINO
    emoji-int8   the packaged BK-SDM student in int8 against Optimum on the un-pruned teacher in fp32
    sd           one UNet call with guidance of a random pipeline of Stable Diffusion 1.5's size, at 256 and 512 pixels
    sd-int8      the same, pruned by BK-SDM and in int8, against Optimum's un-pruned fp32
    profile      onnxruntime's own profile of both sizes, and the share of the machine's measured peak

The models are exported once into --out (SD 1.5's size: about 12 GiB there, 6 GiB of memory, half an hour); then all parts take
about 20 minutes on two free cores. Figures are written after each race, and what stands there is not measured again without --force.
Optimum's pipeline gets the same ONNX files, the same latents and as many threads.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.spread import paired, summary

from .cells import attempt
from .parts import asked
from .turns import Player, in_turn

PARTS = ("emoji", "emoji-int8", "sd", "sd-int8", "profile")
WARM_UP = {"picture": 2, "unet_call": 1}
AT_LEAST = 3


@dataclass(frozen=True)
class Model:
    folder: str  # in --out, or a packaged model
    runtime: str  # of ours, or a peer
    says: str


@dataclass(frozen=True)
class Race:
    part: str
    ours: Model
    theirs: Model
    what: str  # "picture" or "unet_call"
    size_px: int | None = None  # None: the model's own

    @property
    def name(self) -> str:
        size = f" at {self.size_px} px" if self.size_px else ""
        return f"{self.part}: {self.ours.says} against {self.theirs.says}, {self.what}{size}"


def races(size: str) -> list[Race]:
    """`size`: of the large random pipeline, a key of random_pipeline.SIZES."""
    ours = Model("emoji-onnx", "onnxruntime", "EdgeSafe onnxruntime fp32")
    optimum = Model("emoji-onnx", "optimum", "Optimum fp32")
    eager = Model("emoji:teacher", "diffusers", "diffusers eager")
    openvino = Model("emoji-openvino", "openvino", "EdgeSafe OpenVINO fp32")
    small = [Model(f"student-{kind}-int8", runtime, f"EdgeSafe BK-SDM int8, {runtime}") for kind, runtime in INT8]
    large = [replace(one, folder=one.folder.replace("emoji", size).removesuffix(":teacher")) for one in (ours, optimum, eager, openvino)]
    pruned = [
        replace(one, folder=one.folder.replace("student", f"{size}-{variant}"), says=one.says.replace("BK-SDM", f"BK-SDM {variant}"))
        for variant in VARIANTS
        for one in small
    ]
    return [
        *(Race("emoji", ours, theirs, "picture") for theirs in (optimum, eager, openvino)),
        *(Race("emoji-int8", one, optimum, "picture") for one in small),
        *(Race("sd", large[0], theirs, "unet_call", px) for px in (256, 512) for theirs in large[1:]),
        *(Race("sd-int8", one, large[1], "unet_call", px) for px in (256, 512) for one in pruned),
    ]


INT8 = (("onnx", "onnxruntime"), ("openvino", "openvino"))
VARIANTS = ("tiny",)


def exports(size: str) -> dict[str, tuple[str, list[str]]]:
    """Folder -> its source, a folder of --out or a packaged model, and the options of `edgesafe export`.

    Random weights lose more to int8 than trained ones, and nobody looks at their pictures: hence the low gate.
    """
    quick, int8 = ["--parity-steps", "1"], ["--quantize", "int8"]
    made = {
        "emoji-onnx": ("emoji:teacher", ["--target", "onnx"]),
        "emoji-openvino": ("emoji:teacher", ["--target", "openvino"]),
        f"{size}-onnx": (size, ["--target", "onnx", "--height", "256", "--width", "256", *quick]),
        f"{size}-openvino": (size, ["--target", "openvino", "--height", "256", "--width", "256", *quick]),
    }
    for target, _ in INT8:
        made[f"student-{target}-int8"] = "emoji:student", ["--target", target, *int8]
        for variant in VARIANTS:
            options = ["--target", target, *int8, "--height", "256", "--width", "256", "--parity-steps", "2", "--gate", "15"]
            made[f"{size}-{variant}-{target}-int8"] = f"{size}-{variant}", options
    return made


def prepare(name: str, size: str, out: Path, console: Console) -> str:
    """The place of a folder of `races`, written if it is not there. Raises: EdgeSafeError with the command's last words."""
    if name.startswith("emoji:"):
        return name
    folder = out / name
    if (folder / "manifest.json").is_file() or (folder / "model_index.json").is_file():
        return str(folder)
    if name in exports(size):
        source, options = exports(size)[name]
        place = prepare(source, size, out, console)
        _run([sys.executable, "-m", "edgesafe", "export", place, *options, "--out", str(folder)], f"exporting {name}", console)
    else:
        variant = name.removeprefix(size).strip("-")
        prune = ["--prune", variant] if variant else []
        _run([sys.executable, "-m", f"{__package__}.random_pipeline", size, str(folder), *prune], f"writing {name}", console)
    return str(folder)


def _run(command: list[str], doing: str, console: Console) -> None:
    with console.status(doing):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise EdgeSafeError(f"{doing}: {lines[-1].strip()}")


def race(one: Race, places: tuple[str, str], threads: int, pairs: int, limit_s: float) -> dict[str, Any]:
    """Times, the ratio theirs / ours in pairs, and the peak memory of both processes."""
    with (
        Player(places[0], one.ours.runtime, threads, size_px=one.size_px) as ours,
        Player(places[1], one.theirs.runtime, threads, size_px=one.size_px) as theirs,
    ):
        a_ms, b_ms = in_turn((ours, theirs), one.what, pairs, WARM_UP[one.what], limit_s, AT_LEAST)
        peaks = [player.memory()["peak_mib"] for player in (ours, theirs)]
    return {
        "times": {"ours": summary(a_ms), "theirs": summary(b_ms)},
        "peak_mib": {"ours": peaks[0], "theirs": peaks[1]},
        "times_as_fast": paired(b_ms, a_ms),
        "memory_ratio": round(peaks[0] / peaks[1], 3),
    }


def show(console: Console, record: dict[str, Any]) -> None:
    from . import operators

    title = f"{record['threads']} threads, in turn; memory is a process's peak"
    table = Table("ours", "theirs", "times as fast", "95 %", "pairs", "MiB", "ratio", title=title)
    failed, headed = [], None
    for row in record["races"].values():
        head = f"{row['part']}: {row['what']}" + (f", {row['size_px']} px" if row["size_px"] else "")
        if head != headed:
            table.add_section()
            table.add_row(f"[bold]{head}[/bold]")
            headed = head
        ours, theirs = row["ours"]["says"].removeprefix("EdgeSafe "), row["theirs"]["says"]
        if row["status"] == "failed":
            table.add_row(ours, theirs, "failed")
            failed.append(f"{head}, {ours} against {theirs}: {row['reason']}")
            continue
        ratio, ends, peaks = row["times_as_fast"], row["times_as_fast"]["interval95"], row["peak_mib"]
        times = [f"{says}\n{row['times'][side]['median_ms']:.0f} ms" for side, says in (("ours", ours), ("theirs", theirs))]
        interval = f"{ends[0]:.2f}-{ends[1]:.2f}" if ends else "too few"
        fast = f"{ratio['median']:.2f}{' wide' if ratio['warning'] else ''}"
        table.add_row(*times, fast, interval, str(ratio["n"]), f"{peaks['ours']:.0f} / {peaks['theirs']:.0f}", f"{row['memory_ratio']:.2f}")
    console.print(table)
    for line in failed:
        console.print(f"failed: {line}", highlight=False, soft_wrap=True)
    for name, row in record["profiles"].items():
        console.print(f"[bold]{name}[/bold]" if row["status"] == "measured" else f"failed: {name}: {row['reason']}")
        if row["status"] == "measured":
            operators.show(console, row)


@click.command()
@click.option("--parts", default=",".join(PARTS), show_default=True, help="What to measure.")
@click.option("--size", default="sd15", show_default=True, help="Of the large random pipeline; tenth is quick.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--pairs", default=15, show_default=True, type=click.IntRange(2), help="Of a race.")
@click.option("--limit", "limit_s", default=60.0, show_default=True, help="Seconds a race, though never below 3 pairs.")
@click.option("--out", default=Path("work/inference"), show_default=True, type=click.Path(path_type=Path), help="Models and figures.")
@click.option("--force", is_flag=True, help="Measure again what was measured.")
def main(parts: str, size: str, threads: int, pairs: int, limit_s: float, out: Path, force: bool) -> None:
    """Time EdgeSafe beside Optimum, diffusers and OpenVINO."""
    from edgesafe.machine import machine

    from .random_pipeline import SIZES

    chosen = asked("--parts", parts, PARTS, "part")
    if size not in SIZES:
        raise click.UsageError(f"--size {size}: known are {', '.join(SIZES)}")
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{size}-{threads}-threads.json"
    record = json.loads(file.read_text()) if file.is_file() else {"races": {}, "profiles": {}}
    facts = machine()
    record |= {"threads": threads, "machine": {key: facts[key] for key in ("processor", "features", "cores", "memory", "system")}}

    def keep(kind: str, name: str, measure: Callable[[], dict[str, Any]], **more: Any) -> None:
        if not force and record[kind].get(name, {}).get("status") == "measured":
            return
        with console.status(name):
            record[kind][name] = attempt(measure, **more)
        file.write_text(json.dumps(record, indent=1) + "\n")

    def ran(one: Race) -> dict[str, Any]:
        places = prepare(one.ours.folder, size, out, console), prepare(one.theirs.folder, size, out, console)
        return race(one, places, threads, pairs, limit_s)

    def profiled(folder: str, size_px: int | None) -> dict[str, Any]:
        place, written = prepare(folder, size, out, console), out / "profile.json"
        options = ["--threads", str(threads), "--json", str(written), *(["--size", str(size_px)] if size_px else [])]
        _run([sys.executable, "-m", f"{__package__}.operators", place, *options], f"profiling {folder}", console)
        return json.loads(written.read_text())

    for one in races(size):
        if one.part in chosen:
            keep("races", one.name, partial(ran, one), **asdict(one))
    if "profile" in chosen:
        for folder, size_px in (("emoji-onnx", None), (f"{size}-onnx", 256), (f"{size}-{VARIANTS[0]}-onnx-int8", 256)):
            keep("profiles", f"{folder}{f' at {size_px} px' if size_px else ''}", partial(profiled, folder, size_px))
    show(console, record)
    console.print(f"Figures: {file}")


if __name__ == "__main__":
    main()
