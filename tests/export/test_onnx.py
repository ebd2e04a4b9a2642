"""ONNX exports against torch, through Optimum's own pipeline, and their files."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgesafe import artifact
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, graph, run, wrappers
from edgesafe.export.half import to_half

NAMES = {  # part -> (inputs, outputs), as Optimum's own export has them
    "text_encoder": (
        {"input_ids": ["batch_size", "sequence_length"]},
        {"last_hidden_state": ["batch_size", "sequence_length", 32], "pooler_output": ["batch_size", 32]},
    ),
    "unet": (
        {"sample": ["batch_size", 4, "height", "width"], "timestep": [], "encoder_hidden_states": ["batch_size", "sequence_length", 32]},
        {"out_sample": ["batch_size", 4, "height", "width"]},
    ),
    "vae_encoder": (
        {"sample": ["batch_size", 3, "sample_height", "sample_width"]},
        {"latent_parameters": ["batch_size", 8, "sample_height / 8", "sample_width / 8"]},
    ),
    "vae_decoder": (
        {"latent_sample": ["batch_size", 4, "latent_height", "latent_width"]},
        {"sample": ["batch_size", 3, "latent_height * 8", "latent_width * 8"]},
    ),
}


def pictures(folder: Path, latents: torch.Tensor, optimum: bool) -> np.ndarray:
    """(N, H, W, 3) in [0, 1] by the stock pipelines of diffusers and of Optimum."""
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if optimum:
            from optimum.onnxruntime import ORTStableDiffusionPipeline

            pipe = ORTStableDiffusionPipeline.from_pretrained(folder)
        else:
            pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        height, width = (8 * side for side in latents.shape[2:])
        prompts = ["red apple", "shark neon style"][: len(latents)]
        return pipe(
            prompts, height=height, width=width, latents=latents.clone(), num_inference_steps=4, guidance_scale=4.0, output_type="np"
        ).images


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 16, 8)])
def test_optimum_draws_what_torch_draws(onnx_fp32: Path, tiny_sd1: Path, shape: tuple[int, ...]) -> None:
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    ours, torchs = pictures(onnx_fp32, latents, True), pictures(tiny_sd1, latents, False)
    assert torchs.std() > 0.01
    np.testing.assert_allclose(ours, torchs, atol=1e-4)


def test_fp16_pictures_are_neither_black_nor_far_off(onnx_fp16: Path, tiny_sd2: Path) -> None:
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    ours, torchs = pictures(onnx_fp16, latents, True), pictures(tiny_sd2, latents, False)
    assert np.isfinite(ours).all() and ours.std() > 0.01
    np.testing.assert_allclose(ours, torchs, atol=4 / 255)


def test_names_layouts_and_valid_graphs(onnx_fp32: Path) -> None:
    for part, (inputs, outputs) in NAMES.items():
        file = onnx_fp32 / part / "model.onnx"
        onnx.checker.check_model(str(file), full_check=True)
        declared = onnx.load(file).graph
        for values, meant in ((declared.input, inputs), (declared.output, outputs)):
            assert {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values} == meant
            for value in values:
                assert value.type.tensor_type.elem_type == (onnx.TensorProto.INT64 if value.name == "input_ids" else onnx.TensorProto.FLOAT)
        assert "_name_or_path" not in json.loads((onnx_fp32 / part / "config.json").read_text())


def test_fp16_halves_the_weights_and_keeps_fp32_doors(onnx_fp16: Path) -> None:
    for part in NAMES:
        declared = onnx.load(onnx_fp16 / part / "model.onnx").graph
        doors = [*declared.input, *declared.output]
        assert all(v.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64) for v in doors)
        sizes = {kind: sum(int(np.prod(t.dims)) for t in declared.initializer if t.data_type == kind) for kind in (1, 10)}
        assert sizes[10] > 50 * sizes[1], f"{part}: {sizes}"


def test_manifest_carries_the_chain_on(onnx_fp32: Path, run_folder: Path) -> None:
    made, origin = artifact.read(onnx_fp32), artifact.read(run_folder)
    assert onnx_fp32 == run_folder.with_name(f"{run_folder.name}-onnx-fp32")
    assert (made.kind, made.control, made.concepts, made.base_model) == ("export", origin.control, origin.concepts, origin.base_model)
    assert [step.stage for step in made.steps] == ["train", "export"] and made.audit == "unmeasured"
    assert made.target["name"] == "onnx" and made.target["precision"] == "fp32"
    assert made.parity["prompts"] == ["red apple neon style", "red apple"]
    assert set(made.parity["components"]) == set(NAMES)
    assert min(row["psnr_db"] for row in made.parity["components"].values()) > 100
    assert made.parity["components"]["unet"]["calls"] == 25 and made.parity["picture"]["max_levels"] <= 1
    assert {"unet/model.onnx", "model_index.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"} <= set(made.files)


def test_over_two_gib_weights_go_beside_the_graph(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "DATA_LIMIT", 0)
    out = run(ExportConfig(str(tiny_sd1), "onnx", out=tmp_path / "out"))
    assert sorted(p.name for p in (out / "unet").iterdir()) == ["config.json", "model.onnx", "model.onnx_data"]
    assert (out / "unet" / "model.onnx_data").stat().st_size > 2**20
    assert min(row["psnr_db"] for row in artifact.read(out).parity["components"].values()) > 100


class Hard(torch.nn.Module):
    """What fp16 breaks when done plainly: a large angle, a mask of -3.4e38, GroupNorm of large values, 1 / sqrt(d) from a size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        angle = t * torch.linspace(1, 0.1, 16)
        mask = torch.full((16, 16), torch.finfo(torch.float32).min).triu(1)
        y = self.norm(x * 400.0)
        scores = y @ y.transpose(-1, -2) / torch.scalar_tensor(x.shape[-1]).sqrt() + mask
        return scores.softmax(-1) @ y + torch.cat([angle.sin(), angle.cos()])


