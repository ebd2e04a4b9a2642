"""What the parity check found, as it is printed after an export and by `edgesafe verify`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .target import Target, files

MIB = 2**20
HEAD = ("part", "MiB", "worst dB", "at t", "median", "max abs", "cosine")


def show(target: Target, folder: Path, measured: Mapping[str, Any], console: Console) -> None:
    """The table by the runtime that stands for the export here, a second one by the system's own, and what each proves."""
    say(console, _table(target, folder, measured))
    if not measured["measured"]:
        say(console, f"Parity: {measured['reason']}")
    if measured.get("proves"):
        say(console, f"Parity: {measured['proves']}")
    if native := measured.get("native"):
        say(console, _table(target, folder, native))
        say(console, f"Above: {native['proves']}")
    if allowed := measured.get("allowed_loss"):
        say(console, f"Allowed below {allowed['gate_db']:g} dB: {', '.join(allowed['psnr_db'])}. Reason given: {allowed['reason']}")
    if tokens := measured.get("tokenizer"):
        say(console, f"Tokenizer: {tokens['equal']} of {tokens['strings']} strings have the ids that CLIPTokenizerFast gives")
        for note in tokens.get("notes", ()):
            say(console, f"Tokenizer: {note}")


def _table(target: Target, folder: Path, measured: Mapping[str, Any]) -> Table:
    form = " ".join([target.name, target.precision, *([target.compression.name] if target.compression else [])])
    table = Table(title=f"{form}, {target.width}x{target.height}")
    for name in HEAD:
        table.add_column(name, justify="left" if name == HEAD[0] else "right", no_wrap=True)
    for part in target.parts:
        names = files(target, part)
        size = sum(path.stat().st_size for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()) / MIB
        table.add_row(" + ".join(names), f"{size:.2f}", *_figures(measured.get("components", {}).get(part)))
    if "picture" in measured:
        picture = measured["picture"]
        table.caption = f"whole pictures: at most {picture['max_levels']} of 255 levels apart, {picture['mean_levels']:.3f} on average"
    return table


def _figures(row: Mapping[str, Any] | None) -> tuple[str, ...]:
    if row is None:
        return ("-",) * (len(HEAD) - 2)
    at = str(row.get("worst_timestep", ""))
    return f"{row['psnr_db']:.1f}", at, f"{row['median_db']:.1f}", f"{row['max_abs']:.2g}", f"{row['cosine']:.5f}"


def say(console: Console, what: Any) -> None:
    console.print(what, highlight=False, soft_wrap=isinstance(what, str))
