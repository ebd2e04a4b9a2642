"""`edgesafe doctor`: the machine, the packages beside the versions that EdgeSafe wants, and what can run here."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

import click

from ..machine import machine

if TYPE_CHECKING:
    from rich.table import Table

EXTRAS = {
    "train": "distil, prune and erase",
    "export": "write and verify ONNX, Core ML and OpenVINO",
    "bench": "draw pictures, measure, write the report",
}
REASONS = {"numpy": "coremltools 9.0 cannot trace a UNet with numpy 2.4 or newer"}
ASK = {  # asked in a child process each, so that a package that crashes on this machine cannot take the doctor with it
    "torch": "import torch as t; c = t.cuda.is_available(); "
    "print(json.dumps({'cuda': t.cuda.get_device_name(0) if c else None, 'mps': t.backends.mps.is_available()}))",
    "onnxruntime": "import onnxruntime as o; print(json.dumps({'providers': o.get_available_providers()}))",
    "openvino": "from edgesafe import intel; print(json.dumps({'devices': intel.core().available_devices}))",  # without telemetry
}


@dataclass(frozen=True)
class Package:
    name: str
    wanted: str  # a version specifier, "" for any
    installed: str | None
    extras: tuple[str, ...]  # () for what EdgeSafe itself needs
    problem: str | None

    @property
    def missing(self) -> bool:
        return self.installed is None


def packages() -> list[Package]:
    """Every package that edgesafe or one of its extras names, judged by its recorded version alone."""
    from packaging.requirements import Requirement

    wanted: dict[str, tuple[Requirement, list[str]]] = {}
    for text in metadata.requires("edgesafe") or ():
        requirement = Requirement(text)
        extras = [extra for extra in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": extra})]
        if requirement.name != "edgesafe" and (extras or requirement.marker is None):
            wanted.setdefault(requirement.name, (requirement, []))[1].extend(extras)
    return [_judge(requirement.name, requirement.specifier, tuple(extras)) for requirement, extras in wanted.values()]


def _judge(name: str, specifier: Any, extras: tuple[str, ...]) -> Package:
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, str(specifier), None, extras, None if extras else f"{name} is not installed, and edgesafe needs it")
    problem = None
    if not specifier.contains(installed, prereleases=True):
        reason = f": {REASONS[name]}" if name in REASONS else ""
        problem = f"{name} {installed} is installed, {name}{specifier} is needed{reason}. Run: pip install '{name}{specifier}'"
    return Package(name, str(specifier), installed, extras, problem)


def ask(package: str) -> tuple[dict[str, Any] | None, str | None]:
    """(what the package says of this machine, None), or (None, why it cannot be imported)."""
    result = subprocess.run([sys.executable, "-c", f"import json; {ASK[package]}"], capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1]), None
    last = (result.stderr.strip().splitlines() or [f"it ended with code {result.returncode}"])[-1]
    return None, f"{package} is installed but cannot be imported: {last}. Run: pip install --force-reinstall {package}"


def abilities(torch: dict[str, Any] | None, onnxruntime: dict[str, Any] | None, openvino: dict[str, Any] | None) -> dict[str, str]:
    """What this machine can run, one line a runtime; None where a package is absent or broken."""
    converts = util.find_spec("coremltools") is not None
    predicts = converts and sys.platform == "darwin"
    devices = "no" if torch is None else ", ".join(filter(None, ["CPU", torch["cuda"], "MPS" if torch["mps"] else None]))
    return {
        "torch": devices,
        "onnxruntime": "no" if onnxruntime is None else ", ".join(onnxruntime["providers"]),
        "openvino": "no" if openvino is None else ", ".join(openvino["devices"]),
        "Core ML": "convert, evaluate, predict" if predicts else "convert and evaluate; predicting needs macOS" if converts else "no",
    }


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@click.command()
def doctor() -> None:
    """Tell what is installed, what each extra would add, and what this machine can run.

    Ends with exit code 1 if an installed package is broken or has a version that does not work.
    """
    from rich.console import Console

    console = Console(highlight=False)
    found = packages()
    problems = [package.problem for package in found if package.problem]
    answers: dict[str, dict[str, Any] | None] = {}
    for package in ASK:
        installed = any(p.name == package and not p.missing for p in found)
        with console.status(f"asking {package}"):
            answers[package], trouble = ask(package) if installed else (None, None)
        problems += [trouble] if trouble else []

    table = _table("Machine", "", "")
    for row in machine().items():
        table.add_row(*row)
    console.print(table)

    table = _table("Packages", "package", "installed", "wanted", "for")
    for p in found:
        state = "[dim]not installed[/dim]" if p.missing else f"[red]{p.installed}[/red]" if p.problem else str(p.installed)
        table.add_row(p.name, state, p.wanted or "any", ", ".join(p.extras) or "edgesafe itself")
    console.print(table)

    table = _table("Extras", "extra", "adds", "state")
    for extra, adds in EXTRAS.items():
        missing = [p.name for p in found if extra in p.extras and p.missing]
        hint = f"pip install 'edgesafe[{extra}]' would add {', '.join(missing)}".replace("[", "\\[")
        table.add_row(extra, adds, hint if missing else "installed")
    console.print(table)

    table = _table("This machine can run", "", "")
    for row in abilities(answers["torch"], answers["onnxruntime"], answers["openvino"]).items():
        table.add_row(*row)
    console.print(table)

    for problem in problems:
        console.print(f"Problem: {problem}", style="red", markup=False)
    console.print("No problem found." if not problems else f"{len(problems)} to repair.")
    if problems:
        raise click.exceptions.Exit(1)
