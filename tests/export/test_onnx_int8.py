"""int8 QDQ: against onnxruntime's own quantiser, which layers stay, the whole export, and through Optimum."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from edgesafe import artifact, model, sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, graph, layout, onnx_files, onnx_int8, rounding, run
from edgesafe.export.onnx import Onnx
from edgesafe.export.rounding import Seen


class Toy(torch.nn.Module):
    """The middle convolution and the linear layer may be narrow; the ends and what comes from the time may not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.time, self.linear = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        t = self.time(timestep * torch.linspace(0, 1, 8))
        y = self.middle(self.first(sample).relu() + t[:, None, None])
        return self.last(self.linear(y.transpose(1, 3)).transpose(1, 3))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, layout.Part, dict[str, Seen]]:
    """Its fp32 folder, itself, and the ranges seen."""
    torch.manual_seed(0)
    module, folder = Toy().eval(), tmp_path_factory.mktemp("toy")
    example = {"sample": torch.randn(2, 8, 6, 6), "timestep": torch.tensor(1.0)}
    part = layout.Part("toy", module, example, ("out",), {"sample": {0: "batch"}, "out": {0: "batch"}}, {})
    made = graph.trace(module, example, part.outputs, part.axes, folder)
    graph.save(made, folder / "model.onnx")
    return folder, part, rounding.observe(module, ["middle", "linear"], [(tuple(example.values()), ())], lambda _: None)


def by_onnxruntime(folder: Path, seen: dict[str, Seen], nodes: dict[str, onnx.NodeProto]) -> ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    ranges = {}
    for name, row in seen.items():
        ranges[nodes[name].input[0]] = np.float32(row.low), np.float32(row.high)
        if nodes[name].op_type == "Conv":
            ranges[nodes[name].output[0]] = np.float32(row.out_low), np.float32(row.out_high)
    data = TensorsData(CalibrationMethod.MinMax, ranges)
    options = {"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]}
    chosen = [node.name for node in nodes.values()]
    quantizer = QDQQuantizer(
        onnx.load(folder / "model.onnx"), True, False, QuantType.QInt8, QuantType.QUInt8, data, chosen, [], ["Conv", "MatMul"], options
    )
    quantizer.quantize_model()
    return quantizer.model.model


def test_the_values_are_those_of_onnxruntimes_own_quantiser(toy: tuple[Path, layout.Part, dict[str, Seen]], tmp_path: Path) -> None:
    folder, part, seen = toy
    names, nodes = onnx_files.layers(onnx_files.read(folder), part.module)
    assert names == ["middle", "linear"]
    chosen = {name: nodes[name] for name in names}
    ours, theirs = onnx_files.read(folder), by_onnxruntime(folder, seen, chosen)
    onnx_int8.quantize(ours, {node.name: seen[name] for name, node in chosen.items()}, folder)
    onnx.checker.check_model(ours, full_check=True)

    def stored(model: ModelProto) -> list[np.ndarray]:
        kinds = (onnx.TensorProto.INT8, onnx.TensorProto.INT32)
        found = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type in kinds and np.prod(t.dims) > 1]
        return sorted((array for array in found if array.any()), key=lambda array: (array.size, array.dtype.name))

    assert [a.shape for a in stored(ours)] == [a.shape for a in stored(theirs)] == [(8,), (8, 8), (8, 8, 3, 3)]
    for mine, other in zip(stored(ours), stored(theirs), strict=True):
        assert np.abs(mine.astype(int) - other).max() <= (1 if mine.dtype == np.int8 else 2)
    x = {"sample": np.random.default_rng(0).normal(size=(3, 8, 6, 6)).astype("f"), "timestep": np.array(0.5, "f")}
    outputs = []
    for i, quantized in enumerate((ours, theirs)):
        onnx.save(quantized, tmp_path / f"{i}.onnx")
        outputs.append(onnx_files.opened(tmp_path / f"{i}.onnx")({name: torch.from_numpy(value) for name, value in x.items()})["out"])
    with torch.no_grad():
        exact = part.module(*map(torch.from_numpy, x.values()))
    apart, lost = (outputs[0] - outputs[1]).square().mean().sqrt(), (outputs[0] - exact).square().mean().sqrt()
    assert apart < 0.2 * lost, "the same rounding, but for ties"


