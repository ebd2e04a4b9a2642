"""Every compression that coremltools writes, against coremltools' own reading and dequantising of the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesafe import mil
from edgesafe.mil import constexpr, datatypes

PALETTES = [("iOS16", bits, {}) for bits in (1, 2, 4, 6, 8)] + [("iOS18", bits, {}) for bits in (1, 2, 3, 4, 6, 8)]
GROUPED = {"granularity": "per_grouped_channel", "group_size": 4}
PALETTES += [("iOS18", 4, GROUPED), ("iOS18", 3, {**GROUPED, "channel_axis": 1}), ("iOS18", 4, {"cluster_dim": 2})]
INTEGERS = [("iOS16", dtype, mode, {}) for dtype, mode in (("int8", "linear"), ("uint8", "linear"), ("int8", "linear_symmetric"))]
for dtype in ("int8", "uint8", "int4", "uint4"):
    INTEGERS.append(("iOS18", dtype, "linear", {"granularity": "per_block", "block_size": 4}))
    INTEGERS.append(("iOS18", dtype, "linear_symmetric", {"granularity": "per_tensor"}))
INTEGERS.append(("iOS18", "int4", "linear", {"granularity": "per_channel"}))


@pytest.fixture(scope="module")
def models(saver: Any) -> dict[str, Any]:
    """A convolution and a linear layer in fp16, for iOS 16 and 18."""
    rng = np.random.default_rng(0)
    kernel, weight = (rng.standard_normal(shape).astype(np.float16) for shape in ((16, 8, 3, 3), (24, 64)))

    def build(x: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        made = mb.conv(x=mb.cast(x=x, dtype="fp16"), weight=mb.const(val=kernel, name="kernel"), pad_type="custom", pad=[1, 1, 1, 1])
        made = mb.linear(x=mb.reshape(x=made, shape=[1, 16, 64]), weight=mb.const(val=weight, name="weight"))
        return mb.cast(x=made, dtype="fp32", name="out")

    return {target: saver.convert(build, target, x=np.zeros((1, 8, 8, 8), np.float32)) for target in ("iOS16", "iOS18")}


@pytest.fixture(scope="module")
def compress(hush: Callable[[], Any]) -> Callable[..., Any]:
    def quietly(model: Any, kind: str, joint: bool = False, **options: Any) -> Any:
        with hush():
            return compressed(model, kind, joint, **options)

    return quietly


def compressed(model: Any, kind: str, joint: bool, **options: Any) -> Any:
    """`kind`: palettize, linear_quantize or prune."""
    from coremltools.optimize import coreml as optimize

    config = {"palettize": "OpPalettizerConfig", "linear_quantize": "OpLinearQuantizerConfig", "prune": "OpMagnitudePrunerConfig"}[kind]
    wanted = optimize.OptimizationConfig(global_config=getattr(optimize, config)(**options, weight_threshold=0))
    more = {} if kind == "prune" else {"joint_compression": joint}
    return getattr(optimize, f"{kind}_weights")(model, wanted, **more)


def own(package: Path) -> dict[str, np.ndarray]:
    """Dequantised by coremltools from the saved file, with its own reader of weight files; by the name of the value."""
    from coremltools import utils
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = utils.load_spec(str(package))
    program = load(spec, spec.specificationVersion, str(package / "Data/com.apple.CoreML/weights"))
    made = {}
    for operation in program.functions["main"].operations:
        if operation.op_type.startswith("constexpr_") and len(operation.outputs) == 1:
            table = operation.inputs.get("lut")
            if table is not None and table.val is None:  # compressed itself, which coremltools' own chain does not follow
                axis = operation.vector_axis.val if operation.vector_axis else None
                value = operation.decompress(operation.indices.val, table.op.materialized_val_inference(), axis)
            else:
                value = operation.materialized_val_inference()
            made[operation.outputs[0].name] = value
    return made


def weights_of(program: mil.Program) -> dict[str, mil.Constant]:
    """Without the bias of zeros that the builder gives a linear layer."""
    return {name: row for name, row in program.constants.items() if not name.startswith("linear")}


def compare(package: Path, stored: str, bits: int) -> mil.Program:
    program, reference = mil.load(package), own(package)
    weights = weights_of(program)
    assert len(weights) == 2 and set(weights) <= set(reference)
    for name, constant in weights.items():
        np.testing.assert_array_equal(constant.tensor().numpy(), reference[name].astype(np.float32))
        assert reference[name].dtype == np.float16 and constant.dtype == "fp16"
        assert (constant.stored, constant.bits, constant.shape) == (stored, bits, reference[name].shape)
    return program


@pytest.mark.parametrize(("target", "bits", "options"), PALETTES)
def test_palettes(models: Any, saver: Any, compress: Any, target: str, bits: int, options: dict[str, Any]) -> None:
    mode = "kmeans" if options else "uniform"
    program = compare(saver.save(compress(models[target], "palettize", mode=mode, nbits=bits, **options)), "constexpr_lut_to_dense", bits)
    if not options:
        table = 2**bits * 2 + (16 if target == "iOS16" else 0)  # bytes of the table; iOS 16 adds four sizes of four bytes
        assert program.constants["kernel_palettized"].nbytes == 16 * 8 * 9 * bits // 8 + table


@pytest.mark.parametrize(("target", "dtype", "mode", "options"), INTEGERS)
def test_integers(models: Any, saver: Any, compress: Any, target: str, dtype: str, mode: str, options: dict[str, Any]) -> None:
    stored = "constexpr_affine_dequantize" if target == "iOS16" else "constexpr_blockwise_shift_scale"
    compare(saver.save(compress(models[target], "linear_quantize", mode=mode, dtype=dtype, **options)), stored, 4 if "4" in dtype else 8)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_sparse(models: Any, saver: Any, compress: Any, target: str) -> None:
    program = compare(saver.save(compress(models[target], "prune", target_sparsity=0.5)), "constexpr_sparse_to_dense", 16)
    assert int((program.constants["weight_sparsified"].tensor() == 0).sum()) == 24 * 64 // 2


def test_sparse_palettes(models: Any, saver: Any, compress: Any) -> None:
    pruned = compress(models["iOS18"], "prune", target_sparsity=0.5)
    compare(saver.save(compress(pruned, "palettize", joint=True, nbits=4, mode="kmeans", **GROUPED)), "constexpr_sparse_to_dense", 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sparse_palettes_of_vectors(saver: Any, axis: int) -> None:
    """coremltools defines them; its own compression of both kinds at once fails with vectors, so the program is built here."""
    rng = np.random.default_rng(axis)
    mask, table = rng.integers(0, 2, (4, 6, 2)), rng.standard_normal((2, 1, 2, 8, 3)).astype(np.float16)
    indices = rng.integers(0, 8, int(mask.sum()))
    shape = [size * 3 if i == axis else size for i, size in enumerate(mask.shape)]

    def build(x: Any) -> Any:
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import types

        kinds = {"indices_mask": (mask, types.np_uint1_dtype), "indices_nonzero_data": (indices, types.np_uint3_dtype)}
        sparse = mb.constexpr_lut_to_sparse(
            lut=table, vector_axis=axis, **{key: value.astype(kind) for key, (value, kind) in kinds.items()}
        )
        dense = mb.constexpr_sparse_to_dense(mask=sparse[0], nonzero_data=sparse[1], name="dense")
        return mb.add(x=x, y=mb.cast(x=dense, dtype="fp32"), name="out")

    package = saver(build, "iOS18", x=np.zeros(shape, np.float32))
    program = mil.load(package)
    np.testing.assert_array_equal(program.constants["dense"].tensor().numpy(), own(package)["dense"].astype(np.float32))
    assert program.constants["dense"].bits == 3


@pytest.mark.parametrize("dtype", ["uint8", "int4"])
def test_sparse_integers(models: Any, saver: Any, compress: Any, dtype: str) -> None:
    pruned = compress(models["iOS18"], "prune", target_sparsity=0.5)
    made = compress(pruned, "linear_quantize", joint=True, mode="linear_symmetric", dtype=dtype)
    compare(saver.save(made), "constexpr_sparse_to_dense", 4 if dtype == "int4" else 8)


def test_palettes_of_integers(models: Any, saver: Any, compress: Any) -> None:
    narrow = compress(models["iOS18"], "palettize", mode="uniform", nbits=6)
    made = compress(narrow, "linear_quantize", joint=True, mode="linear_symmetric", granularity="per_tensor")
    program = mil.load(saver.save(made))
    reference = mil.load(saver.save(narrow)).constants
    for name, constant in weights_of(program).items():
        exact = next(reference[other] for other in reference if other.split("_")[0] == name.split("_")[0]).tensor()
        assert constant.stored in ("constexpr_lut_to_dense", "constexpr_blockwise_shift_scale") and constant.bits == 6
        assert (constant.tensor() - exact).abs().max() <= exact.abs().max() / 127 / 2 * 1.05  # half a step of int8, and of fp16


def test_palettes_with_a_scale_for_each_channel(models: Any, saver: Any, compress: Any) -> None:
    """The table is compressed itself: a scale for each channel."""
    made = compress(models["iOS18"], "palettize", mode="kmeans", nbits=4, enable_per_channel_scale=True)
    compare(saver.save(made), "constexpr_lut_to_dense", 4)


def test_cast(saver: Any) -> None:
    value = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)

    def build(x: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        return mb.add(x=x, y=mb.constexpr_cast(source_val=value, output_dtype="fp32", name="wide"), name="out")

    program = mil.load(saver(build, x=np.zeros((4, 8), np.float32)))
    assert program.constants["wide"].stored == "constexpr_cast" and program.constants["wide"].bits == 16
    np.testing.assert_array_equal(program(x=torch.zeros(4, 8))["out"].numpy(), value.astype(np.float32))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("signed", [False, True])
def test_unpacking(bits: int, signed: bool) -> None:
    from coremltools.optimize._utils import pack_elements_into_bits

    low = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(bits).integers(low, low + 2**bits, 101).astype(np.int8 if signed else np.uint8)
    packed = pack_elements_into_bits(values, bits)
    np.testing.assert_array_equal(datatypes.unpack(packed, bits, 101, signed), values)


def test_every_operation_was_met() -> None:
    """The names are all that coremltools has."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    assert set(constexpr.OPERATIONS) == {name for name in SSAOpRegistry.core_ops if name.startswith("constexpr_")}
