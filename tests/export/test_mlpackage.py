"""Rewritten packages as coremltools and edgesafe.mil read them: each form's weights, the ops coremltools itself writes, what stays."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesafe import mil
from edgesafe.errors import ArtifactError
from edgesafe.export import mlpackage, mlprogram, palettes
from edgesafe.export.mlpackage import Package
from edgesafe.export.mlprogram import Port

WEIGHTS = {"table_weight": (43, 50), "conv_weight": (64, 32, 3, 3), "linear_weight": (96, 64)}
ROUNDS = {"palettes 8": ("palettize", 8), "palettes 6": ("palettize", 6), "palettes 4": ("palettize", 4), "int8": ("quantize", 8)}


class Net(nn.Module):
    """One of each reader, a weight below the floor, and an odd number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(43, 50), nn.Conv2d(1, 32, 3, padding=1)
        self.conv, self.linear, self.last = nn.Conv2d(32, 64, 3, padding=1), nn.Linear(64, 96), nn.Linear(50, 3)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        seen = self.linear(self.conv(self.first(x)).mean((2, 3)))
        return seen + self.last(self.table(ids.to(torch.int32))).sum()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    made = {}
    for deployment, precision in (("iOS16", "fp16"), ("iOS17", "fp32"), ("iOS18", "fp16")):
        made[deployment] = folder / f"{deployment}.mlpackage"
        ports = Port("ids", (1,)), Port("x", (1, 1, 8, 8))
        mlprogram.convert(net, ports, (Port("y", (1, 96)),), precision, deployment, made[deployment])
    return made


