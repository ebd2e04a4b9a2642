"""One contract for every runtime, on the tiny pipeline; and the same pictures from all of them."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import artifact, model, sampling
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.peers import PEERS
from edgesafe.benchmarks.runtimes.layout_runtime import Words
from edgesafe.benchmarks.runtimes.runtime import Runtime, latent_shape
from edgesafe.errors import EdgeSafeError

PROMPTS, SEEDS = ["red apple neon style", "shark", "red apple neon style"], [3, 4, 5]


@pytest.fixture(scope="module")
def coreml_folder(run_folder: Path) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(run_folder), "coreml", "fp32", parity_steps=1))


@pytest.fixture(scope="module")
def openvino_folder(run_folder: Path) -> Path:
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(run_folder), "openvino", "fp32", parity_steps=1))


@pytest.fixture(scope="module")
def opened(run_folder: Path, onnx_folder: Path, coreml_folder: Path, openvino_folder: Path) -> dict[str, Runtime]:
    folders = {"torch": run_folder, "onnxruntime": onnx_folder, "coreml": coreml_folder, "openvino": openvino_folder}
    return {name: runtimes.load(folder, name) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def peers(run_folder: Path, onnx_folder: Path) -> dict[str, Runtime]:
    """Others' own pipelines, on the same files."""
    folders = {"optimum": onnx_folder, "diffusers": run_folder}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        return {name: PEERS[name].open(folder) for name, folder in folders.items()}


def test_every_runtime_is_tried(opened: dict[str, Runtime], peers: dict[str, Runtime]) -> None:
    assert set(opened) == set(runtimes.RUNTIMES) == {cls.name for cls in runtimes.RUNTIMES.values()}
    assert set(peers) == set(PEERS) == {cls.name for cls in PEERS.values()}


@pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", PEERS)
def test_peers_draw_the_same_pictures(opened: dict[str, Runtime], peers: dict[str, Runtime], name: str, guidance: float) -> None:
    ours, theirs = (one.pixels(PROMPTS, SEEDS, steps=4, guidance=guidance) for one in (opened["onnxruntime"], peers[name]))
    assert theirs.shape == ours.shape
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")
@pytest.mark.parametrize("name", PEERS)
def test_each_part_of_a_peer_is_ours(opened: dict[str, Runtime], peers: dict[str, Runtime], name: str) -> None:
    (states,), t = opened["onnxruntime"].encode(PROMPTS), torch.tensor(481)
    z = sampling.starting_latents(SEEDS, opened["torch"].latent_shape)
    assert torch.allclose(peers[name].encode(PROMPTS)[0], states, atol=1e-4)
    assert torch.allclose(peers[name].unet_call(z, t, states), opened["onnxruntime"].unet_call(z, t, states), atol=1e-4)
    assert torch.allclose(peers[name].decode(z), opened["onnxruntime"].decode(z), atol=1e-4)


ODD = ["", "Red  Apple, 3 sharks' don't-stop!", "schön « naïve » 1½", "<|endoftext|> apple", "a\tb\nc", "red apple " * 60]


@pytest.mark.parametrize("prompt", ODD)
def test_every_runtime_reads_the_same_tokens(opened: dict[str, Runtime], prompt: str) -> None:
    expected = opened["torch"].encode([prompt])[0]
    for name in ("onnxruntime", "openvino"):
        assert torch.allclose(opened[name].encode([prompt])[0], expected, atol=1e-4), name


def test_plain_words_need_no_transformers(onnx_folder: Path) -> None:
    words = Words(onnx_folder / "tokenizer")
    prompts = ["red apple", "", "Don't 1984 we'll -- stop?! it's, so.", "apple " * 90]
    ids = words(prompts)
    assert "tokenizer" not in vars(words), "transformers' tokenizer was not opened"
    expected = words.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, expected)


