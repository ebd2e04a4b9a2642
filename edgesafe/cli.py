"""The command line: parses, and hands over to one module a command, imported only when that command runs."""

import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from .errors import EdgeSafeError, NamingFullDisk

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # or each start says that optimum and optimum-onnx share a name


@dataclass(frozen=True)
class Entry:
    target: str  # "module:attribute" of a click command
    help: str  # one line, shown by `edgesafe --help` without importing the module
    extra: str | None = None  # the optional dependencies that the command needs


COMMANDS = {
    "train": Entry("edgesafe.commands.train:train", "Shrink a model by distillation and erase concepts from it.", "train"),
    "export": Entry("edgesafe.commands.export:export", "Write a trained run for a device: ONNX, Core ML or OpenVINO.", "export"),
    "verify": Entry("edgesafe.commands.verify:verify", "Compare an export with the model it was made from, once more.", "export"),
    "generate": Entry("edgesafe.commands.generate:generate", "Draw a picture with a run, an export or a model folder.", "bench"),
    "audit": Entry("edgesafe.commands.audit:audit", "Try to bring back what was erased from an export, and count.", "bench"),
    "bench": Entry("edgesafe.commands.bench:bench", "Measure an export: latency, memory, size, leakage, quality.", "bench"),
    "compare": Entry("edgesafe.commands.compare:compare", "Compare audits or reports, and tell noise from difference.", "bench"),
    "gate": Entry("edgesafe.commands.gate:gate", "Decide by audit and policy whether an export may ship.", "bench"),
    "bundle": Entry("edgesafe.commands.bundle:bundle", "Pack an export that passes the gate, with a model card.", "bench"),
    "doctor": Entry("edgesafe.commands.doctor:doctor", "Tell what is installed and what this machine can run."),
}


class LazyGroup(click.Group):
    """Lists COMMANDS from the table and imports one only to run it; what a user caused ends in a message, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].target.split(":")
        return getattr(import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"unknown command {args[0]!r}; known: {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with NamingFullDisk():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop(ctx, "Stopped. Finished work is kept; run the same command again to go on.", 130)
        except EdgeSafeError as error:
            _stop(ctx, f"Error: {error}", error.exit_code)
        except ModuleNotFoundError as error:
            entry = COMMANDS.get(ctx.invoked_subcommand or "")
            if entry is None or entry.extra is None or error.name is None or error.name.split(".")[0] == "edgesafe":
                raise
            package = error.name.split(".")[0]
            hint = f"pip install 'edgesafe[{entry.extra}]'"
            _stop(ctx, f"Error: `edgesafe {ctx.invoked_subcommand}` needs the Python package {package!r}. Install it with: {hint}", 2)
        except PermissionError as error:
            _stop(ctx, f"Error: {error.filename}: permission denied. Choose a place that you may write to", 2)


def _stop(ctx: click.Context, message: str, code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(code)


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from . import __version__

        click.echo(f"edgesafe {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
def main() -> None:
    """Take a text-to-image model, take out what you may not ship, shrink it, export it, and measure what is left.

    \b
    Try it, with no path and no download:
      edgesafe train                     erase a style from the embedded emoji model
      edgesafe export --target onnx      export the newest run
      edgesafe audit                     does the style come back in the exported files?
      edgesafe bench                     measure the newest export
    """