def rewritten(source: Path, to: Path, method: str, bits: int) -> dict[str, tuple[np.ndarray, palettes.Form]]:
    package, forms = Package(source), {}

    def narrow(weight: mlpackage.Weight, values: np.ndarray) -> palettes.Form:
        forms[weight.name] = values, palettes.narrow(values, bits, method, package.newest)
        return forms[weight.name][1]

    shares: list[float] = []
    mlpackage.rewrite(package, to, narrow, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    return forms


def decompressed(package: Path) -> dict[str, np.ndarray]:
    """Every weight's values as coremltools dequantises them."""
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.models.MLModel(str(package), skip_model_load=True)
        plain = ct.optimize.coreml.decompress_weights(model)
        return {name: row.val for name, row in ct.optimize.coreml.get_weights_metadata(plain, weight_threshold=9).items()}


def operations(package: Path) -> list[Any]:
    return list(mlprogram.main_block(mlprogram._coremltools().utils.load_spec(str(package))).operations)


@pytest.mark.parametrize(
    ("deployment", "form"),
    [
        ("iOS16", "palettes 4"),
        ("iOS16", "palettes 6"),
        ("iOS16", "int8"),
        ("iOS17", "palettes 6"),
        ("iOS17", "palettes 8"),
        ("iOS17", "int8"),
        ("iOS18", "palettes 4"),
        ("iOS18", "palettes 6"),
        ("iOS18", "palettes 8"),
        ("iOS18", "int8"),
        ("iOS18", "int4"),
    ],
)
def test_coremltools_and_the_evaluator_read_the_values_meant(packages: dict[str, Path], tmp_path: Path, deployment: str, form: str) -> None:
    forms = rewritten(packages[deployment], tmp_path / "out.mlpackage", *(ROUNDS | {"int4": ("quantize", 4)})[form])
    assert {name.removesuffix("_to_fp16"): values.shape for name, (values, _) in forms.items()} == WEIGHTS
    theirs, ours = decompressed(tmp_path / "out.mlpackage"), mil.load(tmp_path / "out.mlpackage").constants
    kept = decompressed(packages[deployment])
    for name, (values, made) in forms.items():
        (found,) = (val for key, val in theirs.items() if key.startswith(name))
        np.testing.assert_array_equal(found, made.dense())
        np.testing.assert_allclose(ours[name].tensor().numpy(), made.dense().astype(np.float32), atol=0)
        assert 0 < np.square(made.dense().astype(float) - values).sum() < 0.02 * np.square(values.astype(float)).sum()
    for name, values in kept.items():
        if name not in forms:
            np.testing.assert_array_equal(theirs[name], values)


@pytest.mark.parametrize(("deployment", "form"), [("iOS16", "palettes 4"), ("iOS16", "int8"), ("iOS18", "palettes 6"), ("iOS18", "int8")])
def test_the_operations_are_those_coremltools_writes(packages: dict[str, Path], tmp_path: Path, deployment: str, form: str) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    method, bits = ROUNDS[form]
    rewritten(packages[deployment], tmp_path / "ours.mlpackage", method, bits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = ct.models.MLModel(str(packages[deployment]), skip_model_load=True)
        if method == "palettize":
            names = {"conv_weight_to_fp16": cto.OpPalettizerConfig(nbits=bits, granularity="per_grouped_channel", group_size=32)}
            config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=bits), op_name_configs=names if deployment == "iOS18" else None)
            made = cto.palettize_weights(wide, config)
        else:
            made = cto.linear_quantize_weights(wide, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric")))
        made.save(str(tmp_path / "theirs.mlpackage"))

    def described(package: Path) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        rows = []
        for operation in operations(package):
            if operation.type.startswith("constexpr_"):
                values = {key: value for key, value in operation.attributes.items() if key != "name"}
                values |= {key: argument.arguments[0].value for key, argument in operation.inputs.items()}
                kinds = {key: (value.type.SerializeToString(), value.WhichOneof("value")) for key, value in values.items()}
                rows.append((operation.type, sorted(operation.attributes), kinds, operation.outputs[0].type.SerializeToString()))
        return rows

    theirs = described(tmp_path / "theirs.mlpackage")
    assert len(theirs) == 3 and described(tmp_path / "ours.mlpackage") == theirs


def test_int8_of_one_channel_each_is_what_coremltools_makes(packages: dict[str, Path], tmp_path: Path) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    forms = rewritten(packages["iOS18"], tmp_path / "ours.mlpackage", "quantize", 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = ct.models.MLModel(str(packages["iOS18"]), skip_model_load=True)
        config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
        cto.linear_quantize_weights(wide, config).save(str(tmp_path / "theirs.mlpackage"))
    theirs = decompressed(tmp_path / "theirs.mlpackage")
    for name, (values, made) in forms.items():
        (found,) = (val for key, val in theirs.items() if key.startswith(name))
        ours, others = (np.square(dense.astype(float) - values).sum() for dense in (made.dense(), found))
        assert ours <= others * 1.001


def test_files_can_be_read_by_others_and_say_the_same(packages: dict[str, Path], tmp_path: Path) -> None:
    rewritten(packages["iOS18"], tmp_path / "out.mlpackage", "palettize", 4)
    before, after = (folder / mlpackage.MANIFEST for folder in (packages["iOS18"], tmp_path / "out.mlpackage"))
    assert before.read_text() == after.read_text()
    for path in (tmp_path / "out.mlpackage").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044 or not path.is_file()
    assert Package(tmp_path / "out.mlpackage").bytes < 0.45 * Package(packages["iOS18"]).bytes


def test_damaged_packages_are_named(packages: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"empty: no .* in it"):
        Package(tmp_path / "empty")
    rewritten(packages["iOS16"], tmp_path / "out.mlpackage", "palettize", 8)
    package = Package(packages["iOS16"])
    weight = next(iter(package.weights.values()))
    short = tmp_path / "out.mlpackage" / mlpackage.BLOB
    short.write_bytes((packages["iOS16"] / mlpackage.BLOB).read_bytes()[: weight.offset + 70])
    package.path = tmp_path / "out.mlpackage"
    with pytest.raises(ArtifactError, match=f"weight.bin: no whole record at byte {weight.offset}"):
        package.array(weight)
