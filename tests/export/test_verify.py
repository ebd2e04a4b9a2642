"""`edgesafe verify`: what passes, what is named, and that nothing in the export is written to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper
from rich.console import Console

from edgesafe import artifact
from edgesafe.cli import main
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, run
from edgesafe.export.verify import VerifyConfig, verify

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def exported(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    return run(ExportConfig(str(mini), "onnx", out=tmp_path_factory.mktemp("verify") / "out", parity_steps=3), QUIET)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def resealed(folder: Path, **changes: object) -> None:
    """As someone would who changes an export and has the manifest agree."""
    artifact.seal(folder, replace(artifact.read(folder, verify=False), **changes), exclude=())


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_an_export_passes_and_stays_as_it_is(exported: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in exported.rglob("*")}
    done = command(exported, "--json", tmp_path / "result.json")
    assert done.exit_code == 0, done.output
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in exported.rglob("*")}
    for words in ("worst dB", "unet", "whole pictures: at most", "Tokenizer: 1000 of 1000", f"Passed: {exported} computes what"):
        assert words in done.output
    result, sealed = json.loads((tmp_path / "result.json").read_text()), artifact.read(exported)
    assert result["passed"] and result["manifest_sha256"] == artifact.sha256(exported / "manifest.json") and not result["extra_files"]
    assert result["parity"]["steps"] == sealed.parity["steps"] == 3 and result["parity"]["components"]["unet"]["calls"] == 3
    for part, row in result["parity"]["components"].items():
        assert row["psnr_db"] == pytest.approx(sealed.parity["components"][part]["psnr_db"], abs=3)


def test_one_flipped_byte_of_any_file_is_named(copied: Path) -> None:
    files = [path for path in copied.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert len(files) > 12
    for path in files:
        kept, name = path.read_bytes(), path.relative_to(copied).as_posix()
        flipped(path, len(kept) // 2)
        with pytest.raises(EdgeSafeError, match=f"{name}: its sha256 is not the one in manifest.json"):
            verify(VerifyConfig(copied), QUIET)
        path.write_bytes(kept)


def test_one_flipped_byte_of_the_manifest_is_named(copied: Path) -> None:
    path = copied / "manifest.json"
    kept = path.read_bytes()
    for at in {*range(0, len(kept), 41), kept.index(b'"manifest_sha256"') + 3, kept.index(b'"manifest_sha256"') + 30}:
        flipped(path, at)
        with pytest.raises(EdgeSafeError, match="manifest.json"):
            verify(VerifyConfig(copied), QUIET)
        path.write_bytes(kept)


def test_a_file_added_later_is_a_warning(copied: Path, exported: Path, mini: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    done = command(copied, "--model", mini, "--parity-steps", 1)
    assert done.exit_code == 0 and "Note: notes.txt is not listed in manifest.json" in done.output


def test_a_file_that_computes_something_else_is_refused_with_the_decibels(copied: Path, mini: Path, tmp_path: Path) -> None:
    path = copied / "unet" / "model.onnx"
    made = onnx.load(path)
    for tensor in made.graph.initializer:
        if len(tensor.dims) == 4:  # convolutions
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.2), tensor.name))
    onnx.save(made, path)
    resealed(copied)
    done = command(copied, "--model", mini, "--json", tmp_path / "result.json")
    assert done.exit_code == 2 and "does not compute what its model computes: unet " in done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["passed"] and "unet" in result["reason"] and result["parity"]["components"]["unet"]["psnr_db"] < 35
    known = result["parity"]["components"]["unet"]["psnr_db"]
    loss = {"reason": "a test", "psnr_db": {"unet": known}, "gate_db": 35.0}
    resealed(copied, parity=artifact.read(copied).parity | {"allowed_loss": loss})
    done = command(copied, "--model", mini)
    assert done.exit_code == 0 and "Allowed below 35 dB: unet. Reason given: a test" in done.output
    resealed(copied, parity=artifact.read(copied).parity | {"allowed_loss": loss | {"psnr_db": {"unet": known + 2}}})
    done = command(copied, "--model", mini)
    assert done.exit_code == 2 and f"but unet was allowed {known + 2:.1f} dB" in done.stderr


def test_a_changed_tokenizer_is_refused(copied: Path, mini: Path) -> None:
    path = copied / "tokenizer" / "merges.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:100]))
    resealed(copied)
    with pytest.raises(EdgeSafeError, match="tokenizer: vocab.json and merges.txt give other ids"):
        verify(VerifyConfig(copied, str(mini), parity_steps=1), QUIET)


def test_the_model_is_found_beside_the_export_or_given(mini: Path, tiny_sd1: Path, tmp_path: Path) -> None:
    shutil.copytree(mini, tmp_path / "a" / "model")
    out = run(ExportConfig(str(tmp_path / "a" / "model"), "onnx", out=tmp_path / "a" / "out", parity_steps=1), QUIET)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = tmp_path / "b" / out.name
    assert verify(VerifyConfig(moved), QUIET)["source"] == str(tmp_path / "b" / "model")
    with pytest.raises(EdgeSafeError, match="its text_encoder and unet and vae weights|its unet and vae weights are not those that"):
        verify(VerifyConfig(moved, str(tiny_sd1)), QUIET)
    flipped(tmp_path / "b" / "model" / "vae" / "diffusion_pytorch_model.safetensors", -1)
    with pytest.raises(EdgeSafeError, match="b/model: its vae weights are not those that"):
        verify(VerifyConfig(moved), QUIET)
    shutil.rmtree(tmp_path / "b" / "model")
    with pytest.raises(EdgeSafeError, match="is not there: .*b/model.* Give the place where it is now with --model"):
        verify(VerifyConfig(moved), QUIET)


def test_what_cannot_be_verified_is_refused(exported: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeSafeError, match="this is a run, not an export. Make one from it: edgesafe export"):
        verify(VerifyConfig(run_folder), QUIET)
    with pytest.raises(EdgeSafeError, match="lies in the export, which stays as it was sealed"):
        verify(VerifyConfig(exported, json=exported / "result.json"), QUIET)
    monkeypatch.chdir(tmp_path)
    done = command()
    assert done.exit_code == 2 and "no finished export under runs/" in done.stderr


def test_the_newest_export_is_taken_and_named(exported: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported, tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    done = command("--model", mini, "--parity-steps", 1)
    assert done.exit_code == 0 and done.output.startswith("Verifying runs/one (the newest finished export)")
