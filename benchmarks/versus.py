"""`run(VersusConfig) -> dict`: two artifacts measured in turn, each in its own process, and how many times as fast the first is.

One after the other in pairs, the first of a pair changing place, so that whatever else the machine does falls on both. A pair gives one
ratio b_ms / a_ms; the record holds their median, their quartiles and the sign test's 95 % interval for the median.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.spread import paired, summary

from . import runtimes, sources
from .cells import attempt
from .turns import PARTS, Player, in_turn

WARM_UP = {"picture": 2, "unet_call": 5, "text_encoder": 3, "vae_decoder": 3}
AT_LEAST = 3  # pairs, of models so large that the limit comes first


@dataclass(frozen=True)
class VersusConfig:
    a: str | Path
    b: str | Path
    runtime_a: str | None = None  # None: the first that can run it
    runtime_b: str | None = None
    threads: int = 2
    pairs: int = 15  # of each part
    limit_s: float = 60.0  # a part
    parts: tuple[str, ...] = PARTS
    steps: int = sampling.DEFAULT_STEPS
    guidance: float = sampling.DEFAULT_GUIDANCE
    sampler: str = sampling.DEFAULT_SAMPLER

    def __post_init__(self) -> None:
        for flag, value, low in (("--pairs", self.pairs, 2), ("--threads", self.threads, 1), ("--steps", self.steps, 1)):
            if value < low:
                raise EdgeSafeError(f"{flag} {value}: at least {low} is needed")
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise EdgeSafeError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
        sampling.scheduler(self.sampler, {})


def run(config: VersusConfig, console: Console | None = None) -> dict[str, Any]:
    """Raises: EdgeSafeError for what is no model, no runtime can run, or cannot be timed. A part that fails is a row with its reason."""
    sides = [_side(config.a, config.runtime_a, "A"), _side(config.b, config.runtime_b, "B")]
    drawing = {"steps": config.steps, "guidance": config.guidance, "sampler": config.sampler}
    words = TextColumn("{task.description}", markup=False)
    with Progress(SpinnerColumn(), words, BarColumn(), TimeElapsedColumn(), console=console or Console(stderr=True)) as bars:
        task = bars.add_task("opening both", total=len(config.parts) + 1)
        with _player(sides[0], config, drawing) as a, _player(sides[1], config, drawing) as b:
            bars.advance(task)
            rows = []
            for part in config.parts:
                bars.update(task, description=f"{part}, in turn")
                facts = {"part": part, "batch": 2 if part == "unet_call" and config.guidance != 1 else 1}
                rows.append(_NOTHING | attempt(partial(_measure, (a, b), part, config), **facts))
                bars.advance(task)
            for side, player in zip(sides, (a, b), strict=True):
                side |= {"load_ms": player.opened["load_ms"], **attempt(player.memory)}
    return {"a": sides[0], "b": sides[1], "threads": config.threads, "settings": drawing, "parts": rows}


def show(console: Console, record: dict[str, Any]) -> None:
    a, b = record["a"], record["b"]
    title = f"A: {a['name']} ({a['runtime']})   B: {b['name']} ({b['runtime']})   {record['threads']} threads, in turn"
    table = Table("part", "batch", "A, median", "B, median", "A is ... times as fast", "95 % interval", "pairs", title=title)
    for row in record["parts"]:
        if row["status"] == "failed":
            table.add_row(row["part"], str(row["batch"]), "failed", row["reason"], "", "", "")
            continue
        ratio, ends = row["times_as_fast"], row["times_as_fast"]["interval95"]
        times = (f"{row[side]['median_ms']:.1f} ms ± {row[side]['iqr_ms'] / 2:.1f}" for side in "ab")
        interval = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "too few pairs"
        table.add_row(row["part"], str(row["batch"]), *times, f"{ratio['median']:.2f}", interval, str(ratio["n"]))
    if None not in (a["peak_mib"], b["peak_mib"]):
        peaks = (f"{side['peak_mib']:.0f} MiB" for side in (a, b))
        table.add_row("peak memory", "", *peaks, f"A takes {a['peak_mib'] / b['peak_mib']:.2f} times B's", "", "")
    console.print(table)
    for row in record["parts"]:
        if row["status"] == "measured" and row["times_as_fast"]["warning"]:
            console.print(f"{row['part']}: {row['times_as_fast']['warning']}", style="yellow", highlight=False)


_NOTHING: dict[str, Any] = dict.fromkeys(("warm_up", "a", "b", "times_as_fast"))


def _measure(players: tuple[Player, Player], part: str, config: VersusConfig) -> dict[str, Any]:
    a_ms, b_ms = in_turn(players, part, config.pairs, WARM_UP[part], config.limit_s, AT_LEAST)
    return {"warm_up": WARM_UP[part], "a": summary(a_ms), "b": summary(b_ms), "times_as_fast": paired(b_ms, a_ms)}


def _side(place: str | Path, runtime: str | None, name: str) -> dict[str, Any]:
    source = sources.describe(place)
    able, reasons = runtimes.readers(source.place)
    if runtime is not None:
        runtimes.check(runtime)
    chosen = runtime or next((one for one in able if runtimes.RUNTIMES[one].untimed is None), None)
    if chosen not in able:
        why = reasons.get(chosen or "") or f"no runtime here can time it: {'; '.join(dict.fromkeys(reasons.values()))}"
        raise EdgeSafeError(f"{name}, {place}: {why}")
    if untimed := runtimes.RUNTIMES[chosen].untimed:
        raise EdgeSafeError(f"{name}, {place}: {untimed}")
    facts = {"name": source.name, "target": source.target, "sha256": source.sha256, "place": source.place}
    return facts | {"runtime": chosen, "peak_mib": None, "import_only_peak_mib": None}


def _player(side: dict[str, Any], config: VersusConfig, drawing: dict[str, Any]) -> Player:
    return Player(side["place"], side["runtime"], config.threads, drawing)
