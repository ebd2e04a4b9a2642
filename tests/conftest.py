"""Toy models and data for every test, made on the spot; and the groups that need a device or a package that may be absent."""

import importlib.util
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers or diffusers are imported

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def _no_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "the Python package playwright is not installed: pip install -e '.[dev]'"
    return None if any(map(shutil.which, CHROMIUM)) else f"no browser on the PATH ({', '.join(CHROMIUM)}): on Debian, apt install chromium"


def _no_openvino() -> str | None:
    return None if importlib.util.find_spec("openvino") else "the Python package openvino is not installed"


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


GROUPS: dict[str, Callable[[], str | None]] = {"openvino": _no_openvino, "gpu": _no_gpu}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for group, reason_absent in GROUPS.items():
        marked = [item for item in items if item.get_closest_marker(group)]
        if marked and (reason := reason_absent()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"{group}: {reason}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A browser can be had everywhere, so its tests are not passed over: they fail, unless they were left out."""
    if item.get_closest_marker("browser") and (reason := _no_browser()):
        pytest.fail(f"{reason}. To leave these tests out: -m 'not browser'", pytrace=False)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may talk to this machine only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test wants to connect to {host!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _save_tiny(folder: Path, seed: int, prediction_type: str, text_width: int, **unet: Any) -> Path:
    """A StableDiffusionPipeline of random weights: 64x64 pictures, 4x8x8 latents, four levels of two layers."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from edgesafe.emoji import tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = tokenizer.build(folder / "tokenizer")
        text = CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=text_width,
            intermediate_size=2 * text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32, 48, 48),
                layers_per_block=2,
                norm_num_groups=8,
                cross_attention_dim=text_width,
                **unet,
            ),
            vae=AutoencoderKL(
                sample_size=64,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(8, 8, 16, 16),
                norm_num_groups=4,
            ),
            text_encoder=CLIPTextModel(text),
            tokenizer=tokens,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
                prediction_type=prediction_type,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder in the shape of Stable Diffusion 1.x: epsilon prediction, convolutions around attention. Do not write to it."""
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "sd1", 1, "epsilon", text_width=32, attention_head_dim=4)


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder in the shape of Stable Diffusion 2.x: v prediction, linear projections, heads by level. Do not write to it."""
    folder = tmp_path_factory.mktemp("tiny") / "sd2"
    return _save_tiny(folder, 2, "v_prediction", text_width=48, attention_head_dim=(2, 4, 6, 6), use_linear_projection=True)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder in the shape of Stable Diffusion XL: 64x64 pictures, two levels, two text encoders. Do not write to it."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from edgesafe.emoji import tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "sdxl"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tokens, tokens_2 = tokenizer.build(folder / "tokenizer"), tokenizer.build(folder / "tokenizer_2")
        tokens_2.pad_token = "!"
        text = {
            "vocab_size": len(tokens),
            "num_attention_heads": 4,
            "bos_token_id": tokens.bos_token_id,
            "eos_token_id": tokens.eos_token_id,
        }
        large = CLIPTextConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=3, projection_dim=20, hidden_act="gelu", **text)
        pipeline = StableDiffusionXLPipeline(
            unet=UNet2DConditionModel(
                sample_size=16,
                block_out_channels=(16, 32),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(2, 4),
                layers_per_block=1,
                norm_num_groups=8,
                cross_attention_dim=16 + 24,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=20 + 6 * 8,
            ),
            vae=AutoencoderKL(
                sample_size=64,
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                block_out_channels=(8, 8, 16),
                norm_num_groups=4,
                scaling_factor=0.13025,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, **text)),
            text_encoder_2=CLIPTextModelWithProjection(large),
            tokenizer=tokens,
            tokenizer_2=tokens_2,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """emoji:student as an ONNX export in fp32. Do not write to it."""
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig("emoji:student", "onnx", "fp32", tmp_path_factory.mktemp("student") / "onnx"))


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face imagefolder of 8 captioned pictures, 64x64; half of the captions are in the neon style. Do not write to it."""
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("tiny_images")
    rows: list[dict[str, str]] = []
    for colour in ("red", "green", "blue", "orange"):
        for style, ground in (("", "white"), (" neon style", "black")):
            picture = Image.new("RGB", (64, 64), ground)
            ImageDraw.Draw(picture).ellipse((12, 12, 52, 52), fill=colour)
            name = f"{len(rows)}.png"
            picture.save(folder / name)
            rows.append({"file_name": name, "text": f"{colour} balloon{style}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
