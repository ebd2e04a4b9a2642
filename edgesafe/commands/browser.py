"""The options of `edgesafe bench --device web`: which browser may come, and how it draws."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from edgesafe.errors import EdgeSafeError

OPTIONS = (
    click.option(
        "--device",
        type=click.Choice(["web"]),
        help="Measure the browser that opens the address which is then printed. What follows down to --timeout is for it.",
    ),
    click.option("--lan", is_flag=True, help="Let one browser in the local network in, by a one-time token. [default: this computer only]"),
    click.option("--address", metavar="IP", help="Of this computer, with --lan. [default: that of its default route]"),
    click.option("--port", type=click.IntRange(1, 65535), help="To listen at. [default: 8765, or one that is free]"),
    click.option("--cert", type=click.Path(path_type=Path, dir_okay=False), help="TLS: a PEM file for the address. [default: plain http]"),
    click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="Its key. [default: in the same file]"),
    click.option("--name", metavar="NAME", help="Of the device in the report. [default: what the browser says]"),
    click.option("--backend", type=click.Choice(["webgpu", "wasm"]), help="To draw with. [default: WebGPU where there is one]"),
    click.option(
        "--timeout", type=click.FloatRange(0), metavar="MINUTES", help="Give up after so long a silence; 0 waits for ever. [default: 30]"
    ),
)
FLAGS = ("lan", "address", "port", "cert", "key", "name", "backend", "timeout")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def refuse_without_device(given: Mapping[str, Any]) -> None:
    """Raises: EdgeSafeError for an option that means nothing unless a browser is measured."""
    if named := [flag for flag in FLAGS if given[flag] is not None and given[flag] is not False]:
        raise EdgeSafeError(f"--{named[0]} is for browsers: add --device web, or leave it out")
