"""Palettize one Core ML package, whoever made it.

python -m edgesafe.export.palettize Unet.mlpackage Unet-6bit.mlpackage --bits 6
"""

import resource
import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.progress import Progress

from .mlpackage import Package, Weight, rewrite
from .narrow import ENDS, MIB
from .palettes import Form, narrow


@click.command()
@click.argument("wide", type=click.Path(path_type=Path, exists=True))
@click.argument("to", type=click.Path(path_type=Path))
@click.option("--bits", type=click.Choice(["8", "6", "4"]), default="6", show_default=True)
def main(wide: Path, to: Path, bits: str) -> None:
    """Palettize one package, whoever made it: WIDE, an .mlpackage of fp16 weights, into TO. Nothing is compared or sealed."""
    if to.exists():
        raise click.ClickException(f"{to} exists. Give another")
    start, package = time.perf_counter(), Package(wide)

    def form(weight: Weight, values: np.ndarray) -> Form | None:
        return None if ENDS.search(weight.name) else narrow(values, int(bits), "palettize", package.newest)

    with Progress() as progress:
        task = progress.add_task(f"{bits} bits", total=1.0)
        rewrite(package, to, form, lambda done: progress.update(task, completed=done))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    sizes = f"{package.bytes / MIB:.1f} -> {Package(to).bytes / MIB:.1f} MiB"
    click.echo(f"{to}: {sizes} in {time.perf_counter() - start:.1f} s, peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
