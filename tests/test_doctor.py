"""`edgesafe doctor` judges versions by what pyproject.toml asks for, and survives packages that crash."""

from importlib import metadata

import pytest
from click.testing import CliRunner

from edgesafe.cli import main
from edgesafe.commands import doctor


def with_versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    real = metadata.version

    def version(name: str) -> str:
        found = changed.get(name, "") if name in changed else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child processes."""
    answers = {
        "torch": {"cuda": "H200", "mps": False},
        "onnxruntime": {"providers": ["CPUExecutionProvider"]},
        "openvino": {"devices": ["CPU"]},
    }
    monkeypatch.setattr(doctor, "ask", lambda package: (answers[package], None))


def test_this_machine_is_in_order() -> None:
    """Here with the real packages: the constraints file satisfies pyproject.toml's ranges."""
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "No problem found." in result.output
    for word in ("python", "processor", "memory", "disk free", "train", "export", "bench", "CPUExecutionProvider", "Core ML"):
        assert word in result.output


@pytest.mark.usefixtures("quick")
def test_numpy_that_breaks_coremltools_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, numpy="2.4.1")
    result = CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "Problem: numpy 2.4.1 is installed" in result.output and "coremltools 9.0 cannot trace" in result.output
    assert "pip install 'numpy<2.4,>=2'" in result.output and "1 to repair." in result.output


@pytest.mark.usefixtures("quick")
def test_an_absent_extra_is_no_problem_and_says_what_it_would_add(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, coremltools=None)
    result = CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "pip install 'edgesafe[export]' would add coremltools" in result.output


@pytest.mark.usefixtures("quick")
def test_a_package_that_edgesafe_itself_needs_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, click=None)
    result = CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and "click is not installed, and edgesafe needs it" in result.output


@pytest.mark.parametrize(
    ("script", "reason"),
    [("raise ImportError('no libfoo.so')", "ImportError: no libfoo.so"), ("import os; os.abort()", "it ended with code -6")],
)
def test_a_broken_package_is_named_and_harms_nobody(script: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.ASK, "torch", script)
    answer, problem = doctor.ask("torch")
    assert answer is None and problem == f"torch is installed but cannot be imported: {reason}. Run: pip install --force-reinstall torch"


def test_abilities_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    row = doctor.abilities({"cuda": "H200", "mps": False}, None, None)
    assert row["torch"] == "CPU, H200" and row["onnxruntime"] == "no"
    monkeypatch.setattr(doctor.sys, "platform", "darwin")
    row = doctor.abilities({"cuda": None, "mps": True}, {"providers": ["CoreMLExecutionProvider"]}, {"devices": ["CPU"]})
    assert row["torch"] == "CPU, MPS" and row["Core ML"] in ("convert, evaluate, predict", "no") and row["openvino"] == "CPU"
