"""A finished run around the tiny pipeline, and the exports that several tests read."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgesafe import artifact
from edgesafe.artifact import Manifest, Step

if TYPE_CHECKING:
    from edgesafe.model import TextToImage

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
def mini(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest pipeline that exports, in a second: one level with one layer each, 8x8 pictures. Do not write to it."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("mini") / "mini"
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd1, safety_checker=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        pipeline.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            mid_block_type=None,
            layers_per_block=1,
            attention_head_dim=4,
            norm_num_groups=4,
            cross_attention_dim=32,
        )
        pipeline.vae = AutoencoderKL(sample_size=8, block_out_channels=(8,), norm_num_groups=4)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def onnx_fp32(run_folder: Path) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(run_folder), "onnx"))


@pytest.fixture(scope="session")
def onnx_fp16(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(tiny_sd2), "onnx", "fp16", tmp_path_factory.mktemp("exports") / "sd2", parity_steps=4))


@pytest.fixture(scope="session")
def small_unet(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple["TextToImage", dict[str, Path]]:
    """A pipeline whose UNet has two levels, and that UNet as Core ML packages for iOS 17 and 18, batch 2. Do not write to them."""
    import torch
    from diffusers import UNet2DConditionModel

    from edgesafe import model
    from edgesafe.export import mlprogram, wrappers
    from edgesafe.export.mlprogram import Port

    loaded, folder = model.load(tiny_sd1), tmp_path_factory.mktemp("small_unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        loaded.unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=4,
        ).eval()
    loaded.freeze()
    ports = Port("sample", (2, 4, 8, 8)), Port("timestep", (2,)), Port("encoder_hidden_states", (2, 32, 1, 77))
    packages = {deployment: folder / deployment / "Unet.mlpackage" for deployment in ("iOS17", "iOS18")}
    for deployment, path in packages.items():
        path.parent.mkdir()
        mlprogram.convert(wrappers.AppleUnet(loaded.unet), ports, (Port("noise_pred", (2, 4, 8, 8)),), "fp16", deployment, path)
    return loaded, packages
