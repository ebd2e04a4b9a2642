"""What a pruner is about to take out, block by block, printed before anything is cut.

The pruner's work is done on a sketch of the UNet on torch's meta device, which has shapes and no values, and counted there. Blocks are the
teacher's: a student's block that stands elsewhere is shown in the place of the one that its weights come from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from rich import box
from rich.console import Console
from rich.table import Table

from ..model import TextToImage
from .cost import Size, block_of, cost
from .pruned import Pruned
from .units import KINDS, groups

SAYS = {"resnet": "ResNet", "heads": "heads", "ff": "hidden"}  # normalised groups, heads, feed-forward channels
NOTHING = Size(0, 0)


@dataclass(frozen=True)
class Row:
    """One block of the teacher, before and after."""

    before: Size = NOTHING
    after: Size = NOTHING
    units: dict[str, tuple[int, int]] = field(default_factory=dict)  # kind -> kept, of


def sketch(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network without values."""
    with torch.device("meta"):
        return type(unet).from_config(unet.config)


def rows(teacher: TextToImage, prune: Callable[[UNet2DConditionModel], Pruned]) -> dict[str, Row]:
    """By block of the teacher; `prune` makes the student of a sketch."""
    whole, shape, tokens = sketch(teacher.unet), teacher.latent_shape, teacher.tokenizer.model_max_length
    made = prune(whole)
    moved = {block_of(mine): block_of(theirs) for mine, theirs in made.weights.items()}
    after = {moved[block]: size for block, size in cost(made.unet, shape, tokens).blocks.items()}
    kept = {(moved[block], kind): count for (block, kind), count in _units(made.unet).items()}
    before, units = cost(whole, shape, tokens).blocks, _units(whole)
    return {
        block: Row(size, after.get(block, NOTHING), {k: (kept.get((b, k), 0), n) for (b, k), n in units.items() if b == block})
        for block, size in before.items()
    }


def total(planned: dict[str, Row]) -> Row:
    units = {}
    for kind in KINDS:
        counts = [row.units[kind] for row in planned.values() if kind in row.units]
        if counts:
            units[kind] = (sum(kept for kept, _ in counts), sum(of for _, of in counts))
    return Row(sum((row.before for row in planned.values()), NOTHING), sum((row.after for row in planned.values()), NOTHING), units)


def show(console: Console, teacher: TextToImage, prune: Callable[[UNet2DConditionModel], Pruned], name: str) -> None:
    """Print the plan of the pruner of that name."""
    planned = rows(teacher, prune)
    whole = total(planned)
    unit, scale = ("G", 10**9) if whole.before.macs >= 10**10 else ("M", 10**6)
    table = Table("block", *SAYS.values(), f"{unit} MACs", "M parameters", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for block, row in planned.items():
        table.add_row(block, *_cells(row, scale))
    table.add_section()
    table.add_row("in all", *_cells(whole, scale))
    shares = f"{whole.after.macs / whole.before.macs:.1%} of its MACs, {whole.after.params / whole.before.params:.1%} of its parameters"
    call = f"one call at {teacher.picture_size} px without guidance"
    console.print(f"{name}: of the UNet of {teacher.source} stay {shares} ({call})", highlight=False)
    console.print(table)


def _units(unet: UNet2DConditionModel) -> dict[tuple[str, str], int]:
    """(block, kind) -> units."""
    counts: dict[tuple[str, str], int] = {}
    for group in groups(unet):
        key = block_of(group.module), group.kind
        counts[key] = counts.get(key, 0) + group.count
    return counts


def _cells(row: Row, scale: int) -> list[str]:
    units = [f"{row.units[kind][0]}/{row.units[kind][1]}" if kind in row.units else "" for kind in KINDS]
    sizes = ((row.before.macs / scale, row.after.macs / scale), (row.before.params / 1e6, row.after.params / 1e6))
    return [*units, *(f"{before:.3g} to {after:.3g}" if before != after else f"{before:.3g}" for before, after in sizes)]
