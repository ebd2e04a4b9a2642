"""Pipelines of real sizes with random weights: what speed and memory need, where no real model may be downloaded.

python -m edgesafe.benchmarks.random_pipeline sd15 FOLDER
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Size:
    unet: dict[str, Any]
    text: dict[str, Any]
    vae: dict[str, Any]


SIZES = {
    "sd15": Size({"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, CLIP_L, VAE),  # 860 M in the UNet
    "tenth": Size(  # 93 M in the UNet: the same shape, to try things out
        {"sample_size": 32, "cross_attention_dim": 256, "attention_head_dim": 8, "block_out_channels": (96, 192, 448, 448)},
        CLIP_L | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
        VAE | {"block_out_channels": (32, 64, 128, 128)},
    ),
}


def write(size: Size, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """A StableDiffusionPipeline folder; weights as diffusers initialises them, in `dtype`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    tokens = _tokenizer(folder / "tokenizer")
    UNet2DConditionModel(**size.unet).save_pretrained(folder / "unet", max_shard_size="10GB")
    AutoencoderKL(**size.vae).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(vocab_size=49408, **tokens, **size.text)).save_pretrained(folder / "text_encoder")
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")},
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _tokenizer(folder: Path) -> dict[str, int]:
    """The packaged model's, padded to 77 tokens; returns its special ids."""
    from transformers import CLIPTokenizer

    from edgesafe import model

    source = model.resolve("emoji:teacher")
    shutil.copytree(Path(source) / "tokenizer", folder)
    tokens = CLIPTokenizer.from_pretrained(folder)
    return {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}


@click.command()
@click.argument("size", type=click.Choice(list(SIZES)))
@click.argument("folder", type=click.Path(path_type=Path))
def main(size: str, folder: Path) -> None:
    """Write a pipeline of the named size into FOLDER, fp16 safetensors."""
    folder.mkdir(parents=True)
    write(SIZES[size], folder)
    click.echo(f"{size}: {folder}")


if __name__ == "__main__":
    main()