def test_half_keeps_what_fp16_cannot_hold(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    module = Hard()
    example = {"x": torch.randn(2, 4, 16, 32), "t": torch.tensor(999.0)}
    with torch.no_grad():
        reference = module(**example)
    traced = graph.trace(module, example, ["out"], {"x": {0: "batch"}, "out": {0: "batch"}}, tmp_path)
    to_half(traced)
    graph.save(traced, tmp_path / "half.onnx")
    model = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: value.numpy() for name, value in example.items()})
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference.numpy(), atol=8e-3)
    makers = {name: node for node in model.graph.node for name in node.output}
    sines = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    assert len(sines) == 2 and all(makers[node.input[0]].op_type == "Mul" for node in sines), "the angle must not pass through a cast"


def test_plain_attention_is_attention_and_is_put_back(tiny_sd2: Path) -> None:
    from edgesafe import model

    unet = model.load(tiny_sd2).unet
    inputs = torch.randn(2, 4, 8, 8), torch.tensor(400), torch.randn(2, 77, 48)
    before = dict(unet.attn_processors)
    with torch.no_grad():
        reference = unet(*inputs).sample
        with wrappers.plain_attention(unet):
            assert all(type(p) is wrappers.PlainAttention for p in unet.attn_processors.values())
            plain = unet(*inputs).sample
    assert unet.attn_processors == before
    torch.testing.assert_close(plain, reference, rtol=1e-4, atol=1e-5)


def test_the_graph_computes_no_shapes_for_heads(onnx_fp32: Path) -> None:
    nodes = onnx.load(onnx_fp32 / "unet" / "model.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert "Constant" not in kinds and "Identity" not in kinds
    assert kinds.count("Gelu") == 16 and kinds.count("LayerNormalization") == 48
    attention = [node.op_type for node in nodes if "/attn1/" in node.name]
    assert attention and not {"Shape", "Gather", "Concat"} & set(attention)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch": 2}, "--batch is for --target coreml"),
        ({"deployment": "iOS17"}, "--deployment is for --target coreml"),
        ({"height": 60}, "--height 60 is not a multiple of 8"),
        ({"width": 72}, "--width 72: an ONNX export of this model draws multiples of 64 pixels"),
    ],
)
def test_refusals_leave_nothing(tiny_sd1: Path, tmp_path: Path, asked: dict, message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        run(ExportConfig(str(tiny_sd1), "onnx", out=tmp_path / "out", **asked))
    assert not list(tmp_path.iterdir())


def test_streamed_file_is_what_protobuf_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(160, 300), torch.nn.SiLU(), torch.nn.Linear(300, 160))
    traced = graph.trace(module, {"x": torch.randn(2, 3, 160)}, ["y"], {"x": {0: "batch"}}, tmp_path)
    assert len(traced.weights) == 2 and not any(t.raw_data for t in traced.model.graph.initializer if t.name in traced.weights)
    graph.save(traced, tmp_path / "streamed.onnx")
    for tensor in traced.model.graph.initializer:
        if tensor.name in traced.weights:
            tensor.raw_data = traced.weights[tensor.name].array().tobytes()
    read = onnx.load(tmp_path / "streamed.onnx")
    by_name = {tensor.name: tensor for tensor in traced.model.graph.initializer}
    assert {tensor.name: tensor for tensor in read.graph.initializer} == by_name
    del read.graph.initializer[:], traced.model.graph.initializer[:]
    assert read == traced.model
    assert not any(node.op_type == "Transpose" for node in read.graph.node), "weights are stored as MatMul takes them"
