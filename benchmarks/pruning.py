"""The pruners side by side at matched MACs, on the packaged teacher of the emoji world.

    python -m edgesafe.benchmarks.pruning [--parts quality,latency] [--macs 0.6] [--out work/pruning]

    quality    the judge's rates and the distance to renders, right after pruning and after a short distillation, the same for every row
    latency    a UNet call with guidance in onnxruntime, alternately with the teacher's in one run, each in a process of its own

BK-SDM's three shapes are what they are; the other rows are cut to --macs of the teacher's UNet. Rows that end in a number keep widths
at multiples of so many channels and are there for their latency. About 20 minutes of one core for the qualities; models, figures and
the table are kept in --out and not made again. Measure latencies again on a quiet machine: --parts latency --force.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from edgesafe import artifact, model, preparation, presets, trainer
from edgesafe.data import Show, Source, TextConditions, open_source
from edgesafe.emoji import evaluate
from edgesafe.emoji.judge import Judge
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError, Stopped
from edgesafe.machine import machine
from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import kernel_distance
from edgesafe.model import TextToImage
from edgesafe.presets import Settings
from edgesafe.pruners import Calibration
from edgesafe.pruners.cost import cost
from edgesafe.pruners.scores import SCORES

from . import exporting, versus
from .cells import attempt
from .parts import asked

TEACHER = "emoji:teacher"
PARTS = ("quality", "latency")
STAGES = ("pruned", "distilled")
MULTIPLES = (8, 16)  # channels
DISTIL: dict[str, Any] = {"teacher": TEACHER, "data": "emoji", "erase": "none", "rate": 4e-4, "warmup": 10, "bank": 1024, "replays": 4}


@dataclass(frozen=True)
class Row:
    prune: str
    table: dict[str, Any] = field(default_factory=dict)  # of the pruner's own settings, but for its target
    parts: tuple[str, ...] = PARTS


def plan() -> dict[str, Row]:
    """By name; the teacher first, whole."""
    depth = {f"bk-sdm-{variant}": Row(f"bk-sdm-{variant}") for variant in ("base", "small", "tiny")}
    widths = {f"width-{score}": Row("width", {"score": score}) for score in SCORES}
    shapes = {f"width-taylor-{n}": Row("width", {"score": "taylor", "multiple": n}, ("latency",)) for n in MULTIPLES}
    return {"teacher": Row("none")} | depth | widths | {"aptp": Row("aptp")} | shapes


@dataclass(frozen=True)
class Config:
    macs: float = 0.6  # share of the teacher's UNet that stays
    iterations: int = 150  # of the short distillation
    batch: int = 16
    seed: int = 0


@dataclass
class Study:
    config: Config
    out: Path
    console: Console
    pictures: int = 128  # that the judge sees of each model

    @cached_property
    def teacher(self) -> TextToImage:
        return model.load(TEACHER)

    @cached_property
    def source(self) -> Source:
        """What scores and gates look at."""
        source = open_source("emoji", self.teacher, self.config.seed, self.config.batch, DISTIL["bank"], 0)
        source.prepare(self.out, self.show)
        return source

    @cached_property
    def judge(self) -> Judge:
        return evaluate.load_judge()

    @cached_property
    def world(self) -> World:
        return evaluate.world_of(self.judge)

    @cached_property
    def reference(self) -> Tensor:
        """(N, D) the judge's embedding of renders."""
        pairs = evaluate.evenly(self.world.pairs(heldout=False), evaluate.RENDERS)
        return self.judge.score(self.world.render(pairs[:, 0], pairs[:, 1], Generator().manual_seed(evaluate.SEED))).embedding

    @cached_property
    def show(self) -> Show:
        return preparation.bar(self.console)

    def settings(self, row: Row) -> Settings:
        tables = {row.prune: {"macs": self.config.macs} | row.table} if row.prune in presets.METHODS else {}
        return presets.resolve("full", [("benchmark", {"model": TEACHER, "prune": row.prune, "erase": "none"} | tables)])

    def pruned(self, name: str) -> Path:
        """The pipeline folder right after pruning, made where it is missing."""
        folder = self.out / "models" / f"{name}-pruned"
        if not folder.is_dir():
            pruner, given = self.settings(plan()[name]).pruner, None
            if pruner.calibrates:
                given = Calibration(self.teacher, self.source, TextConditions(self.teacher), self.config.seed, self.show, self.console)
            made = pruner.prune(self.teacher.unet, given)
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            model.save(replace(self.teacher, unet=made.unet), part, torch.float32)
            os.replace(part, folder)
        return folder

    def distilled(self, name: str) -> Path:
        """The run that goes on from there: every row the same data, noise and number of iterations."""
        run, c = self.out / "models" / f"{name}-distilled", self.config
        if not (run / artifact.MANIFEST).is_file():
            layer = DISTIL | {"student": str(self.pruned(name)), "steps": c.iterations, "batch": c.batch, "seed": c.seed}
            settings = presets.resolve("full", [("benchmark", layer | {"checkpoint_every": 50, "preview_every": 10**6})])
            trainer.train(settings, run, resume=(run / "metrics.jsonl").is_file(), console=self.console)
        return run

    def exported(self, name: str) -> Path:
        folder = self.out / "models" / f"{name}-onnx"
        if not folder.is_dir():
            part = folder.with_name(f".{folder.name}.part")
            source = TEACHER if name == "teacher" else str(self.pruned(name))
            exporting.child(exporting.CASES["onnx"].ours, source, part)
            os.replace(part, folder)
        return folder

    def cost(self, name: str) -> dict[str, Any]:
        net = self.teacher if name == "teacher" else model.load(self.pruned(name))
        tokens = net.tokenizer.model_max_length
        whole, own = (cost(unet, net.latent_shape, tokens).total for unet in (self.teacher.unet, net.unet))
        shares = {"macs_share": round(own.macs / whole.macs, 4), "params_share": round(own.params / whole.params, 4)}
        return {"macs": own.macs, "params": own.params, **shares}

    def seen(self, name: str, stage: str) -> dict[str, Any]:
        """The quality of a row at one of STAGES; the teacher is whole at all of them."""
        return self.quality(TEACHER if name == "teacher" else self.pruned(name) if stage == "pruned" else self.distilled(name))

    def quality(self, source: str | Path) -> dict[str, Any]:
        """Rates with numerator, denominator and Wilson's interval, and distances to renders, of pictures of trained pairs."""
        net, n = evaluate.load_model(str(source)), self.pictures
        pairs = evaluate.evenly(self.world.pairs(heldout=False), n)
        pixels = evaluate.draw(net, evaluate.prompts(self.world, pairs), list(range(n)))
        seen = self.judge.score(pixels).embedding
        distances = {"fid": frechet_distance(seen, self.reference), "kid": kernel_distance(seen, self.reference)}
        rounded = {key: round(value, 4) for key, value in distances.items()}
        return {"pictures": n, "rates": evaluate.rates(self.judge, pixels, pairs), **rounded}

    def latency(self, name: str, threads: int, pairs: int) -> dict[str, Any]:
        """Of the row's UNet in turn with the teacher's."""
        ours, whole, unet = self.exported(name), self.exported("teacher"), ("unet_call",)
        asked = versus.VersusConfig(ours, whole, "onnxruntime", "onnxruntime", threads=threads, pairs=pairs, parts=unet)
        found = versus.run(asked, self.console)["parts"][0]
        if found["status"] == "failed":
            raise EdgeSafeError(found["reason"])
        file_mib = sum(path.stat().st_size for path in (ours / "unet").iterdir()) / 2**20
        sides = {"row": found["a"], "teacher": found["b"], "times_as_fast": found["times_as_fast"]}
        return {"threads": threads, "unet_mib": round(file_mib, 1), **sides}


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells, the same on the screen and in Markdown."""
    heads = ["row", "MACs", "parameters", "UNet, MiB", "UNet call, ms", "times as fast (95 %)", "ms a GMAC"]
    for stage in ("pruned", f"{record['config']['iterations']} iterations"):
        heads += [f"{stage}: subject right", "style right", "FID"]
    rows = []
    for name, row in record["rows"].items():
        size, speed = row.get("cost") or {}, row.get("latency") or {}
        cells = [name, *(f"{size[key] / 1e6:.1f} M ({size[f'{key}_share']:.0%})" if key in size else "" for key in ("macs", "params"))]
        if speed.get("status") == "measured":
            ratio, ends = speed["times_as_fast"], speed["times_as_fast"]["interval95"]
            call_ms = speed["row"]["median_ms"]
            between = f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
            per_gmac = f"{call_ms / (2 * size['macs'] / 1e9):.1f}" if "macs" in size else ""
            cells += [f"{speed['unet_mib']:.1f}", f"{call_ms:.1f}", f"{ratio['median']:.2f}{between}", per_gmac]
        else:
            cells += ["", speed.get("status", ""), "", ""]
        for stage in STAGES:
            seen = row.get(stage) or {}
            if seen.get("status") == "measured":
                cells += [_rate(seen["rates"]["subject right"]), _rate(seen["rates"]["style right"]), f"{seen['fid']:.1f}"]
            else:
                cells += [seen.get("status", ""), "", ""]
        rows.append(cells)
    return heads, rows


def _rate(rate: dict[str, Any]) -> str:
    low, high = rate["wilson95"]
    return f"{rate['rate']:.0%} ({low:.0%} to {high:.0%})"


def markdown(record: dict[str, Any]) -> str:
    heads, rows = table(record)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def failures(record: dict[str, Any]) -> list[str]:
    parts = ((name, key, row[key]) for name, row in record["rows"].items() for key in row)
    return [f"{name}, {key}: {part['reason']}" for name, key, part in parts if part.get("status") == "failed"]


@click.command()
@click.option("--parts", default=",".join(PARTS), show_default=True, help="What to measure.")
@click.option("--rows", "only", default="", metavar="NAMES", help="Comma-separated; all by default.")
@click.option("--macs", default=Config.macs, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Share that stays.")
@click.option("--iterations", default=Config.iterations, show_default=True, type=click.IntRange(1), help="Of the distillation.")
@click.option("--batch", default=Config.batch, show_default=True, type=click.IntRange(1))
@click.option("--pictures", default=Study.pictures, show_default=True, type=click.IntRange(4), help="That the judge sees of each model.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of onnxruntime.")
@click.option("--pairs", default=40, show_default=True, type=click.IntRange(2), help="UNet calls of each side.")
@click.option("--out", default=Path("work/pruning"), show_default=True, type=click.Path(path_type=Path), help="Models and figures.")
@click.option("--force", is_flag=True, help="Measure again what was measured.")
def main(
    parts: str, only: str, macs: float, iterations: int, batch: int, pictures: int, threads: int, pairs: int, out: Path, force: bool
) -> None:
    """Compare the pruners on the emoji world's teacher."""
    chosen = asked("--parts", parts, PARTS) or list(PARTS)
    names = asked("--rows", only, tuple(plan())) or list(plan())
    console, config = Console(), Config(macs, iterations, batch)
    (out / "models").mkdir(parents=True, exist_ok=True)
    file = out / "pruning.json"
    record = json.loads(file.read_text()) if file.is_file() else {"config": vars(config), "rows": {}}
    if record["config"] != vars(config):
        raise click.UsageError(f"--out {out} holds figures of {record['config']}; this is {vars(config)}. Give another --out")
    study, facts = Study(config, out, console, pictures), machine()
    record["machine"] = {key: facts[key] for key in ("processor", "features", "cores", "memory", "system")}

    def keep(name: str, what: str, measure: Callable[[], dict[str, Any]]) -> None:
        row = record["rows"].setdefault(name, {})
        if what in row and row[what]["status"] == "measured" and not force:
            return
        console.print(f"{name}: {what}", highlight=False)
        try:
            row[what] = attempt(measure)
        except Stopped as stopped:
            raise click.ClickException(str(stopped)) from stopped
        artifact.write_whole(file, json.dumps(record, indent=1) + "\n")
        artifact.write_whole(file.with_suffix(".md"), markdown(record))

    for name in names:
        parts_of = plan()[name].parts
        if "quality" in chosen and "quality" in parts_of:
            for stage in STAGES[: 1 if name == "teacher" else 2]:
                keep(name, stage, partial(study.seen, name, stage))
        if "latency" in chosen and "latency" in parts_of:
            keep(name, "latency", partial(study.latency, name, threads, pairs))
        keep(name, "cost", partial(study.cost, name))
    heads, rows = table(record)
    screen = Table(*heads, title=f"the emoji world's teacher, pruned to {macs:.0%} of its MACs")
    for cells in rows:
        screen.add_row(*cells)
    console.print(screen)
    for line in failures(record):
        console.print(f"failed: {line}", highlight=False, soft_wrap=True)
    console.print(f"Figures: {file}, table: {file.with_suffix('.md')}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
