"""`edgesafe generate [RUN_OR_EXPORT] PROMPT`: draw one picture, or a grid of several seeds."""

from pathlib import Path

import click


@click.command(short_help="Draw a picture with a run, an export or a model folder.")
@click.argument("words", metavar="[RUN_OR_EXPORT] PROMPT", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Picture file: png, jpg, webp. [default: by prompt]")
@click.option("--force", is_flag=True, help="Replace the picture file if it exists.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the (first) picture's starting noise.")
@click.option("--n", "count", type=click.IntRange(1, 256), default=1, show_default=True, help="Pictures: a grid of seeds SEED, SEED+1, ...")
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="Sampling steps.")
@click.option("--guidance", type=click.FloatRange(0), default=4.0, show_default=True, help="Weight of the prompt; 1: without guidance.")
@click.option("--sampler", default="ddim", show_default=True, metavar="NAME", help="ddim, pndm or dpm++.")
@click.option("--runtime", metavar="NAME", help="onnxruntime or torch. [default: the first that can run the model]")
@click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: as the runtime chooses]")
def generate(
    words: tuple[str, ...],
    out: Path | None,
    force: bool,
    seed: int,
    count: int,
    steps: int,
    guidance: float,
    sampler: str,
    runtime: str | None,
    threads: int | None,
) -> None:
    """Draw PROMPT with a run, an export, a model folder or a model's id.

    Without RUN_OR_EXPORT, the newest finished run or export under runs/ is used.

    \b
    edgesafe generate "shark neon style" --seed 1 -o shark.png
    edgesafe generate runs/my-run-onnx-fp16 "beer mug" --n 9
    edgesafe generate emoji:teacher "red apple"
    """
    if len(words) > 2:
        raise click.UsageError(f'the prompt has to stand in quotes: edgesafe generate "{" ".join(words)}"')
    from edgesafe.benchmarks.picture import PictureConfig, run

    source = words[0] if len(words) == 2 else None
    click.echo(run(PictureConfig(words[-1], source, out, seed, count, steps, guidance, sampler, runtime, threads, force)))
