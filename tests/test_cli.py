"""The command line: fast help, messages instead of tracebacks, exit codes."""

import errno
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

import edgesafe
from edgesafe import cli
from edgesafe.errors import ArtifactError, EdgeSafeError, Stopped


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def with_command(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Replace `edgesafe train` by a command that raises."""

    @click.command()
    def train() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(train=train))


def test_help_lists_every_command_and_imports_none() -> None:
    script = "import sys; from edgesafe.cli import main; main(['--help'], standalone_mode=False); print('loaded', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, loaded = result.stdout.split("loaded ")
    assert all(f"{name}  " in text and entry.help in text for name, entry in cli.COMMANDS.items())
    heavy = {"torch", "numpy", "diffusers", "transformers", "rich", "edgesafe.commands", "edgesafe.artifact"}
    assert not heavy & set(loaded.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_help_and_loads_nothing_heavy_for_it(name: str) -> None:
    script = f"import sys; from edgesafe.cli import main; main(['{name}', '--help'], standalone_mode=False); print('loaded', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, loaded = result.stdout.split("loaded ")
    assert text.startswith("Usage:") and not {"torch", "diffusers", "transformers", "onnxruntime"} & set(loaded.split())


def test_the_version_is_the_distributions() -> None:
    assert run("--version").output == f"edgesafe {edgesafe.__version__}\n"


def test_the_package_hands_names_on_lazily() -> None:
    assert edgesafe.EdgeSafeError is EdgeSafeError and "Manifest" in dir(edgesafe)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        edgesafe.Nothing  # noqa: B018
    for module in edgesafe._HOME.values():
        assert find_spec(module), module


def test_an_unknown_command_lists_the_known_ones() -> None:
    result = run("trian")
    assert result.exit_code == 2 and f"unknown command 'trian'; known: {', '.join(cli.COMMANDS)}" in result.output


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EdgeSafeError("--erase 'x': no such concept"), 2, "Error: --erase 'x': no such concept\n"),
        (ArtifactError("runs/a: not finished"), 2, "Error: runs/a: not finished\n"),
        (Stopped("Stopped; resume with: edgesafe train --out runs/a"), 130, "resume with: edgesafe train --out runs/a\n"),
        (KeyboardInterrupt(), 130, "Stopped. Finished work is kept; run the same command again to go on.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/w"), 2, "Error: runs/a/w: the disk is full."),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "Error: /root/x: permission denied."),
        (ModuleNotFoundError(name="diffusers.models"), 2, "needs the Python package 'diffusers'. Install it with"),
    ],
)
def test_what_a_user_caused_is_a_message(error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, error)
    result = run("train")
    assert result.exit_code == code
    assert message in result.stderr and not result.stdout and "Traceback" not in result.stderr


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert "Install it with: pip install 'edgesafe[train]'" in run("train").stderr


@pytest.mark.parametrize("error", [ValueError("a bug"), ModuleNotFoundError(name="edgesafe.x"), OSError(errno.EIO, "broken")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, error)
    assert run("train").exception is error


def test_success_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, None)
    assert run("train").exit_code == 0
