"""`edgesafe verify [EXPORT]`: is an export whole, and does it compute what its model computes?"""

from pathlib import Path

import click


@click.command(short_help="Compare an export with the model it was made from, once more.")
@click.argument("source", metavar="[EXPORT]", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="The run or model that it was made from. [default: where the manifest says]")
@click.option("--json", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write the result here too.")
@click.option("--parity-steps", metavar="N", type=click.IntRange(1, 1000), help="Sampling steps compared. [default: as the export did]")
@click.option("--gate", "gate_db", metavar="DB", type=float, help="Lowest PSNR of any part. [default: as the export did]")
def verify(source: Path | None, model: str | None, json: Path | None, parity_steps: int | None, gate_db: float | None) -> None:
    """Check EXPORT: every file's hash, each part against torch on real sampling trajectories, whole pictures, the tokenizer.

    Without EXPORT, the newest finished export under runs/. Nothing in it is written to. Ends with exit code 0 if all pass, and with
    2 and the reason if not.

    \b
      edgesafe verify
      edgesafe verify runs/my-run-coreml-fp16-6bit --json verified.json
    """
    from edgesafe.export.verify import VerifyConfig
    from edgesafe.export.verify import verify as run

    run(VerifyConfig(source, model, json, parity_steps, gate_db))
