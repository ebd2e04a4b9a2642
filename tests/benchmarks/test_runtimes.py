"""One contract for every runtime, on the tiny pipeline; and the same pictures from all of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import model, sampling
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.runtimes.runtime import Runtime, latent_shape
from edgesafe.errors import EdgeSafeError

PROMPTS, SEEDS = ["red apple neon style", "shark", "red apple neon style"], [3, 4, 5]


@pytest.fixture(scope="module")
def opened(run_folder: Path, onnx_folder: Path) -> dict[str, Runtime]:
    return {"torch": runtimes.load(run_folder, "torch"), "onnxruntime": runtimes.load(onnx_folder, "onnxruntime")}


def test_every_runtime_is_tried(opened: dict[str, Runtime]) -> None:
    assert set(opened) == set(runtimes.RUNTIMES) == {cls.name for cls in runtimes.RUNTIMES.values()}


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_pictures_do_not_depend_on_the_batch(opened: dict[str, Runtime], name: str) -> None:
    done: list[int] = []
    together = opened[name].generate(PROMPTS, SEEDS, steps=3, progress=done.append)
    alone = opened[name].generate(PROMPTS, SEEDS, steps=3, batch=1)
    assert together.shape == (3, 64, 64, 3)
    assert together.dtype == np.uint8
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert done == [3]
    assert not np.array_equal(together[0], together[2]), "the same prompt from another seed is another picture"


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_each_part_equals_the_model(opened: dict[str, Runtime], name: str, run_folder: Path) -> None:
    runtime, reference = opened[name], model.load(run_folder)
    states = runtime.states([*PROMPTS, ""])
    assert torch.allclose(states, model.encode(reference, [*PROMPTS, ""]), atol=1e-4)
    z = sampling.starting_latents([0, 1], runtime.latent_shape)
    t = torch.tensor(481)
    with torch.no_grad():
        assert torch.allclose(runtime.unet_call(z, t, states[:2]), reference.unet(z, t, states[:2]).sample, atol=1e-4)
        decoded = reference.vae.decode(z / reference.vae.config.scaling_factor).sample
    assert torch.allclose(runtime.decode(z), decoded, atol=1e-4)


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_kept_states_survive_the_next_prompts(opened: dict[str, Runtime], name: str) -> None:
    before = opened[name].states(["a new prompt"]).clone()
    opened[name].states(["another", "and one more"])
    assert torch.equal(opened[name].states(["a new prompt"]), before)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_runtimes_draw_the_same_pictures(opened: dict[str, Runtime], guidance: float, sampler: str) -> None:
    drawn = [r.pixels(PROMPTS, SEEDS, steps=4, guidance=guidance, sampler=sampler) for r in opened.values()]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_words_past_the_tokenizers_length(opened: dict[str, Runtime], name: str) -> None:
    assert opened[name].words_cut("red apple " * 30) == ""
    assert opened[name].words_cut("red apple " * 37 + "red shark pizza") == "shark pizza"


def test_load_picks_the_runtime_that_can(run_folder: Path, onnx_folder: Path) -> None:
    assert runtimes.load(run_folder).name == "torch"
    assert runtimes.load(onnx_folder).name == "onnxruntime"


def test_wrong_runtimes_are_named(run_folder: Path, onnx_folder: Path) -> None:
    with pytest.raises(EdgeSafeError, match="--runtime: unknown runtime 'openvino'; known: onnxruntime, torch"):
        runtimes.load(run_folder, "openvino")
    with pytest.raises(EdgeSafeError, match="--runtime onnxruntime: .* is no ONNX export"):
        runtimes.load(run_folder, "onnxruntime")
    with pytest.raises(EdgeSafeError, match="--runtime torch: .* holds no torch weights"):
        runtimes.load(onnx_folder, "torch")


def test_a_core_ml_export_says_why_it_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "Resources" / "Unet.mlpackage").mkdir(parents=True)
    with pytest.raises(EdgeSafeError, match="no runtime here can draw with it: .* is a Core ML export, which runs on Apple's"):
        runtimes.load(tmp_path)


@pytest.mark.parametrize(("file", "message"), [("unet/model.onnx", "cannot load it"), ("unet/config.json", "not valid JSON")])
def test_a_damaged_file_is_named(onnx_folder: Path, tmp_path: Path, file: str, message: str) -> None:
    shutil.copytree(onnx_folder, tmp_path / "x")
    (tmp_path / "x" / file).write_bytes(b"not what it was")
    with pytest.raises(EdgeSafeError, match=f"{file}.*{message}"):
        runtimes.load(tmp_path / "x")


def test_a_missing_config_is_named(onnx_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(onnx_folder, tmp_path / "x")
    (tmp_path / "x" / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(EdgeSafeError, match="scheduler_config.json: no such file"):
        runtimes.load(tmp_path / "x")


def test_latent_shape_of_square_and_other_models() -> None:
    assert latent_shape({"in_channels": 4, "sample_size": 64}) == (4, 64, 64)
    assert latent_shape({"in_channels": 8, "sample_size": [8, 12]}) == (8, 8, 12)


def test_one_seed_a_prompt(opened: dict[str, Runtime]) -> None:
    with pytest.raises(ValueError, match="3 prompts and 2 seeds"):
        opened["torch"].generate(PROMPTS, SEEDS[:2])
