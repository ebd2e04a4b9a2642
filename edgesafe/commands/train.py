"""`edgesafe train`: distil a pruned model from its teacher and erase concepts on the way."""

from pathlib import Path

import click
from click.core import ParameterSource

from ..concepts import groups, ready

READY = f"""\b
What --erase takes beside names:
  of the emoji world   groups: {groups()}, and its categories, such as group:animal
  of other models      ready with prompts: {ready()}
  of both              a TOML file of your own, one table a concept: concepts.toml
"""
FLAGS = ("model", "student", "teacher", "data", "erase", "anchor", "prune", "steps", "batch", "seed", "precision")


@click.command(short_help="Shrink a model by distillation and erase concepts from it.", epilog=READY)
@click.option("--model", metavar="MODEL", help="What to prune and teach from: a pipeline folder, a hub id, or emoji:teacher.")
@click.option("--student", metavar="MODEL", help="A model that is pruned already; needs --teacher.")
@click.option("--teacher", metavar="MODEL", help="What --student learns from.")
@click.option("--data", metavar="DATA", help="emoji, a folder of pictures or tar shards, hf:owner/name, or captions.txt.")
@click.option("--erase", metavar="CONCEPTS", help='Comma-separated: "neon", "beer, wine", "style:van gogh"; see below. none: distil.')
@click.option("--anchor", metavar="TEXT", help="What takes the concepts' place in prompts. Emoji world: the plain emoji, a like subject.")
@click.option("--prune", metavar="PRUNER", help="Whole blocks: bk-sdm-base, bk-sdm-small, bk-sdm-tiny. Inner widths: width, aptp. Or none.")
@click.option("--macs", type=float, metavar="SHARE", help="Share of the UNet's arithmetic that stays, such as 0.5; --prune width or aptp.")
@click.option("--params", type=float, metavar="SHARE", help="Share of its parameters that stays, in place of --macs.")
@click.option("--score", metavar="SCORE", help="What --prune width keeps units by: taylor (the default), taylor-gate, spdm, magnitude.")
@click.option("--eraser", metavar="ERASER", help="Trained: esd, ablation, adversarial. Closed form, at the end: uce, rece, concept-prune.")
@click.option("--solver", metavar="SOLVER", help="penalty (paper), adaptive (no lambda), alternate (published code), two-stage, distil.")
@click.option("--lambda", "lambda_", type=float, metavar="NUMBER", help="Weight of the value gap; solver penalty.")
@click.option("--inner-steps", type=int, metavar="K", help="Distillation steps before each erasing step; not of two-stage.")
@click.option("--steps", type=int, metavar="N", help="Iterations in all, inner and outer.")
@click.option("--batch", type=int, metavar="N", help="Pictures of a distillation step, of all processes together.")
@click.option("--precision", metavar="DTYPE", help="fp32, or bf16 on a GPU.")
@click.option("--seed", type=int, metavar="N", help="Of data order, noise and drawings.  [default: 0]")
@click.option("--preset", metavar="PRESET", help="quick, full or paper.  [default: quick; with a model of your own: paper]")
@click.option("--config", type=click.Path(path_type=Path), metavar="RUN.TOML", help="Settings as --dry-run names them; flags win.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting, as in TOML: --set eraser.eta=0.3. May be repeated.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="The run's folder.  [default: runs/<time>-<concepts>]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a stopped run, with its settings.")
@click.option("--dry-run", is_flag=True, help="Print the settings that will land in the manifest, and stop.")
def train(**flags) -> None:
    """Distil a pruned model from its teacher and erase concepts on the way.

    Without arguments: the style neon, from the embedded emoji model.

    \b
      edgesafe train                                    5 minutes on two CPU cores
      edgesafe train --erase "beer, wine, cocktail"     objects
      edgesafe train --preset full                      from the pruned teacher to convergence
      edgesafe train --model SD_FOLDER --data PICTURES --erase "nudity, artist:Claude Monet"
      edgesafe train --student RUN --teacher emoji:teacher --erase sepia    on top of what RUN erased
      accelerate launch --multi_gpu --num_processes 2 -m edgesafe train ...     several processes share each batch
    """
    import json
    import os

    from rich.console import Console

    from .. import presets
    from ..errors import EdgeSafeError

    leads = os.environ.get("RANK", "0") == "0"  # of several processes; the others say nothing
    console, resumed = Console(quiet=not leads), flags["resume"]
    if resumed:
        context = click.get_current_context()
        said = [p for p in context.command.params if context.get_parameter_source(p.name) is ParameterSource.COMMANDLINE]
        if others := [p.opts[0] for p in said if p.name != "resume"]:
            raise EdgeSafeError(f"--resume goes on with the settings of {resumed}: leave out {others[0]}")
        settings, out = _settings_of(resumed), resumed
    else:
        settings = presets.resolve(flags["preset"], _layers(flags))
        out = flags["out"] or _place(settings.erase)
    if flags["dry_run"]:
        click.echo(json.dumps(presets.to_dict(settings), indent=1))
        return
    if leads and not resumed and out.exists():
        raise EdgeSafeError(f"--out {out} exists. Give another --out, or go on with it: edgesafe train --resume {out}")
    from ..trainer import train as run

    student = settings.student or settings.prune
    console.print(f"run {out}: teacher {settings.teacher_source}, student {student}, erase {settings.erase}", highlight=False)
    out = run(settings, out, resume=bool(resumed), console=console)
    console.print(f"done: {out} (model/, previews/, metrics.jsonl). Next: edgesafe export {out}", highlight=False, soft_wrap=True)


def _layers(flags: dict) -> list[tuple[str, dict]]:
    """Changes to the preset, weakest first: --config, the methods' names, --set, flags."""
    from ..presets import read_toml

    layers = [(f"--config {flags['config']}", read_toml(flags["config"]))] if flags["config"] else []
    layers += [(f"--{key}", {key: {"name": flags[key]}}) for key in ("solver", "eraser") if flags[key]]
    layers += [(f"--set {text}", _assignment(text)) for text in flags["sets"]]
    layers += [(f"--{key}", {key: flags[key]}) for key in FLAGS if flags[key] is not None]
    for flag, key in (("lambda_", "lambda"), ("inner_steps", "inner_steps")):
        if flags[flag] is not None:
            layers.append((f"--{key.replace('_', '-')}", {"solver": {key: flags[flag]}}))
    return layers + [_of_pruner(key, flags[key], layers) for key in ("macs", "params", "score") if flags[key] is not None]


def _of_pruner(key: str, value: float | str, layers: list[tuple[str, dict]]) -> tuple[str, dict]:
    """A change to the table of the pruner that the layers name."""
    from ..errors import EdgeSafeError
    from ..presets import METHODS
    from ..pruners import PRUNERS

    able = [name for name in PRUNERS if name in METHODS]
    named = next((changes["prune"] for _, changes in reversed(layers) if "prune" in changes), None)
    if named not in able:
        raise EdgeSafeError(f"--{key} goes with a pruner of inner widths: add --prune {' or --prune '.join(able)}")
    return f"--{key}", {named: {key: value}}


def _assignment(text: str) -> dict:
    """ "eraser.eta=0.3" -> {"eraser": {"eta": 0.3}}; a bare word is a text."""
    import tomllib

    from ..errors import EdgeSafeError

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise EdgeSafeError(f"--set {text!r}: needs KEY=VALUE, such as eraser.eta=0.3")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    try:
        return tomllib.loads(f"{key} = {_quoted(value)}")
    except tomllib.TOMLDecodeError as error:
        raise EdgeSafeError(f"--set {text!r}: not readable as TOML ({error})") from error


def _quoted(value: str) -> str:
    import json

    return json.dumps(value.strip())


def _settings_of(run: Path):
    import json

    from ..errors import EdgeSafeError
    from ..presets import from_dict

    if not (run / "config.json").is_file() or not (run / "metrics.jsonl").is_file():
        raise EdgeSafeError(f"--resume {run}: not a run of edgesafe train (no config.json and metrics.jsonl)")
    if (run / "manifest.json").is_file():
        raise EdgeSafeError(f"--resume {run}: this run is finished. To train on, start from it: --student {run} --teacher ...")
    try:
        return from_dict(json.loads((run / "config.json").read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeSafeError(f"{run / 'config.json'}: damaged, or of another version ({error!r})") from error


def _place(erase: str | None) -> Path:
    import re
    import time

    slug = re.sub(r"[^a-z0-9]+", "-", (erase or "").lower()).strip("-")[:40]
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{'distilled' if slug == 'none' else slug}"
