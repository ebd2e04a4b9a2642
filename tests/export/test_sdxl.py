"""Stable Diffusion XL through every target: against torch, through Optimum's own pipeline, and in Apple's names."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgesafe import artifact, model
from edgesafe.export import ExportConfig, apple, mlprogram, run, split_einsum, wrappers
from edgesafe.export.coreml import CoreML
from edgesafe.export.onnx import Onnx

PARTS = {"text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"}
TEXT = ["batch_size", "sequence_length"]


def exported(pipeline: Path, folder: Path, target: str, precision: str | None = None, **asked: Any) -> Path:
    return run(ExportConfig(str(pipeline), target, precision, folder, parity_steps=2, **asked))


@pytest.fixture(scope="module")
def onnx_xl(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {precision: exported(tiny_sdxl, folder / precision, "onnx", precision) for precision in ("fp32", "fp16")}


@pytest.fixture(scope="module")
def coreml_xl(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_sdxl, tmp_path_factory.mktemp("coreml") / "x", "coreml")


def pictures(folder: Path, latents: torch.Tensor, optimum: bool) -> np.ndarray:
    """(N, H, W, 3) in [0, 1] by the stock pipelines of diffusers and of Optimum, with the folder's own scheduler."""
    from diffusers import StableDiffusionXLPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if optimum:
            from optimum.onnxruntime import ORTStableDiffusionXLPipeline as Pipeline
        else:
            Pipeline = StableDiffusionXLPipeline
        pipe = Pipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        height, width = (4 * side for side in latents.shape[2:])
        asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
        prompts = ["red apple", "shark neon style"][: len(latents)]
        return pipe(prompts, height=height, width=width, latents=latents.clone(), **asked).images


@pytest.mark.parametrize(("precision", "levels"), [("fp32", 0.1), ("fp16", 4)])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 4, 24, 16)])
def test_optimum_draws_what_torch_draws(
    onnx_xl: dict[str, Path], tiny_sdxl: Path, precision: str, levels: float, shape: tuple[int, ...]
) -> None:
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    ours, torchs = pictures(onnx_xl[precision], latents, True), pictures(tiny_sdxl, latents, False)
    assert torchs.std() > 0.01
    np.testing.assert_allclose(ours, torchs, atol=levels / 255)


