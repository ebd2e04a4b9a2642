"""The two halves of a UNet against the whole one, in torch and as saved packages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from edgesafe import model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, chunks, mlprogram, parity
from edgesafe.export.coreml import CHUNKS, CoreML
from edgesafe.mil.parts import CoreMLParts

SHAPE: dict[str, Any] = dict(block_out_channels=(16, 32, 48, 48), norm_num_groups=8, cross_attention_dim=32, attention_head_dim=4)
KINDS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": dict(attention_head_dim=(2, 4, 6, 6), use_linear_projection=True),
    "base": dict(layers_per_block=1),  # depth-pruned as in BK-SDM
    "small": dict(layers_per_block=1, mid_block_type=None),
    "tiny": dict(
        layers_per_block=1,
        mid_block_type=None,
        block_out_channels=(16, 32, 48),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    ),
    "xl": dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
        transformer_layers_per_block=(1, 1, 2, 2),
    ),
}


def unet_of(kind: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=8, **{**SHAPE, **KINDS[kind]}).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(8, 8), (8, 9)])
def test_one_after_the_other_they_are_the_unet(kind: str, sides: tuple[int, int]) -> None:
    unet = unet_of(kind)
    x, t, text = torch.randn(2, 4, *sides), torch.tensor([7.0, 7.0]), torch.randn(2, 32, 1, 77)
    added = (torch.randn(2, 20), torch.randn(2, 6)) if kind == "xl" else ()
    conditions = dict(zip(("text_embeds", "time_ids"), added, strict=bool(added)))
    whole = unet(x, t, text.squeeze(2).transpose(1, 2), added_cond_kwargs=conditions).sample
    first, second, cut = chunks.split(unet, sides)
    assert torch.equal(second(text, *first(x, t, text, *added)), whole) and second.reads_text
    assert sum(cut.weights) == sum(p.numel() for p in unet.parameters())
    assert 0.4 < cut.weights[0] / sum(cut.weights) < 0.6


def test_every_cut_gives_the_unet_even_where_the_second_half_reads_no_text() -> None:
    unet = unet_of("tiny")
    row = chunks.layers(unet)
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([7.0]), torch.randn(1, 32, 1, 77)
    whole = unet(x, t, text.squeeze(2).transpose(1, 2)).sample
    for cut in range(1, len(row)):
        first, second = chunks.Chunk1(unet, row[:cut], False, True), chunks.Chunk2(unet, row[cut:], False, True)
        assert torch.equal(second(*([text] if second.reads_text else []), *first(x, t, text)), whole)
    assert not second.reads_text


def test_blocks_that_are_not_known_are_refused_before_any_work() -> None:
    types = dict(down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"))
    unet = UNet2DConditionModel(sample_size=8, **{**SHAPE, "block_out_channels": (16, 32)}, **types)
    with pytest.raises(EdgeSafeError, match=r"--chunked: this UNet has a AttnDownBlock2D; known: DownBlock2D, .* Leave --chunked out"):
        chunks.split(unet, (8, 8))
    unet = unet_of("sd1")
    unet.register_to_config(class_embed_type="timestep")
    with pytest.raises(EdgeSafeError, match="--chunked: this UNet has class_embed_type"):
        chunks.split(unet, (8, 8))


def small(folder: Path) -> model.TextToImage:
    """The pipeline with a UNet of two levels, which converts in seconds."""
    loaded = model.load(folder)
    levels = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    heads = loaded.unet.config.attention_head_dim
    heads = heads if isinstance(heads, int) else heads[:2]
    changes = dict(layers_per_block=1, block_out_channels=(16, 32), attention_head_dim=heads)
    torch.manual_seed(0)
    loaded.unet = type(loaded.unet).from_config({**loaded.unet.config, **changes, **levels}).eval().requires_grad_(False)
    return loaded


def written(config: ExportConfig, loaded: model.TextToImage, folder: Path) -> CoreMLParts:
    """The UNet alone."""
    target = CoreML.plan(config, loaded)
    for file, part in target.packages_of("unet", loaded).items():
        mlprogram.convert(part.module, part.inputs, part.outputs, target.precision, target.deployment, folder / file, part.lowerings)
        mlprogram.check(folder / file, part.inputs, part.outputs)
    return CoreMLParts(folder, target.batch)


def agreement(parts: CoreMLParts, loaded: model.TextToImage, sides: tuple[int, int]) -> float:
    """dB against torch at a late and an early timestep."""
    torch.manual_seed(1)
    sample, text = torch.randn(2, 4, *sides), torch.randn(2, 77, loaded.unet.config.cross_attention_dim)
    found = []
    for time in (3, 981):
        reference = loaded.unet(sample, torch.tensor(time), text).sample
        found.append(parity.compare("unet", reference, parts.unet(sample, torch.tensor(time), text))[0])
    return min(found)


def test_saved_and_evaluated_they_are_the_unet(tiny_sd1: Path, tmp_path: Path) -> None:
    loaded = small(tiny_sd1)
    config = ExportConfig(target="coreml", deployment="iOS16", chunked=True, batch=2, height=64, width=72)
    assert 50 < agreement(written(config, loaded, tmp_path), loaded, (8, 9)) < 100
    assert sorted(path.name for path in tmp_path.iterdir()) == list(CHUNKS)
    target = CoreML.plan(config, loaded)
    assert target.files("unet") == CHUNKS and target.facts(loaded)["chunked"] is True
    weights = [(tmp_path / name / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for name in CHUNKS]
    assert 0.4 < weights[0] / sum(weights) < 0.6


def test_mixed_bits_of_a_cut_unet_are_refused(tiny_sd1: Path) -> None:
    with pytest.raises(EdgeSafeError, match="--mixed measures each layer in the whole UNet, and --chunked cuts it in two"):
        CoreML.plan(ExportConfig(target="coreml", chunked=True, mixed="40dB"), model.load(tiny_sd1))
