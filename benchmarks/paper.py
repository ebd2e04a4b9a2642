"""The paper's table on the emoji world: who erases, and who keeps the rest.

    python -m edgesafe.benchmarks.paper [--dry-run] [--stage tuning|captions|test|harder] [--only PART] [--table] [--out FOLDER]

Searches every row of paper_plan.py alike on the tuning concepts, freezes what it chose (frozen.json), then measures the test concepts
once. A stopped study goes on where it was; one started twice, pinned to a core each, shares the work; a cell that fails is shown with
its reason and tried again at the next start. A row whose method is not in this installation is reported as missing; once it is there,
it is searched and frozen by itself, and what was frozen before stays as it is. Under --work: runs/, pictures/, cells/, frozen.json;
in --out: paper.json, paper.md, paper.png (the table as a picture) and paper-pictures.jpg (the same prompts and seeds for all rows).
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console

from edgesafe import artifact
from edgesafe.errors import EdgeSafeError

from . import paper_figure, paper_record, paper_table
from .paper_models import Config
from .paper_plan import ROWS
from .paper_runs import STAGES, Study, missing


def listing(study: Study, stages: tuple[str, ...]) -> str:
    """Every cell with its state, and what is left to do."""
    lines, left = [], 0.0
    models: set[str] = set()
    study.tied = paper_record.tied(study)
    for stage in stages:
        if stage != "tuning" and not study.frozen:
            lines.append(f"{stage}: known once the search is frozen")
            continue
        for cell in study.cells(stage):
            facts = study.facts(cell)
            state = facts["status"] if facts else "not measured"
            if state != "measured":
                seconds = study.seconds(cell, models)
                left += seconds
                state = f"{state}, about {seconds:.0f} s" + (f" ({facts['reason']})" if facts else "")
            lines.append(f"{cell.id:64} {state}")
    lines += [f"{row.label}: missing, {why}" for row in ROWS.values() if (why := missing(row))]
    lines.append(f"left, on one core: about {left / 60:.0f} min, and what follows from searches that go on; two workers take half")
    return "\n".join(lines)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Config.work, show_default=True, help="Where everything is kept.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the table goes.  [default: --work]")
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True, help="Only this part. May be repeated.  [default: all]")
@click.option("--only", multiple=True, metavar="PART", help="Cells whose name holds it: esd, neon. May be repeated.")
@click.option("--threads", default=Config.threads, show_default=True, metavar="N", help="Of this process.")
@click.option("--dry-run", is_flag=True, help="Print the cells, their state and the time left; make nothing.")
@click.option("--table", "printed", is_flag=True, help="Write the table of what is measured; make nothing.")
def main(
    work: Path, out: Path | None, stages: tuple[str, ...], only: tuple[str, ...], threads: int, dry_run: bool, printed: bool
) -> None:
    """The paper's table: search, freeze, test. Start it again to go on."""
    console = Console(stderr=True)
    study = Study(Config(work, threads, only))
    asked = tuple(stage for stage in STAGES if stage in stages) or STAGES
    try:
        torch.set_num_threads(threads)
        if dry_run:
            click.echo(listing(study, asked))
            return
        if not printed:
            go(study, asked, lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True))
        for path in publish(study, out or work):
            console.print(str(path), highlight=False, soft_wrap=True)
    except EdgeSafeError as error:
        raise click.ClickException(str(error)) from error


def go(study: Study, stages: tuple[str, ...], tell: Callable[[str], None]) -> None:
    """Make what is missing of these stages."""
    for stage in stages:
        if stage == "harder":
            study.tied = paper_record.tied(study)
        study.run(stage, tell)
        if stage == "tuning" and (new := study.freeze()):
            tell(f"frozen: {', '.join(new)}")


def publish(study: Study, folder: Path) -> list[Path]:
    """Write all that is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    record = paper_record.record(study)
    drawn = [paper_figure.draw(record, folder / "paper.png"), paper_figure.contact(study, folder / "paper-pictures.jpg")]
    pictures = [path for path in drawn if path]
    artifact.write_whole(folder / "paper.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    artifact.write_whole(folder / "paper.md", paper_table.markdown(record, [path.name for path in pictures]))
    return [folder / "paper.json", folder / "paper.md", *pictures]


if __name__ == "__main__":
    main()
