"""Attention in Apple's form for the Neural Engine against diffusers' own."""

from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, chunks, mlprogram, split_einsum
from edgesafe.export.coreml import CoreML
from edgesafe.export.mlpackage import Package

from .test_chunks import KINDS, agreement, small, unet_of, written


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_unet(kind: str) -> None:
    unet = unet_of(kind)
    x, t, text = torch.randn(2, 4, 8, 9), torch.tensor([7.0, 7.0]), torch.randn(2, 32, 1, 77)
    conditions = dict(text_embeds=torch.randn(2, 20), time_ids=torch.randn(2, 6)) if kind == "xl" else {}
    whole = unet(x, t, text.squeeze(2).transpose(1, 2), added_cond_kwargs=conditions).sample
    made = split_einsum.rewritten(unet)
    torch.testing.assert_close(made(x, t, text, added_cond_kwargs=conditions).sample, whole, atol=1e-5, rtol=1e-5)
    first, second, _ = chunks.split(made, (8, 9), transposed=False)
    halves = second(text, *first(x, t, text, *conditions.values()))
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=1e-5)


def test_weights_keep_their_names_and_memory_and_the_unet_its_layers() -> None:
    unet = unet_of("sd1")
    made = split_einsum.rewritten(unet)
    ours, theirs = dict(made.named_parameters()), dict(unet.named_parameters())
    assert set(ours) == set(theirs) and all(ours[name].data_ptr() == theirs[name].data_ptr() for name in theirs)
    linear = [name for name, module in made.named_modules() if isinstance(module, torch.nn.Linear) and "transformer" in name]
    assert not linear and any(isinstance(m, torch.nn.Linear) for m in unet.down_blocks[0].attentions.modules())


def test_saved_and_evaluated_it_is_the_unet(tiny_sd2: Path, tmp_path: Path) -> None:
    loaded = small(tiny_sd2)
    asked = dict(deployment="iOS16", attention="split-einsum", batch=1, own_scheduler=True)
    config = ExportConfig(target="coreml", height=72, width=64, **asked)
    assert 50 < agreement(written(config, loaded, tmp_path), loaded, (9, 8)) < 100
    operations = mlprogram.operations(Package(tmp_path / "Unet.mlpackage").spec)
    heads = 3 * 2 * 2  # attention layers; products and heads of each: coremltools may write a product as einsum or matmul
    assert operations["einsum"] + operations["matmul"] >= heads and not operations["scaled_dot_product_attention"]
    assert operations["linear"] == 10  # two of the time embedding, one in each resnet


def test_notes_and_manifest_say_that_its_speed_was_not_measured(tiny_sd1: Path) -> None:
    loaded = model.load(tiny_sd1)
    target = CoreML.plan(ExportConfig(target="coreml", attention="split-einsum"), loaded)
    assert split_einsum.NOTE in target.notes(loaded) and "speed was not measured" in split_einsum.NOTE
    assert target.facts(loaded)["attention"] == {"form": "split-einsum", "note": split_einsum.NOTE}


def test_attention_of_another_kind_is_refused_by_its_place() -> None:
    unet = unet_of("sd1")
    unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.rescale_output_factor = 2.0
    with pytest.raises(EdgeSafeError, match=r"split-einsum: unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1 is .* Leave"):
        split_einsum.rewritten(unet)
    unet = unet_of("sd1")
    unet.mid_block.attentions[0].transformer_blocks[0].ff.net[0] = torch.nn.GELU()
    with pytest.raises(EdgeSafeError, match=r"mid_block.attentions.0.transformer_blocks.0 is a GELU feed-forward"):
        split_einsum.rewritten(unet)
