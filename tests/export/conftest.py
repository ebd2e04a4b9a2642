"""A finished run around the tiny pipeline, and the exports that several tests read."""

import shutil
from pathlib import Path

import pytest

from edgesafe import artifact
from edgesafe.artifact import Manifest, Step

NEON = {"name": "neon", "kind": "style", "terms": ["neon"], "anchor": "emoji", "pairs": [["red apple neon style", "red apple"]]}


def make_run(pipeline: Path, folder: Path) -> Path:
    shutil.copytree(pipeline, folder / "model")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "config.json").write_text("{}\n")
    train = Step("train", "penalty", {"steps": 1}, 7, {"torch": "0"})
    base = {"id": "emoji:teacher", "revision": None, "sha256": "00"}
    artifact.seal(folder, Manifest("run", base, control="emoji:student", steps=(train,), concepts=(NEON,), files={}))
    return folder


@pytest.fixture(scope="session")
def run_folder(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    return make_run(tiny_sd1, tmp_path_factory.mktemp("runs") / "20260101-neon")


@pytest.fixture(scope="session")
def onnx_fp32(run_folder: Path) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(run_folder), "onnx"))


@pytest.fixture(scope="session")
def onnx_fp16(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(tiny_sd2), "onnx", "fp16", tmp_path_factory.mktemp("exports") / "sd2"))