def test_the_file_computes_what_the_simulation_says(toy: tuple[Path, layout.Part, dict[str, Seen]], tmp_path: Path) -> None:
    folder, part, seen = toy
    _, nodes = onnx_files.layers(onnx_files.read(folder), part.module)
    made = onnx_files.read(folder)
    onnx_int8.quantize(made, {nodes[name].name: row for name, row in seen.items()}, folder)
    onnx_files.write(made, tmp_path)
    got = onnx_files.opened(tmp_path / "model.onnx")(part.example)["out"]
    with torch.no_grad(), rounding.rounded(part.module, dict.fromkeys(seen, rounding.INT8), seen):
        expected = part.module(*part.example.values())
    with torch.no_grad():
        lost = (expected - part.module(*part.example.values())).square().mean().sqrt()
    assert (got - expected).square().mean().sqrt() < 0.2 * lost


def test_a_bias_too_large_for_its_scale_widens_the_weights_scale() -> None:
    weight, bias = np.full((2, 4), 1e-9, np.float32), np.array([1.0, 0.0], np.float32)
    scale = onnx_int8.weight_scale(weight, 0, bias, 0.01)
    assert abs(np.rint(bias / (scale * 0.01))).max() <= 2**30 and scale[1] == pytest.approx(1e-9 / 127)


@pytest.fixture(scope="module")
def exported(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "int8"
    return run(ExportConfig(str(tiny_sd1), "onnx", out=out, quantize="int8", parity_steps=1))


def test_an_int8_export_passes_the_gate_and_says_what_stayed(exported: Path) -> None:
    manifest = artifact.read(exported)
    assert min(row["psnr_db"] for row in manifest.parity["components"].values()) >= 35
    facts = manifest.target["compression"]["parts"]
    assert set(facts) == {"text_encoder", "unet", "vae_decoder"}
    nodes = onnx.load(exported / "unet" / "model.onnx").graph.node
    makers = {name: node for node in nodes for name in node.output}
    weighted = [node for node in nodes if node.op_type in ("Conv", "MatMul") and node.input[1] in makers]
    narrow = [node for node in weighted if makers[node.input[1]].op_type == "DequantizeLinear"]
    assert len(narrow) == facts["unet"]["int8_layers"] > 100
    by_name = {node.name: node for node in nodes}
    for end in ("/module/unet/conv_in/Conv", "/module/unet/conv_out/Conv"):
        assert by_name[end].input[1] not in makers, f"{end} stays fp32"
    assert not any("time" in layer for layer in facts["unet"]["fp32_layers"]), "the time embedding is not asked for"


def test_optimum_draws_with_it_what_we_draw_with_it(exported: Path, tiny_sd1: Path) -> None:
    from .test_onnx import pictures

    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pictures(exported, latents, True)
    loaded = model.load(tiny_sd1)
    parts = Onnx.plan(ExportConfig(quantize="int8"), loaded).open(exported)
    ids = loaded.tokenizer(["red apple", ""], padding="max_length", return_tensors="pt").input_ids
    text = parts.text_encoder(ids)[0]
    scheduler = sampling.scheduler("ddim", loaded.scheduler_config)
    z = sampling.sample(parts.unet, (text[:1],), (text[1:],), latents, scheduler, 4, 4.0)
    ours = parts.vae_decoder(z / loaded.vae.config.scaling_factor).div(2).add(0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs).mean() < 0.005 and ours.std() > 0.01


def test_a_gate_that_int8_cannot_pass_is_refused(tiny_sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="no layer can be int8 at 150 dB. Leave out --quantize, or lower --gate"):
        run(ExportConfig(str(tiny_sd1), "onnx", out=tmp_path / "out", quantize="int8", gate_db=150.0, parity_steps=1))
    assert not list(tmp_path.iterdir())


def test_weights_beside_the_graph_are_read_and_written(
    toy: tuple[Path, layout.Part, dict[str, Seen]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, part, seen = toy
    onnx.save(
        onnx.load(folder / "model.onnx"), tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    _, nodes = onnx_files.layers(onnx_files.read(tmp_path), part.module)
    made = onnx_files.read(tmp_path)
    onnx_int8.quantize(made, {nodes[name].name: row for name, row in seen.items()}, tmp_path)
    monkeypatch.setattr(onnx_files, "DATA_LIMIT", 0)
    out = tmp_path / "out"
    out.mkdir()
    onnx_files.write(made, out)
    assert {p.name for p in out.iterdir()} <= {"model.onnx", "model.onnx_data"}
    inside = onnx_files.read(folder)
    onnx_int8.quantize(inside, {nodes[name].name: row for name, row in seen.items()}, folder)
    (tmp_path / "in").mkdir()
    onnx.save(inside, tmp_path / "in" / "model.onnx")
    both = [onnx_files.opened(place / "model.onnx")(part.example)["out"] for place in (out, tmp_path / "in")]
    assert torch.equal(*both)
