"""The README's two commands: scripts that parse, run from anywhere, and fail clearly."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edgesafe import cli

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", "scripts/check", "scripts/install", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "set -euo pipefail" in path.read_text()


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_an_unsupported_python_is_a_clear_error(tmp_path: Path) -> None:
    """The installer on a machine whose only Python is too old."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/install", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    executable(tmp_path / "bin" / "python3", "#!/bin/sh\nexit 1\n")
    for tool in ("bash", "dirname", "cat", "grep", "cksum"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "")
    environment = {"PATH": str(tmp_path / "bin")}
    result = subprocess.run([str(tmp_path / "scripts/install")], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "EdgeSafe needs Python 3.11 or 3.12, and none was found" in result.stderr
    assert not (tmp_path / ".venv").exists()


NOTES = "#!/bin/sh\necho ${0##*/} $@ >>commands\n"


def installed(folder: Path, user: int) -> subprocess.CompletedProcess[str]:
    """`scripts/install dev` where .venv/ is up to date, by a user of that id, with commands that only note how they are called."""
    files = ("scripts/install", "constraints.txt", "pyproject.toml", "apps/web/package-lock.json")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    tools = {"python": "#!/bin/sh\n", "npm": NOTES, "node": NOTES, "apt-get": NOTES, "id": f"#!/bin/sh\necho {user}\n"}
    for name, text in tools.items():
        executable(folder / (".venv/bin" if name == "python" else "bin") / name, text)
    for tool in ("bash", "sh", "dirname", "cat", "grep", "cksum", "sleep", "tail", "mkdir"):
        (folder / "bin" / tool).unlink(missing_ok=True)
        (folder / "bin" / tool).symlink_to(shutil.which(tool) or "")
    (folder / "apps/web/node_modules").mkdir(exist_ok=True)
    sums = f"cat {files[1]} {files[2]} <(echo {folder}) | cksum"
    state = subprocess.run(["bash", "-c", sums], cwd=folder, capture_output=True, check=True)
    (folder / ".venv/.installed-dev").write_bytes(state.stdout)
    environment = {"PATH": str(folder / "bin")}
    return subprocess.run([str(folder / "scripts/install"), "dev"], env=environment, capture_output=True, text=True, check=False)


def test_chromium_is_installed_where_it_may_and_npm_packages_once(tmp_path: Path) -> None:
    result = installed(tmp_path, user=0)
    assert result.returncode == 0, result.stderr
    commands = [line for line in (tmp_path / "commands").read_text().splitlines() if not line.startswith("node ")]
    install = ["apt-get update", "apt-get install --yes --no-install-recommends chromium"]
    assert commands == [*install, "npm ci --prefix apps/web --no-audit --no-fund --loglevel=error"]
    executable(tmp_path / "bin" / "chromium", "#!/bin/sh\n")
    (tmp_path / "commands").unlink()
    assert installed(tmp_path, user=0).stderr == ""
    assert not [line for line in (tmp_path / "commands").read_text().splitlines() if not line.startswith("node ")]


def test_without_leave_the_installer_says_how_to_get_chromium(tmp_path: Path) -> None:
    result = installed(tmp_path, user=1000)
    assert result.returncode == 0 and "the tests marked 'browser' will fail. Install one" in result.stderr
    assert "apt-get" not in (tmp_path / "commands").read_text()


RECORDER = """#!/usr/bin/env bash
printf '%q ' "$@" >>commands; echo >>commands
[[ "$1" != "$STOP_AT" ]] || exit 3
[[ "$1" != bench ]] || { mkdir -p "${@: -1}"; touch "${@: -1}/report.html"; }
"""


def demo(folder: Path, stop_at: str = "", *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """The demo with an `edgesafe` that only records how it is called, started from another directory."""
    executable(folder / "scripts" / "demo", (ROOT / "scripts" / "demo").read_text())
    executable(folder / "scripts" / "install", "#!/bin/sh\n")
    executable(folder / ".venv" / "bin" / "edgesafe", RECORDER)
    environment = os.environ | {"STOP_AT": stop_at}
    result = subprocess.run([folder / "scripts/demo", *arguments], cwd="/", env=environment, capture_output=True, text=True, check=False)
    return result, [shlex.split(line) for line in (folder / "commands").read_text().splitlines()]


def test_the_demo_calls_commands_that_exist_and_ends_with_the_report(tmp_path: Path) -> None:
    result, commands = demo(tmp_path, "", "--erase", "beer, wine")
    assert result.returncode == 0, result.stderr
    assert [name for name, *_ in commands] == ["train", "export", "export", "generate", "bench"]
    for name, *arguments in commands:
        command = cli.main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        command.make_context(name, list(arguments))  # a UsageError, if an option is not known
    assert commands[0][-2:] == ["--erase", "beer, wine"]
    last = result.stdout.splitlines()[-1]
    assert last.startswith("Open the report") and Path(last.split(": ")[1]).is_file()


def test_the_demo_stops_where_a_command_fails(tmp_path: Path) -> None:
    result, commands = demo(tmp_path, stop_at="export")
    assert result.returncode == 3 and len(commands) == 2 and "Open the report" not in result.stdout
