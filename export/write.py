"""The files of an export alone: no pictures drawn with torch, nothing compared, no manifest. What `benchmarks.exporting` times.

python -m edgesafe.export.write MODEL FOLDER --target coreml --part unet
"""

from dataclasses import fields
from pathlib import Path

import click

from edgesafe import model

from .config import ExportConfig
from .run import TARGETS


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(list(TARGETS)), required=True)
@click.option("--precision", type=click.Choice(["fp32", "fp16"]))
@click.option("--part", multiple=True, help="Only these parts; all by default.")
def main(source: str, folder: Path, target: str, precision: str | None, part: tuple[str, ...]) -> None:
    """Write SOURCE's parts into FOLDER and stop there; `edgesafe export` is what checks and seals."""
    loaded = model.load(source)
    planned = TARGETS[target].plan(ExportConfig(source, target, precision), loaded)
    if part:
        only = type("Only", (type(planned),), {"parts": part})
        planned = only(**{field.name: getattr(planned, field.name) for field in fields(planned)})
    folder.mkdir(parents=True)
    planned.write(loaded, folder, lambda name: click.echo(name))


if __name__ == "__main__":
    main()
