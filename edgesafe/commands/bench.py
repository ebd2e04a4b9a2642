"""`edgesafe bench [EXPORT]`: measure, and write the report."""

from pathlib import Path
from typing import Any

import click

from . import browser
from .drawing import MACHINE, drawing


@click.command(short_help="Measure an export: latency, memory, size, leakage, quality.")
@click.argument("sources", metavar="[EXPORT [OTHER]]", nargs=-1)
@click.option("--vs", is_flag=True, help="Time EXPORT and OTHER in turn, and nothing else: how many times as fast is it?")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the report. [default: <export>-bench, or -web]")
@click.option("--force", is_flag=True, help="Replace the report if it exists.")
@click.option("--probes", metavar="NAMES", default="plain,paraphrase", show_default=True, help="As in `edgesafe audit`; all take longer.")
@click.option("--pictures", type=click.IntRange(2), default=128, show_default=True, metavar="N", help="Pictures a cell and model.")
@click.option("--runtimes", metavar="NAMES", help="onnxruntime,torch or so. [default: all that can run it; beside a --device onnxruntime]")
@browser.options
@drawing
def bench(
    sources: tuple[str, ...],
    vs: bool,
    control: str | None,
    out: Path | None,
    force: bool,
    probes: str,
    detectors: str | None,
    settings: tuple[str, ...],
    prompts: Path | None,
    pictures: int,
    runtimes: str | None,
    threads: int | None,
    steps: int,
    guidance: float,
    sampler: str,
    seed: int,
    device: str | None,
    **web: Any,
) -> None:
    """Measure EXPORT: cold start, latency, memory, size, and by few probes whether what was erased comes back.

    Without EXPORT, the newest finished export under runs/ that this computer can run is measured. EXPORT may also be a run or a model
    folder. The report is a folder of its own; the export stays as it is. Pictures are kept under .cache/ beside the report, so that a
    control is drawn once and a stopped bench goes on where it was.

    With --device web an address and a QR code are printed, and whatever browser opens it is measured: its times, and the audit's pictures
    as it draws them, judged here and set beside onnxruntime's (--runtimes none leaves those out). The report is <export>-web.

    \b
      edgesafe bench                                              the newest export
      edgesafe bench runs/a-onnx-fp32 runs/b-onnx-fp32-int8 --vs  how many times as fast is a as b?
      edgesafe bench runs/a runs/a-onnx-fp32 --vs --runtimes torch,onnxruntime
      edgesafe bench runs/a-onnx-fp32 --device web --lan          a phone, through its browser
    """
    if device is None:
        browser.refuse_without_device(web)
    elif vs:
        raise click.UsageError("--vs times two models on this computer, and --device web one export in a browser: give one of them")
    if len(sources) > 2 or vs != (len(sources) == 2):
        raise click.UsageError("bench measures one export, or two of them in turn: edgesafe bench EXPORT OTHER --vs")
    import json

    from rich.console import Console

    from edgesafe.benchmarks.bench import BenchConfig, run
    from edgesafe.machine import machine

    names = tuple(name.strip() for name in runtimes.split(",") if name.strip()) if runtimes is not None else None
    if names == ():
        raise click.UsageError(f"--runtimes {runtimes!r} names no runtime. Leave it out for all that can run the export")
    if device and names == ("none",):
        names = ()
    source, other = (*sources, None, None)[:2]
    judged = (probes, detectors, settings, prompts, other)
    config = BenchConfig(source, out, control, names, pictures, threads, steps, guidance, sampler, seed, force, *judged)
    facts = machine()
    said, console = {key: facts[key] for key in MACHINE}, Console(stderr=True)
    if device:
        from edgesafe.benchmarks.browser.run import WebConfig
        from edgesafe.benchmarks.browser.run import run as measure

        folder = measure(config, WebConfig(**{key: value for key, value in web.items() if value is not None}), said, console)
    else:
        folder = run(config, said, console)
    audit = json.loads((folder / "report.json").read_text(encoding="utf-8"))["audit"]
    for verdict in audit["verdicts"] if audit else ():
        click.echo(verdict["sentence"])
    click.echo(folder / "report.html")
