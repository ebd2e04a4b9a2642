"""`edgesafe train` on streams, stopped and resumed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from edgesafe import sampling, trainer
from edgesafe.cli import main

from .conftest import pair, tar

SMALL = ["--batch", "3", "--steps", "6", *(f"--set={k}" for k in ("bank=4", "rate=1e-3", "checkpoint_every=3", "warmup=0"))]


@pytest.fixture(autouse=True)
def small_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesafe.previews.SHOWN", 2)
    monkeypatch.setattr(sampling.sample.__wrapped__, "__defaults__", (2, 4.0, None))


def edgesafe(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)], catch_exceptions=False)


@pytest.mark.parametrize("cache", [8.0, 0.0])
def test_a_killed_run_goes_on_with_the_same_bits(
    cache: float, tiny_sd1: Path, shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shards(5, 4, 2)
    tar(folder / "00001.tar", {"x.png": b"broken", "x.txt": b"x"} | pair(30) | pair(31))
    args = ["--model", tiny_sd1, "--data", folder / "{00000..00002}.tar", "--erase", "none", *SMALL, f"--set=latent_cache_gib={cache}"]
    whole = edgesafe(*args, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    kept = trainer.save

    def killed(state, path):
        kept(state, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", killed)
        assert edgesafe(*args, "--out", tmp_path / "killed").exit_code == 130
    resumed = edgesafe("--resume", tmp_path / "killed")
    assert resumed.exit_code == 0, resumed.output
    assert "1 pictures skipped" in resumed.output and "00001.tar x: not a readable picture" in resumed.output
    nets = [load_file(tmp_path / run / "model" / "unet" / "diffusion_pytorch_model.safetensors") for run in ("whole", "killed")]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_the_streams_own_pictures_are_noised_for_the_eraser(tiny_sd1: Path, tiny_images: Path, tmp_path: Path):
    args = ["--model", tiny_sd1, *SMALL, "--set=erase_batch=2", "--set=eraser.pictures=data", "--inner-steps", "1"]
    result = edgesafe(*args, "--data", f"hf:{tiny_images}", "--erase", "style:neon", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run" / "checkpoint" / "concept.safetensors").exists()
    result = edgesafe(*args, "--data", f"hf:{tiny_images}", "--erase", "style:cubism", "--out", tmp_path / "other")
    assert result.exit_code == 2 and "(its first 8 pictures) holds 'cubism'" in result.output.replace("\n", " ")
