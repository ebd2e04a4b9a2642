"""What can be exported, where it goes, and the command."""

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgesafe import artifact
from edgesafe.cli import main
from edgesafe.errors import EdgeSafeError
from edgesafe.export import TARGETS, ExportConfig, run, source

from .conftest import make_run

SHOWN = ("target", "parity_steps", "gate_db", "attention", "keep_erased")  # whose defaults --help shows


def test_a_run_that_did_not_finish_is_refused(tiny_sd1: Path, tmp_path: Path) -> None:
    folder = make_run(tiny_sd1, tmp_path / "r")
    (folder / "manifest.json").unlink()
    with pytest.raises(EdgeSafeError, match="not finished: no manifest.json"):
        source.find(str(folder))


def test_a_run_with_a_changed_file_is_refused_by_name(tiny_sd1: Path, tmp_path: Path) -> None:
    folder = make_run(tiny_sd1, tmp_path / "r")
    file = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(EdgeSafeError, match=r"unet/diffusion_pytorch_model.safetensors: its sha256 is not"):
        run(ExportConfig(str(folder), "onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_an_export_is_no_source(onnx_fp32: Path) -> None:
    with pytest.raises(EdgeSafeError, match="this is an export"):
        source.find(str(onnx_fp32))


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="no model_index.json"):
        run(ExportConfig(str(tmp_path), "onnx", out=tmp_path / "out"))


def test_an_unknown_text_encoder_is_refused_before_any_work(tiny_sd1: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    shutil.copytree(tiny_sd1, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CLIPTextModel", "T5EncoderModel"))
    with pytest.raises(EdgeSafeError, match="text_encoder is a T5EncoderModel; EdgeSafe reads CLIPTextModel"):
        run(ExportConfig(str(folder), "coreml", out=tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "int3"}, "--precision 'int3' is not known; known: fp32, fp16"),
        ({"deployment": "iOS12"}, "--deployment 'iOS12' is not known; known: iOS16, iOS17, iOS18"),
        ({"batch": 3}, "--batch 3"),
        ({"height": 0}, "--height 0"),
    ],
)
def test_bad_options_are_named(asked: dict, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        ExportConfig(**asked)


@pytest.mark.parametrize("target", TARGETS)
def test_default_places(target: str, run_folder: Path, tiny_sd1: Path) -> None:
    assert source.find(str(run_folder)).place(target, "fp16") == run_folder.with_name(f"{run_folder.name}-{target}-fp16")
    plain = source.find(str(tiny_sd1))
    assert plain.place(target, "fp32") == Path("runs") / f"sd1-{target}-fp32"


def test_a_plain_model_is_its_own_control(onnx_fp16: Path, tiny_sd2: Path) -> None:
    made = artifact.read(onnx_fp16)
    assert (
        made.control == made.base_model["id"] == str(tiny_sd2) and not made.concepts and [step.stage for step in made.steps] == ["export"]
    )
    assert made.base_model["sha256"] == artifact.sha256(tiny_sd2 / "unet" / "diffusion_pytorch_model.safetensors")
    assert made.steps[0].versions["onnx"] != "not installed"


def test_the_command_takes_the_newest_run_and_names_it(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tiny_sd1, tmp_path / "runs" / "one")
    done = CliRunner().invoke(main, ["export", "--precision", "fp16", "--parity-steps", "2"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "Exporting runs/one (the newest finished run) to onnx, fp16"
    assert (
        "worst dB" in done.output
        and "Tokenizer: 1000 of 1000" in done.output
        and done.output.rstrip().endswith("Export: runs/one-onnx-fp16")
    )
    assert artifact.read(Path("runs/one-onnx-fp16")).target["precision"] == "fp16"
    again = CliRunner().invoke(main, ["export", "--precision", "fp16"])
    assert again.exit_code == 2 and "runs/one-onnx-fp16 exists" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tpu"], "--target 'tpu' is not known; known: onnx, coreml"),
        ([], "no finished run under runs/"),
        (["nowhere"], "nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["export", *arguments])
    assert done.exit_code == 2 and message in done.stderr and not list(tmp_path.iterdir())


def test_help_needs_no_torch() -> None:
    code = "import sys; from edgesafe.cli import main; main(['export', '--help'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout


def test_the_command_says_what_apples_package_lacks_and_what_the_figures_prove(mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(mini, folder)
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace('"epsilon"', '"v_prediction"'))
    asked = ["export", str(folder), "--target", "coreml", "--batch", "1", "--out", str(tmp_path / "out"), "--parity-steps", "1"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2 and "the model predicts v_prediction" in done.stderr and not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*asked, "--own-scheduler"])
    assert done.exit_code == 0, done.output
    for line in (
        "Note: prediction_type is v_prediction",
        "Note: the UNet takes batch 1",
        "not Apple's kernels",
        "Apple's Swift tokenizer gives",
    ):
        assert line in done.output
    made = artifact.read(tmp_path / "out")
    assert made.steps[-1].config["own_scheduler"] and made.target["made_from"]["beside"] == "../mini"
    assert made.target["made_from"]["weights"]["unet"] == [artifact.sha256(folder / "unet" / "diffusion_pytorch_model.safetensors")]


def test_help_lists_every_option_under_a_heading() -> None:
    from edgesafe.commands.export import GROUPS, export

    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(parameter.name for parameter in export.params if parameter.name != "source")
    done = CliRunner().invoke(main, ["export", "--help"])
    assert done.exit_code == 0 and all(f"{heading}:" in done.output for heading in GROUPS)
    names = {field.name for field in fields(ExportConfig)}
    assert names == {parameter.name for parameter in export.params}
    defaults = ExportConfig()
    assert all(parameter.default == getattr(defaults, parameter.name) for parameter in export.params if parameter.name in SHOWN)
