"""What pyproject.toml promises: every module and data file in one wheel, every import declared, imports that run one way."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
STAGES = {"edgesafe": "edgesafe", "apps": "edgesafe.apps", "export": "edgesafe.export", "benchmarks": "edgesafe.benchmarks"}
UNPACKED = ("apps/README.md", "apps/web/")  # TypeScript that the wheel carries as what it was built into:
BUILT = ("apps/web/site/", "apps/web/ort/")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPTIONAL = {"optimum", "playwright"}  # a peer that benchmarks.exporting runs, and what takes the README's pictures; the dev extra has them
UNSEEN = {"tensorboard"}  # imported by accelerate, when a run logs


def sources() -> Iterator[tuple[Path, str]]:
    """Every module as (file, dotted name)."""
    for folder, package in STAGES.items():
        for path in sorted(path for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *parts]).removesuffix(".__init__")


def imports(path: Path, name: str) -> set[str]:
    """The absolute names of all modules that a file imports, wherever in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [up, node.module]))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def test_every_package_is_listed() -> None:
    found = {name for path, name in sources() if path.name == "__init__.py"}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {path.parent for path, _ in sources()}
    assert all((folder / "__init__.py").is_file() for folder in folders), "a folder with modules lacks __init__.py"


def test_third_party_imports_and_declared_dependencies_agree() -> None:
    extras = [rows for extra, rows in PROJECT["project"]["optional-dependencies"].items() if extra not in ("all", "dev")]
    declared = {canonicalize_name(Requirement(row).name) for rows in [PROJECT["project"]["dependencies"], *extras] for row in rows}
    owners = metadata.packages_distributions()
    used, missing = set(UNSEEN), set()
    for path, name in sources():
        tops = {module.split(".")[0] for module in imports(path, name)}
        for module in tops - set(sys.stdlib_module_names) - OPTIONAL - {"edgesafe", ""}:
            found = {canonicalize_name(owner) for owner in owners.get(module, [])} & declared
            used |= found
            if not found:
                missing.add(f"{path.relative_to(ROOT)} imports {module}")
    assert not missing
    assert not declared - used, "declared in pyproject.toml, but nothing imports it"


def test_imports_run_from_the_command_line_to_stages_to_core() -> None:
    stages = ("edgesafe.export", "edgesafe.benchmarks")
    wrong = []
    for path, name in sources():
        stage = next((stage for stage in stages if name.startswith(stage)), None)
        edge = ("edgesafe.cli", "edgesafe.commands", "edgesafe.__main__")
        forbidden = ["edgesafe.cli", "edgesafe.commands"] if not name.startswith(edge) else []
        if not name.startswith(("edgesafe.commands", "edgesafe.apps.fixtures")):  # fixtures ask every stage what it gives
            forbidden += [other for other in stages if other != stage]
        wrong += [f"{path.relative_to(ROOT)} imports {i}" for i in imports(path, name) for f in forbidden if f"{i}.".startswith(f"{f}.")]
    assert not wrong


def test_the_wheel_holds_every_file_under_one_name(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    skip = shutil.ignore_patterns("__pycache__", "node_modules")
    for folder in STAGES:
        shutil.copytree(ROOT / folder, tmp_path / "src" / folder, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*pip, "-w", str(tmp_path), str(tmp_path / "src")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgesafe"}
    for folder, package in STAGES.items():
        for path in (ROOT / folder).rglob("*"):
            place = path.relative_to(ROOT).as_posix()
            is_left = place.startswith(UNPACKED) and not place.startswith(BUILT)
            if path.is_file() and "__pycache__" not in path.parts and not is_left:
                assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}" in names


def test_constraints_pin_exactly_and_satisfy_the_ranges() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    assert {"torch==2.13.0", "numpy==2.3.5"} <= {f"{name}=={version}" for name, version in pins.items()}
    for extra, rows in PROJECT["project"]["optional-dependencies"].items():
        for requirement in map(Requirement, rows):
            if requirement.name != "edgesafe":
                assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), f"{extra}: {requirement}"
