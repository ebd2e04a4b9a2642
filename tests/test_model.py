import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from edgesafe import model
from edgesafe.errors import EdgeSafeError


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "model"))


@pytest.mark.parametrize("fixture", ["tiny_sd1", "tiny_sd2"])
def test_saved_folders_are_stock_pipelines(fixture: str, request: pytest.FixtureRequest, tmp_path: Path):
    net = model.load(request.getfixturevalue(fixture))
    model.save(net, tmp_path / "saved", torch.float32)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert all(torch.equal(a, b) for a, b in zip(stock.unet.parameters(), net.unet.parameters(), strict=True))
    assert stock.scheduler.config.prediction_type == net.prediction_type
    assert net.picture_size == 64
    again = model.load(tmp_path / "saved")
    assert torch.equal(model.encode(again, ["red apple"]), model.encode(net, ["red apple"]))
    torch.testing.assert_close(model.alphas_cumprod(net), stock.scheduler.alphas_cumprod)


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_conditions_are_diffusers_own(tiny_sdxl: Path, tmp_path: Path, zeros: bool):
    folder = copied(tiny_sdxl, tmp_path)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": zeros}))
    net, stock = model.load(folder), StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    prompts = ["red apple", "shark neon style"]
    states, pooled, ids = model.conditions(net, prompts, (64, 96))
    empty = model.conditions(net, [""])
    with torch.no_grad():
        their, their_empty, their_pooled, their_empty_pooled = stock.encode_prompt(prompts, do_classifier_free_guidance=True)
    for ours, theirs in ((states, their), (pooled, their_pooled)):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in ((empty[0], their_empty[:1]), (empty[1], their_empty_pooled[:1])):
        torch.testing.assert_close(ours, theirs)
        assert bool(ours.any()) is not zeros
    assert ids.tolist() == [[64, 96, 0, 0, 64, 96]] * 2 and empty[2].tolist() == [[64, 64, 0, 0, 64, 64]]
    assert torch.equal(model.encode(net, prompts), states)


def test_saved_sdxl_folders_are_stock_pipelines(tiny_sdxl: Path, tmp_path: Path):
    net = model.load(tiny_sdxl)
    net.zero_empty = False
    model.save(net, tmp_path / "saved", torch.float32)
    stock, again = StableDiffusionXLPipeline.from_pretrained(tmp_path / "saved", local_files_only=True), model.load(tmp_path / "saved")
    assert stock.config.force_zeros_for_empty_prompt is False and again.zero_empty is False
    assert stock.tokenizer_2.pad_token == again.tokenizer_2.pad_token == "!"
    for name, module in net.modules().items():
        ours, theirs = module.state_dict(), getattr(stock, name).state_dict()
        assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for one, other in zip(model.conditions(again, ["red apple", ""]), model.conditions(net, ["red apple", ""]), strict=True):
        assert torch.equal(one, other)


def test_sdxl_is_sketched(tiny_sdxl: Path):
    outline = model.sketch(tiny_sdxl)
    assert set(outline.modules()) == {"text_encoder", "text_encoder_2", "unet", "vae"}
    assert {p.device.type for module in outline.modules().values() for p in module.parameters()} == {"meta"}


def test_half_precision_leaves_the_models_own_parts_alone(tiny_sd1: Path, tmp_path: Path):
    net = model.load(tiny_sd1)
    model.save(net, tmp_path / "half")
    assert net.unet.dtype == torch.float32
    assert model.load(tmp_path / "half", torch.float16).unet.dtype == torch.float16


def test_a_run_is_its_model(tiny_sd1: Path, tmp_path: Path):
    copied(tiny_sd1, tmp_path)
    assert model.resolve(tmp_path) == tmp_path / "model"
    assert model.resolve("owner/name") == "owner/name"


def test_pickled_weights_are_refused_by_name(tiny_sd1: Path, tmp_path: Path):
    folder = copied(tiny_sd1, tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(EdgeSafeError, match=r"diffusion_pytorch_model\.bin: a pickle can run code"):
        model.load(folder)


def test_a_pickled_twin_is_left_alone(tiny_sd1: Path, tmp_path: Path):
    folder = copied(tiny_sd1, tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    model.load(folder)


def test_damaged_weights_are_named(tiny_sd1: Path, tmp_path: Path):
    folder = copied(tiny_sd1, tmp_path)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EdgeSafeError, match="vae: not readable as AutoencoderKL"):
        model.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "FluxPipeline"},
            "unknown pipeline class 'FluxPipeline'; known: StableDiffusionPipeline, StableDiffusionXLPipeline",
        ),
        ({"unet": ["diffusers", "UNet2DModel"]}, "unet is a UNet2DModel; EdgeSafe reads UNet2DConditionModel"),
    ],
)
def test_unknown_classes(tiny_sd1: Path, tmp_path: Path, change: dict, message: str):
    folder = copied(tiny_sd1, tmp_path)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(EdgeSafeError, match=message):
        model.load(folder)


def test_places_that_hold_no_pipeline(tmp_path: Path):
    with pytest.raises(EdgeSafeError, match="no model_index.json, so not a pipeline folder"):
        model.load(tmp_path)
    with pytest.raises(EdgeSafeError, match="no such folder, and not a Hugging Face id"):
        model.load(tmp_path / "nothing")
    with pytest.raises(EdgeSafeError, match="known: emoji:teacher, emoji:student"):
        model.load("emoji:judge")
    (tmp_path / "config.json").touch()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(EdgeSafeError, match="did not finish. Go on with: edgesafe train --resume"):
        model.load(tmp_path)


def test_the_hub_out_of_reach():
    with pytest.raises(EdgeSafeError, match="nobody/nothing: no such folder, and the Hugging Face hub did not give it"):
        model.load("nobody/nothing")
