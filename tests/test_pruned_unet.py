"""A narrower UNet as a stock pipeline's part: saved, and read again by diffusers and by EdgeSafe."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

import edgesafe
from edgesafe import model
from edgesafe.errors import EdgeSafeError
from edgesafe.pruned_unet import PrunedUNet2DConditionModel
from edgesafe.pruners.units import groups
from edgesafe.pruners.width import cut

FRESH = """
import sys
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
print(type(pipeline.unet).__module__, type(pipeline.unet).__name__, len(pipeline.unet.config.widths))
"""
LAZY = "import edgesafe, sys; dir(edgesafe); print(sorted({'torch', 'diffusers'} & set(sys.modules)))"


def halved(unet: UNet2DConditionModel) -> PrunedUNet2DConditionModel:
    """Every other unit of each group."""
    return cut(unet, {group.name: torch.arange(0, group.count, 2) for group in groups(unet)}).unet


def answer(net: model.TextToImage) -> torch.Tensor:
    x, t = torch.randn(2, *net.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 500])
    with torch.no_grad():
        return model.predict(net, x, t, *model.conditions(net, ["a cat", "a red apple"]))


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, model.TextToImage]:
    """A pipeline folder with a narrower UNet, and what was saved."""
    folder = tmp_path_factory.mktemp("narrow") / "model"
    net = model.load(request.getfixturevalue(request.param))
    net.unet = halved(net.unet)
    model.save(net, folder, torch.float32)
    return folder, net


def test_the_class_alone_comes_back_as_it_was_saved(tiny_sd1: Path, tmp_path: Path) -> None:
    unet = halved(model.load(tiny_sd1).unet)
    unet.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "PrunedUNet2DConditionModel"
    assert config["widths"]["down_blocks.0.resnets.0.resnet"] == 4 and config["block_out_channels"] == [16, 32, 48, 48]
    again = PrunedUNet2DConditionModel.from_pretrained(tmp_path)
    assert type(again) is PrunedUNet2DConditionModel and again.config.widths == unet.config.widths
    assert again.state_dict().keys() == unet.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), unet.state_dict().values(), strict=True))
    rebuilt = PrunedUNet2DConditionModel.from_config(unet.config)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in unet.state_dict().items()}


def test_a_pipeline_is_read_by_diffusers_and_by_edgesafe(saved: tuple[Path, model.TextToImage]) -> None:
    folder, net = saved
    assert json.loads((folder / "model_index.json").read_text())["unet"] == ["edgesafe", "PrunedUNet2DConditionModel"]
    assert not [p for p in folder.rglob("*") if p.suffix in model.PICKLES]
    before = answer(net)
    stock = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert isinstance(stock.unet, PrunedUNet2DConditionModel)
    for unet in (stock.unet, model.load(folder).unet, copy.deepcopy(net.unet)):
        other = copy.copy(net)
        other.unet = unet.eval()
        assert all(torch.equal(a, b) for a, b in zip(unet.state_dict().values(), net.unet.state_dict().values(), strict=True))
        assert torch.allclose(answer(other), before, atol=1e-5)
    outline = model.sketch(folder).unet
    assert {k: v.shape for k, v in outline.state_dict().items()} == {k: v.shape for k, v in net.unet.state_dict().items()}


def test_half_precision_files_are_read_wide(tiny_sd1: Path, tmp_path: Path) -> None:
    net = model.load(tiny_sd1)
    net.unet = halved(net.unet)
    model.save(net, tmp_path / "model")
    again = model.load(tmp_path / "model").unet
    assert all(torch.equal(b, a.half().float()) for a, b in zip(net.unet.parameters(), again.parameters(), strict=True))


def test_a_fresh_process_that_knows_diffusers_alone(saved: tuple[Path, model.TextToImage]) -> None:
    folder, net = saved
    run = subprocess.run([sys.executable, "-c", FRESH, str(folder)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["edgesafe", "PrunedUNet2DConditionModel", str(len(net.unet.config.widths))]


def test_importing_edgesafe_costs_no_torch() -> None:
    run = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert edgesafe.PrunedUNet2DConditionModel is PrunedUNet2DConditionModel
    assert issubclass(PrunedUNet2DConditionModel, edgesafe.ModelMixin)


def test_attention_slicing_knows_the_heads_that_are_left(tiny_sd1: Path) -> None:
    net = model.load(tiny_sd1)
    net.unet = halved(net.unet)
    whole = answer(net)
    net.unet.set_attention_slice("max")
    assert torch.allclose(answer(net), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"down_blocks.7.resnets.0.resnet": 1}, "no group 'down_blocks.7.resnets.0.resnet'"),
        ({"down_blocks.0.resnets.0.resnet": 0}, "is 0, needs 1 to 8 units"),
        ({"down_blocks.0.resnets.0.resnet": 9}, "is 9, needs 1 to 8 units"),
        ({"down_blocks.0.resnets.0.resnet": 2.5}, "is 2.5, needs 1 to 8 units"),
    ],
)
def test_a_damaged_config_is_refused_by_name(widths: dict, message: str, tiny_sd1: Path, tmp_path: Path) -> None:
    net = model.load(tiny_sd1)
    net.unet = halved(net.unet)
    model.save(net, tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"widths": widths}))
    with pytest.raises(EdgeSafeError, match=message):
        model.load(tmp_path / "model")
