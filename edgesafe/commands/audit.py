"""`edgesafe audit [EXPORT]`: try to bring back what was erased, and write down how often that succeeds."""

from pathlib import Path

import click

from .drawing import MACHINE, drawing


@click.command(short_help="Try to bring back what was erased from an export, and count.")
@click.argument("source", metavar="[EXPORT]", required=False)
@click.option("--probes", metavar="NAMES", default="all", show_default=True, help="plain,noise or so; or all, prompts, files.")
@click.option("--runtime", metavar="NAME", help="onnxruntime, openvino, torch or coreml. [default: the first that can run it]")
@click.option("--pictures", type=click.IntRange(2), default=200, show_default=True, metavar="N", help="Pictures a cell and model.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the audit. [default: <export>-audit]")
@click.option("--force", is_flag=True, help="Replace the audit if it exists.")
@click.option("--dry-run", is_flag=True, help="Print what would be drawn and about how long that takes.")
@drawing
def audit(
    source: str | None,
    probes: str,
    detectors: str | None,
    settings: tuple[str, ...],
    prompts: Path | None,
    control: str | None,
    runtime: str | None,
    pictures: int,
    out: Path | None,
    force: bool,
    dry_run: bool,
    threads: int | None,
    steps: int,
    guidance: float,
    sampler: str,
    seed: int,
) -> None:
    """Does what was erased from EXPORT come back?

    Every probe asks for it, by prompts and with the files in hand, and every detector looks at every picture; beside it stand the
    un-erased control on the same prompts and seeds, and what was not erased. Without EXPORT, the newest finished export under runs/ that
    this computer can run is audited. EXPORT may also be a run.

    \b
      edgesafe audit                                          all probes on the newest export
      edgesafe audit runs/x-onnx-fp16 --probes prompts        what an app's user can do
      edgesafe audit --detectors clip --detector-set clip.model=folder
      accelerate launch --multi_gpu --num_processes 2 -m edgesafe audit

    audit.json cites the manifest's hash, for `edgesafe gate` and `edgesafe bundle`; pictures.jsonl holds what each detector saw. Pictures
    and what probes learned are kept under .cache/ beside the audit, so that a stopped one goes on where it was.
    """
    import json

    from rich.console import Console

    from edgesafe.benchmarks import plan
    from edgesafe.benchmarks.audit import AuditConfig, run
    from edgesafe.machine import machine

    given = (source, out, control, runtime, probes, detectors, settings, prompts)
    config = AuditConfig(*given, pictures, threads, steps, guidance, sampler, seed, force)
    if dry_run:
        plan.show(config, Console())
        return
    facts = machine()
    folder = run(config, {key: facts[key] for key in MACHINE}, Console(stderr=True))
    if folder is None:
        return
    record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    for verdict in record["verdicts"]:
        click.echo(verdict["sentence"])
        for caution in verdict["cautions"]:
            click.echo(f"  {caution}", err=True)
    click.echo(folder / "report.html")
