"""The options that `edgesafe audit` and `edgesafe bench` share: who judges, and how pictures are drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

MACHINE = ("processor", "features", "cores", "memory", "system")  # what a report says of the computer
OPTIONS = (
    click.option("--detectors", metavar="NAMES", help="emoji-judge,clip or so. [default: those that suit the model]"),
    click.option("--detector-set", "settings", multiple=True, metavar="NAME.OPTION=VALUE", help="clip.model=FOLDER; may be repeated."),
    click.option("--prompts", type=click.Path(path_type=Path, dir_okay=False), help="Own prompts, a TOML file. [default: built in]"),
    click.option("--control", metavar="ID", help="The un-erased model to compare with, a folder or an id. [default: by the manifest]"),
    click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: as torch chooses]"),
    click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="Sampling steps."),
    click.option("--guidance", type=click.FloatRange(0), default=4.0, show_default=True, help="Weight of the prompt; 1 is without it."),
    click.option("--sampler", default="ddim", show_default=True, metavar="NAME", help="ddim, pndm or dpm++."),
    click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of each cell's first picture."),
)


def drawing(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command