def test_names_and_dynamic_sizes_are_those_of_optimums_export(onnx_xl: dict[str, Path]) -> None:
    states = {f"hidden_states.{i}": [*TEXT, 16] for i in range(3)}
    states_2 = {f"hidden_states.{i}": [*TEXT, 24] for i in range(4)}
    meant = {
        "text_encoder": ({"input_ids": TEXT}, {"last_hidden_state": [*TEXT, 16], "pooler_output": ["batch_size", 16], **states}),
        "text_encoder_2": ({"input_ids": TEXT}, {"text_embeds": ["batch_size", 20], "last_hidden_state": [*TEXT, 24], **states_2}),
        "unet": (
            {
                "sample": ["batch_size", 4, "height", "width"],
                "timestep": [],
                "encoder_hidden_states": [*TEXT, 40],
                "text_embeds": ["batch_size", 20],
                "time_ids": ["batch_size", 6],
            },
            {"out_sample": ["batch_size", 4, "height", "width"]},
        ),
    }
    for part, names in meant.items():
        graph = onnx.load(onnx_xl["fp32"] / part / "model.onnx").graph
        for values, expected in zip((graph.input, graph.output), names, strict=True):
            found = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
            assert found == expected and list(found) == list(expected), part
    index = json.loads((onnx_xl["fp32"] / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"] is True


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_manifest_compares_both_text_encoders_and_the_picture(onnx_xl: dict[str, Path], precision: str) -> None:
    made = artifact.read(onnx_xl[precision])
    rows = made.parity["components"]
    assert set(rows) == PARTS and made.parity["picture"]["max_levels"] <= (0 if precision == "fp32" else 2)
    assert all(row["psnr_db"] > (110 if precision == "fp32" else 55) for row in rows.values())
    assert made.parity["tokenizer"]["equal"] == 1000


def test_a_vae_that_overflows_fp16_stays_fp32(onnx_xl: dict[str, Path], tiny_sdxl: Path, tmp_path: Path) -> None:
    assert artifact.read(onnx_xl["fp16"]).target["fp32_parts"] == ["vae_encoder", "vae_decoder"]
    assert artifact.read(onnx_xl["fp16"]).parity["components"]["vae_decoder"]["psnr_db"] > 110
    loaded = model.load(tiny_sdxl)
    assert loaded.vae_overflows
    loaded.vae.register_to_config(force_upcast=False)
    target = CoreML.plan(ExportConfig(target="coreml"), loaded)
    assert target.packages_of("vae_decoder", loaded)["VAEDecoder.mlpackage"].precision == "fp16"
    assert Onnx.plan(ExportConfig(target="onnx", precision="fp16"), loaded).facts(loaded)["fp32_parts"] == []


def test_int8_narrows_both_text_encoders(tiny_sdxl: Path, tmp_path: Path) -> None:
    made = artifact.read(exported(tiny_sdxl, tmp_path / "x", "onnx", quantize="int8"))
    parts = made.target["compression"]["parts"]
    assert set(parts) == PARTS - {"vae_encoder"}
    assert all(35 <= made.parity["components"][part]["psnr_db"] < 90 for part in parts)
    assert parts["text_encoder_2"]["int8_layers"] > 0


@pytest.mark.openvino
def test_openvino_computes_what_torch_computes(tiny_sdxl: Path, tmp_path: Path) -> None:
    made = artifact.read(exported(tiny_sdxl, tmp_path / "x", "openvino"))
    assert set(made.parity["components"]) == PARTS and made.parity["picture"]["max_levels"] <= 1
    assert all(row["psnr_db"] > 100 for row in made.parity["components"].values())


def ports(folder: Path, name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    described = mlprogram._coremltools().utils.load_spec(str(folder / f"{name}.mlpackage")).description
    inputs, outputs = ({row.name: tuple(row.type.multiArrayType.shape) for row in rows} for rows in (described.input, described.output))
    return inputs, outputs


def test_core_ml_names_and_layouts_are_apples(coreml_xl: Path) -> None:
    ids = {"input_ids": (1, 77)}
    assert ports(coreml_xl, "TextEncoder") == (ids, {"hidden_embeds": (1, 77, 16), "pooled_outputs": (1, 16)})
    assert ports(coreml_xl, "TextEncoder2") == (ids, {"hidden_embeds": (1, 77, 24), "pooled_outputs": (1, 20)})
    inputs = {"sample": (2, 4, 16, 16), "timestep": (2,), "encoder_hidden_states": (2, 40, 1, 77)}
    assert ports(coreml_xl, "Unet") == ({**inputs, "text_embeds": (2, 20), "time_ids": (2, 6)}, {"noise_pred": (2, 4, 16, 16)})
    made = artifact.read(coreml_xl)
    rows = made.parity["components"]
    assert set(rows) == PARTS - {"vae_encoder"} and made.parity["picture"]["max_levels"] <= 2
    assert (
        all(55 < rows[part]["psnr_db"] < 90 for part in ("text_encoder", "text_encoder_2", "unet")) and rows["vae_decoder"]["psnr_db"] > 110
    )
    assert made.target["pad_tokens"] == ["<|endoftext|>", "!"] and made.target["force_zeros_for_empty_prompt"] is True


def test_time_ids_of_1024_keep_their_angles_in_fp16(coreml_xl: Path) -> None:
    """In fp16 1024 times a frequency goes in steps of up to 0.5; sine and cosine of both embeddings stay fp32."""
    spec = mlprogram._coremltools().utils.load_spec(str(coreml_xl / "Unet.mlpackage"))
    waves = [op for op in mlprogram.main_block(spec).operations if op.type in ("sin", "cos")]
    assert len(waves) == 4
    assert {output.type.tensorType.dataType for op in waves for output in op.outputs} == {11}  # MIL's FLOAT32


def test_core_ml_in_two_chunks_of_eight_bits(tiny_sdxl: Path, tmp_path: Path) -> None:
    made = artifact.read(exported(tiny_sdxl, tmp_path / "x", "coreml", chunked=True, quantize="int8"))
    assert set(made.target["compression"]["parts"]) == {"text_encoder", "text_encoder_2", "unet"}
    assert all(row["psnr_db"] > 35 for row in made.parity["components"].values())


def test_split_einsum_is_the_unet(tiny_sdxl: Path) -> None:
    loaded = model.load(tiny_sdxl)
    x, t, given = torch.randn(2, 4, 16, 16), torch.tensor([481.0, 481.0]), model.conditions(loaded, ["red apple", "shark"])
    whole = model.predict(loaded, x, t, *given)
    made = wrappers.Unet(split_einsum.rewritten(loaded.unet))(x, t, given[0].transpose(1, 2).unsqueeze(2), *given[1:])
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=1e-5)


def test_notes_name_what_apples_package_does_otherwise(tiny_sdxl: Path) -> None:
    loaded = model.load(tiny_sdxl)
    text = "\n".join(apple.notes(loaded, 2, (64, 64)))
    assert "gives the UNet zeros; Apple's Swift package encodes the empty text" in text
    assert "64 x 64, where Apple's Swift package says 1024 x 1024" in text and "pads with" not in text
    loaded.zero_empty, loaded.tokenizer_2.pad_token = False, "<|endoftext|>"
    text = "\n".join(apple.notes(loaded, 2, (1024, 1024)))
    assert "empty text" not in text and "1024" not in text and "pads with '<|endoftext|>'; Apple's Swift tokenizer pads with '!'" in text
