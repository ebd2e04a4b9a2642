"""`edgesafe compare A.json B.json`: what differs between audits or reports, and what of it is within noise."""

from pathlib import Path

import click


@click.command(short_help="Compare audits or reports: leakage, what is kept, speed, size, parity.")
@click.argument("records", metavar="A.json B.json [...]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write the comparison here: .md or .json.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--anyway", is_flag=True, help="Compare in spite of other settings; they are named above the table.")
def compare(records: tuple[Path, ...], out: Path | None, force: bool, anyway: bool) -> None:
    """Compare audit.json or report.json files, each with the first: rows of leakage, what is kept, latency, size and parity, with
    differences and 95 % intervals. Where pictures.jsonl lies beside two records, pictures of the same prompts and seeds are paired.

    \b
      edgesafe compare runs/a-onnx-fp16-audit/audit.json runs/a-onnx-fp32-int8-audit/audit.json
      edgesafe compare runs/a-bench/report.json runs/b-bench/report.json --out difference.md
    """
    from rich.console import Console

    from edgesafe.benchmarks.compare import CompareConfig, run, show

    compared = run(CompareConfig(records, out, force, anyway))
    show(compared, Console())