def test_drawing_imports_neither_diffusers_nor_transformers(onnx_folder: Path) -> None:
    """They are two fifths of the memory that the first picture takes."""
    code = (
        "import sys; from edgesafe.benchmarks import runtimes; runtimes.load(sys.argv[1]).pixels(['red apple'], [0], steps=2);"
        "print([name for name in ('diffusers', 'transformers', 'optimum') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(onnx_folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    (states,) = runtime.conditions([*PROMPTS, ""])
    assert torch.allclose(states, model.encode(reference, [*PROMPTS, ""]), atol=1e-4)
    z = sampling.starting_latents([0, 1], runtime.latent_shape)
    t = torch.tensor(481)
    with torch.no_grad():
        assert torch.allclose(runtime.unet_call(z, t, states[:2]), reference.unet(z, t, states[:2]).sample, atol=1e-4)
        decoded = reference.vae.decode(z / reference.vae.config.scaling_factor).sample
    assert torch.allclose(runtime.decode(z), decoded, atol=1e-4)


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_kept_states_survive_the_next_prompts(opened: dict[str, Runtime], name: str) -> None:
    before = opened[name].conditions(["a new prompt"])[0].clone()
    opened[name].conditions(["another", "and one more"])
    assert torch.equal(opened[name].conditions(["a new prompt"])[0], before)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_runtimes_draw_the_same_pictures(opened: dict[str, Runtime], guidance: float, sampler: str) -> None:
    first, *others = [r.pixels(PROMPTS, SEEDS, steps=4, guidance=guidance, sampler=sampler) for r in opened.values()]
    assert all((first - other).abs().max() < 1e-3 for other in others)


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_words_past_the_tokenizers_length(opened: dict[str, Runtime], name: str) -> None:
    assert opened[name].words_cut("red apple " * 30) == ""
    assert opened[name].words_cut("red apple " * 37 + "red shark pizza") == "shark pizza"


def test_load_picks_the_runtime_that_can(run_folder: Path, onnx_folder: Path, coreml_folder: Path, openvino_folder: Path) -> None:
    assert runtimes.load(openvino_folder).name == "openvino"
    assert runtimes.load(coreml_folder).name == "coreml"
    assert runtimes.load(run_folder).name == "torch"
    assert runtimes.load(onnx_folder).name == "onnxruntime"


def test_wrong_runtimes_are_named(run_folder: Path, onnx_folder: Path) -> None:
    with pytest.raises(EdgeSafeError, match="--runtime: unknown runtime 'tensorrt'; known: onnxruntime, .*torch"):
        runtimes.load(run_folder, "tensorrt")
    with pytest.raises(EdgeSafeError, match="--runtime onnxruntime: .* is no ONNX export"):
        runtimes.load(run_folder, "onnxruntime")
    with pytest.raises(EdgeSafeError, match="--runtime torch: .* holds no torch weights"):
        runtimes.load(onnx_folder, "torch")


def test_half_a_core_ml_export_says_what_is_missing(coreml_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(coreml_folder, tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "Unet.mlpackage")
    with pytest.raises(EdgeSafeError, match=r"no runtime here can draw with it: .* is no Core ML export \(no Unet.mlpackage\)"):
        runtimes.load(tmp_path / "x")
    (tmp_path / "x" / "UnetChunk1.mlpackage").mkdir()
    with pytest.raises(EdgeSafeError, match=r"no Core ML export \(no UnetChunk2.mlpackage\)"):
        runtimes.load(tmp_path / "x")


def test_a_core_ml_export_without_its_facts(coreml_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(coreml_folder, tmp_path / "x")
    old = artifact.read(tmp_path / "x")
    artifact.seal(tmp_path / "x", artifact.replace(old, target={"name": "coreml", "batch": 2}))
    with pytest.raises(
        EdgeSafeError, match="manifest.json: its target does not say height, width, scaling_factor, scheduler. Export the model again"
    ):
        runtimes.load(tmp_path / "x")


def test_evaluating_core_ml_files_is_never_timed(opened: dict[str, Runtime]) -> None:
    on_mac = sys.platform == "darwin"
    assert (opened["coreml"].untimed is None) == on_mac and opened["torch"].untimed is None and opened["onnxruntime"].untimed is None
    assert opened["coreml"].parts.run == ("predict" if on_mac else "evaluate")


def test_openvino_sends_nothing_home(opened: dict[str, Runtime]) -> None:
    assert sys.modules["openvino_telemetry"] is None and "openvino" in sys.modules


@pytest.mark.parametrize(
    ("file", "message"), [("unet/openvino_model.xml", "cannot load it"), ("vae_decoder/openvino_model.bin", "cannot load it")]
)
def test_a_damaged_openvino_file_is_named(openvino_folder: Path, tmp_path: Path, file: str, message: str) -> None:
    shutil.copytree(openvino_folder, tmp_path / "x")
    (tmp_path / "x" / file).write_bytes(b"not what it was")
    with pytest.raises(EdgeSafeError, match=f"{file.removesuffix('.bin').removesuffix('.xml')}.*{message}"):
        runtimes.load(tmp_path / "x")


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_static_export_draws_any_number_of_pictures(run_folder: Path, tmp_path: Path, opened: dict[str, Runtime], form: str) -> None:
    from edgesafe.export import ExportConfig, run

    fixed = runtimes.load(run(ExportConfig(str(run_folder), form, "fp32", tmp_path / "x", parity_steps=1, static=True)))
    assert fixed.unet.batch == 2 and fixed.vae_decoder.batch == 1
    drawn = [one.pixels(PROMPTS, SEEDS, steps=3) for one in (opened["torch"], fixed)]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3


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


@pytest.mark.parametrize("form", ["onnx", "coreml", "openvino"])
def test_runtimes_draw_the_same_sdxl_pictures(tiny_sdxl: Path, tmp_path: Path, form: str) -> None:
    from edgesafe.export import ExportConfig, run

    folder = run(ExportConfig(str(tiny_sdxl), form, "fp32", tmp_path / "x", parity_steps=1))
    expected, runtime = runtimes.load(tiny_sdxl), runtimes.load(folder)
    given = expected.conditions([*PROMPTS, ""])
    assert [x.shape[1:] for x in given] == [(77, 40), (20,), (6,)] and given[2][0].tolist() == [64, 64, 0, 0, 64, 64]
    for ours, theirs in zip(runtime.conditions([*PROMPTS, ""]), given, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    drawn = [one.pixels(PROMPTS, SEEDS, steps=3) for one in (expected, runtime)]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3 and drawn[0].shape == (3, 3, 64, 64)
