"""Pipelines of real sizes with random weights: what speed and memory need, where no real model may be downloaded.

python -m edgesafe.benchmarks.random_pipeline sd15 FOLDER
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from edgesafe.families import ZERO_EMPTY, StableDiffusion, StableDiffusionXL
from edgesafe.pruners.bk_sdm import BKSDM, VARIANTS

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768}
CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
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
    text_2: dict[str, Any] | None = None  # of Stable Diffusion XL


SIZES = {
    "sd15": Size({"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, CLIP_L, VAE),  # 860 M in the UNet
    "sdxl": Size(UNET_XL, CLIP_L, VAE | {"scaling_factor": 0.13025}, CLIP_BIG_G),  # 2.6 B in the UNet, 0.7 B in the second text encoder
    "tenth": Size(  # 93 M in the UNet: the same shape, to try things out
        {"sample_size": 32, "cross_attention_dim": 256, "attention_head_dim": 8, "block_out_channels": (96, 192, 448, 448)},
        CLIP_L | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
        VAE | {"block_out_channels": (32, 64, 128, 128)},
    ),
}


def pruned(size: Size, variant: str) -> Size:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        teacher = UNet2DConditionModel(**size.unet).config
    return replace(size, unet=BKSDM(variant).config(dict(teacher)))


def write(size: Size, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """A StableDiffusionPipeline or StableDiffusionXLPipeline folder; weights as diffusers initialises them, in `dtype`.

    One part in memory at a time, twice while it is saved.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    family = StableDiffusion if size.text_2 is None else StableDiffusionXL
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    tokens = _tokenizer(folder / "tokenizer")
    UNet2DConditionModel(**size.unet).save_pretrained(folder / "unet", max_shard_size="10GB")
    AutoencoderKL(**size.vae).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(vocab_size=49408, **tokens, **size.text)).save_pretrained(folder / "text_encoder")
    if size.text_2 is not None:
        tokens = _tokenizer(folder / "tokenizer_2", pad="!")
        config = CLIPTextConfig(vocab_size=49408, **tokens, **size.text_2)
        CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": family.pipeline,
        "scheduler": ["diffusers", "DDIMScheduler"],
        **{name: ["transformers", "CLIPTokenizer"] for name in family.tokenizers.values()},
        **family.parts,
        **{name: [None, None] for name in ("feature_extractor", "image_encoder")},
        **({"safety_checker": [None, None], "requires_safety_checker": False} if size.text_2 is None else {ZERO_EMPTY: True}),
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _tokenizer(folder: Path, pad: str | None = None) -> dict[str, int]:
    """The packaged model's, padded to 77 tokens, with `pad` where given; returns its special ids."""
    from transformers import CLIPTokenizer

    from edgesafe import model

    source = model.resolve("emoji:teacher")
    shutil.copytree(Path(source) / "tokenizer", folder)
    tokens = CLIPTokenizer.from_pretrained(folder)
    if pad is not None:
        tokens.pad_token = pad
        tokens.save_pretrained(folder)
    return {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}


@click.command()
@click.argument("size", type=click.Choice(list(SIZES)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--prune", "variant", type=click.Choice(VARIANTS), help="With the UNet as BK-SDM would leave it.")
def main(size: str, folder: Path, variant: str | None) -> None:
    """Write a pipeline of the named size into FOLDER, fp16 safetensors."""
    folder.mkdir(parents=True)
    write(pruned(SIZES[size], variant) if variant else SIZES[size], folder)
    click.echo(f"{size}: {folder}")


if __name__ == "__main__":
    main()
