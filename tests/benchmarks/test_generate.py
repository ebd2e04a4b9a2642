"""`edgesafe generate` from the command line."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edgesafe.benchmarks.picture import sheet
from edgesafe.cli import main


def generate(*words: str) -> Result:
    return CliRunner().invoke(main, ["generate", *words])


def test_the_same_picture_from_a_run_and_its_export(run_folder: Path, onnx_folder: Path, tmp_path: Path) -> None:
    for folder, name in ((run_folder, "torch"), (onnx_folder, "onnxruntime")):
        result = generate(str(folder), "shark neon style", "--seed", "1", "--steps", "2", "--n", "3", "-o", str(tmp_path / f"{name}.png"))
        assert result.exit_code == 0, result.output
        assert name in result.stderr
        assert result.stdout.strip().endswith(f"{name}.png")
    with Image.open(tmp_path / "torch.png") as one, Image.open(tmp_path / "onnxruntime.png") as two:
        first, second, told = np.asarray(one).astype(int), np.asarray(two).astype(int), one.info["edgesafe"]
    assert first.shape == (128, 128, 3)
    assert np.abs(first - second).max() <= 1
    assert (first[64:, 64:] == 255).all(), "three pictures and an empty place"
    assert told == "tiny; shark neon style; seed 1; ddim, 2 steps, guidance 4, torch"


def test_a_prompt_too_long_is_told(run_folder: Path, tmp_path: Path) -> None:
    result = generate(str(run_folder), "red apple " * 37 + "red shark pizza", "--steps", "1", "-o", str(tmp_path / "x.png"))
    assert result.exit_code == 0
    assert "It does not see: “shark pizza”" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shark", "neon", "style"), 'the prompt has to stand in quotes: edgesafe generate "shark neon style"'),
        (("{run}", "shark", "--runtime", "tvm"), "unknown runtime 'tvm'; known: onnxruntime, openvino, torch, coreml"),
        (("{run}", "shark", "--runtime", "onnxruntime"), "is no ONNX export"),
        (("{run}", "shark", "--sampler", "euler"), "unknown sampler 'euler'; known: ddim, pndm, dpm++"),
        (("{run}", "shark", "-o", "shark.bmp"), "unknown picture format '.bmp'; known: .png"),
        (("{here}/none", "shark"), "no such folder"),
        (("shark",), "no finished run under runs/"),
        (("emoji:pupil", "shark"), "unknown packaged model 'emoji:pupil'; known: emoji:teacher, emoji:student"),
    ],
)
def test_bad_input_is_named(
    words: tuple[str, ...], message: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = generate(*(word.format(run=run_folder, here=tmp_path) for word in words))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_an_existing_picture_is_kept(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("mine")
    result = generate(str(run_folder), "shark", "-o", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert "x.png exists. Give another -o, or --force" in result.output
    assert (tmp_path / "x.png").read_text() == "mine"


@pytest.mark.parametrize(("n", "shape"), [(1, (4, 6)), (2, (4, 12)), (5, (8, 18)), (9, (12, 18))])
def test_a_sheet_is_as_square_as_it_can_be(n: int, shape: tuple[int, int]) -> None:
    assert sheet(np.zeros((n, 4, 6, 3), np.uint8)).shape == (*shape, 3)
