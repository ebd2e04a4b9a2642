"""Each operation by itself: built and saved by coremltools, read again and evaluated, against torch or numpy on the same inputs.

x, y (2, 4, 6, 8) and p, which is positive, are fp32; i (3, 2) holds places from 0 to 3.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesafe.mil.ops import OPERATIONS

Case = tuple[Callable[[Any, Any], Any], Callable[[SimpleNamespace], Tensor]]  # builder and inputs -> MIL variable; inputs -> the result
KERNEL, GROUPED, ACROSS = (
    (np.random.default_rng(n).standard_normal(s) / 6).astype(np.float32) for n, s in enumerate(((5, 4, 3, 3), (8, 2, 3, 2), (4, 3, 2, 2)))
)
BIAS, WEIGHT, TABLE = ((np.random.default_rng(n + 9).standard_normal(s)).astype(np.float32) for n, s in enumerate(((5,), (7, 8), (4, 9))))
C4 = np.array([0.5, 1.5, -0.25, 2.0], np.float32)
t = torch.from_numpy
C7 = WEIGHT[:, 3].copy()


def unary(name: str, reference: Callable[[Tensor], Tensor], of: str = "x", **given: Any) -> Case:
    return lambda mb, v: getattr(mb, name)(x=getattr(v, of), **given), lambda v: reference(getattr(v, of))


def binary(name: str, reference: Callable[[Tensor, Tensor], Tensor], of: str = "xy") -> Case:
    a, b = of
    return lambda mb, v: getattr(mb, name)(x=getattr(v, a), y=getattr(v, b)), lambda v: reference(getattr(v, a), getattr(v, b))


def logic(name: str, reference: Callable[[Tensor, Tensor], Tensor]) -> Case:
    def build(mb: Any, v: Any) -> Any:
        return getattr(mb, name)(x=mb.greater(x=v.x, y=0.0), y=mb.greater(x=v.y, y=0.0))

    return build, lambda v: reference(v.x > 0, v.y > 0)


def to(dtype: str, reference: Callable[[Tensor], Tensor]) -> Case:
    return lambda mb, v: mb.cast(x=v.x, dtype=dtype), lambda v: reference(v.x)


FAMILIES: dict[str, dict[str, Case]] = {
    "elementwise": {
        **{
            name: unary(name, getattr(torch, name))
            for name in "abs atan ceil cos cosh erf exp exp2 floor round sign sin sinh square tan tanh".split()
        },
        "sqrt": unary("sqrt", torch.sqrt, "p"),
        "acos": (lambda mb, v: mb.acos(x=mb.tanh(x=v.x)), lambda v: v.x.tanh().acos()),
        "asin": (lambda mb, v: mb.asin(x=mb.tanh(x=v.x)), lambda v: v.x.tanh().asin()),
        "atanh": (lambda mb, v: mb.atanh(x=mb.sin(x=v.x)), lambda v: v.x.sin().atanh()),
        "log": unary("log", torch.log, "p", epsilon=1e-30),
        "log_epsilon": unary("log", lambda p: (p + 0.5).log(), "p", epsilon=0.5),
        "rsqrt": unary("rsqrt", lambda p: 1 / (p + 0.25).sqrt(), "p", epsilon=0.25),
        "inverse": unary("inverse", lambda p: 1 / (p + 1e-4), "p"),
        "clip": unary("clip", lambda x: x.clip(-0.5, 0.75), alpha=-0.5, beta=0.75),
        "threshold": unary("threshold", lambda x: torch.maximum(x, torch.tensor(0.2)), alpha=0.2),
        "cast_int32": to("int32", lambda x: x.trunc()),
        "cast_bool": to("bool", lambda x: x != 0),
        "cast_fp16": to("fp16", lambda x: x),
        "logical_not": (lambda mb, v: mb.logical_not(x=mb.greater(x=v.x, y=v.y)), lambda v: v.x <= v.y),
        "select": (lambda mb, v: mb.select(cond=mb.less(x=v.x, y=v.y), a=v.x, b=v.p), lambda v: torch.where(v.x < v.y, v.x, v.p)),
        **{name: binary(name, f) for name, f in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul))},
        **{name: binary(name, f) for name, f in (("maximum", torch.maximum), ("minimum", torch.minimum))},
        "pow": binary("pow", torch.pow, "px"),
        "real_div": binary("real_div", torch.div, "xp"),
        "floor_div": binary("floor_div", lambda x, p: (x / p).floor(), "xp"),
        "mod": binary("mod", lambda x, p: t(np.mod(x.numpy(), p.numpy())), "xp"),
        **{f"{name}_ints": binary(name, f, "ii") for name, f in (("add", torch.add), ("equal", torch.eq), ("mul", torch.mul))},
        "greater": binary("greater", torch.gt),
        "greater_equal": binary("greater_equal", torch.ge),
        "less": binary("less", torch.lt),
        "less_equal": binary("less_equal", torch.le),
        "equal": binary("equal", torch.eq, "xx"),
        "not_equal": binary("not_equal", torch.ne),
        "logical_and": logic("logical_and", lambda a, b: a & b),
        "logical_or": logic("logical_or", lambda a, b: a | b),
        "logical_xor": logic("logical_xor", lambda a, b: a ^ b),
        "broadcast": (lambda mb, v: mb.add(x=v.x, y=C4.reshape(4, 1, 1)), lambda v: v.x + t(C4)[:, None, None]),
    },
    "activation": {
        "gelu": unary("gelu", F.gelu, mode="EXACT"),
        "gelu_tanh": unary("gelu", lambda x: F.gelu(x, approximate="tanh"), mode="TANH_APPROXIMATION"),
        "gelu_sigmoid": unary("gelu", lambda x: x * torch.sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
        "silu": unary("silu", lambda x: x * torch.sigmoid(x)),
        "sigmoid": unary("sigmoid", torch.sigmoid),
        "relu": unary("relu", lambda x: x.clip(min=0)),
        "relu6": unary("relu6", lambda x: x.clip(0, 6)),
        "leaky_relu": unary("leaky_relu", lambda x: torch.where(x < 0, 0.3 * x, x), alpha=0.3),
        "elu": unary("elu", lambda x: torch.where(x < 0, 0.7 * (x.exp() - 1), x), alpha=0.7),
        "prelu": unary("prelu", lambda x: torch.where(x < 0, t(C4)[:, None, None] * x, x), alpha=C4),
        "clamped_relu": unary("clamped_relu", lambda x: torch.where(x < 0, 0.1 * x, x.clip(max=0.6)), alpha=0.1, beta=0.6),
        "linear_activation": unary("linear_activation", lambda x: 2 * x + 0.5, alpha=2.0, beta=0.5),
        "scaled_tanh": unary("scaled_tanh", lambda x: 1.5 * torch.tanh(0.5 * x), alpha=1.5, beta=0.5),
        "sigmoid_hard": unary("sigmoid_hard", lambda x: (0.2 * x + 0.5).clip(0, 1), alpha=0.2, beta=0.5),
        "softplus": unary("softplus", lambda x: (1 + x.exp()).log()),
        "softsign": unary("softsign", lambda x: x / (1 + x.abs())),
        "softmax": unary("softmax", lambda x: x.exp() / x.exp().sum(-1, True)),
        "softmax_axis": unary("softmax", lambda x: x.exp() / x.exp().sum(1, True), axis=1),
    },
    "reduction": {
        "mean": unary("reduce_mean", lambda x: x.mean((1, 3)), axes=[1, -1], keep_dims=False),
        "mean_kept": unary("reduce_mean", lambda x: x.mean((2, 3), keepdim=True), axes=[2, 3], keep_dims=True),
        "mean_all": unary("reduce_mean", lambda x: x.mean(), keep_dims=False),
        "sum": unary("reduce_sum", lambda x: x.sum(2), axes=[2]),
        "sum_ints": unary("reduce_sum", lambda i: i.sum(0), "i", axes=[0]),
        "max": unary("reduce_max", lambda x: x.amax(3, True), axes=[3], keep_dims=True),
        "min": unary("reduce_min", lambda x: x.amin((0, 1)), axes=[0, 1]),
        "prod": unary("reduce_prod", lambda x: x.prod(3).prod(1), axes=[1, 3]),
        "l1": unary("reduce_l1_norm", lambda x: x.abs().sum(1), axes=[1]),
        "l2": unary("reduce_l2_norm", lambda x: x.pow(2).sum((1, 2)).sqrt(), axes=[1, 2]),
        "sum_square": unary("reduce_sum_square", lambda x: x.pow(2).sum(1), axes=[1]),
        "log_sum": unary("reduce_log_sum", lambda p: p.sum(1).log(), "p", axes=[1]),
        "log_sum_exp": unary("reduce_log_sum_exp", lambda x: x.exp().sum((1, 3)).log(), axes=[1, 3]),
        "argmax": unary("reduce_argmax", lambda x: x.argmax(1), axis=1, keep_dims=False),
        "argmin": unary("reduce_argmin", lambda x: x.argmin(-1, keepdim=True), axis=-1, keep_dims=True),
        "cumsum": unary("cumsum", lambda x: x.cumsum(2), axis=2),
        "cumsum_back": unary(
            "cumsum", lambda x: t(np.cumsum(x.numpy()[:, ::-1], 1)[:, ::-1].copy()) - x, axis=1, reverse=True, exclusive=True
        ),
    },
    "moving": {
        "reshape": unary("reshape", lambda x: x.reshape(2, 2, 2, 48), shape=[2, 2, 2, -1]),
        "reshape_kept": unary("reshape", lambda x: x.reshape(2, 8, 6, 4), shape=[0, 8, 0, -1]),
        "expand_dims": unary("expand_dims", lambda x: x[..., None], axes=[-1]),
        "squeeze": (
            lambda mb, v: mb.squeeze(x=mb.reduce_mean(x=v.x, axes=[1, 3], keep_dims=True), axes=[-1, 1]),
            lambda v: v.x.mean((1, 3)),
        ),
        "transpose": unary("transpose", lambda x: x.permute(3, 0, 2, 1), perm=[3, 0, -2, 1]),
        "flatten2d": unary("flatten2d", lambda x: x.reshape(8, 48), axis=2),
        "concat": (lambda mb, v: mb.concat(values=(v.x, v.y), axis=-3), lambda v: torch.cat((v.x, v.y), 1)),
        "concat_interleaved": (
            lambda mb, v: mb.concat(values=(v.x, v.y), axis=1, interleave=True),
            lambda v: torch.stack((v.x[:, 0], v.y[:, 0], v.x[:, 1], v.y[:, 1], v.x[:, 2], v.y[:, 2], v.x[:, 3], v.y[:, 3]), 1),
        ),
        "stack": (lambda mb, v: mb.stack(values=(v.x, v.y), axis=2), lambda v: torch.stack((v.x, v.y), 2)),
        "split": (lambda mb, v: mb.split(x=v.x, num_splits=2, axis=-1)[1], lambda v: v.x[..., 4:]),
        "split_sizes": (lambda mb, v: mb.split(x=v.x, split_sizes=[1, 3], axis=1)[1], lambda v: v.x[:, 1:]),
        "slice": unary(
            "slice_by_index",
            lambda x: x[:, 1:3, ::2, 2:-1],
            begin=[0, 1, 0, 2],
            end=[0, 3, 6, -1],
            end_mask=[True, False, False, False],
            stride=[1, 1, 2, 1],
        ),
        "slice_back": unary(
            "slice_by_index",
            lambda x: t(x.numpy()[:, ::-1, 4:0:-2].copy()),
            begin=[0, 3, 4, 0],
            end=[2, 0, 0, 8],
            stride=[1, -1, -2, 1],
            end_mask=[False, True, False, False],
        ),
        "slice_one": unary(
            "slice_by_index", lambda x: x[:, -1, :, 3], begin=[0, -1, 0, 3], end=[2, 0, 6, 0], squeeze_mask=[False, True, False, True]
        ),
        "slice_masked": unary(
            "slice_by_index",
            lambda x: x[:1, :, :2],
            begin=[1, 1, 1, 1],
            end=[1, 1, 2, 1],
            begin_mask=[True] * 4,
            end_mask=[False, True, False, True],
        ),
        "slice_by_size": unary("slice_by_size", lambda x: x[1:2, 1:, 2:5, 0:8], begin=[1, 1, 2, 0], size=[1, -1, 3, 8]),
        "tile": unary("tile", lambda x: x.repeat(1, 2, 1, 3), reps=[1, 2, 1, 3]),
        "reverse": unary("reverse", lambda x: x.flip(1, 3), axes=[1, -1]),
        "pad": unary(
            "pad", lambda x: t(np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2), (0, 3)), constant_values=0.5)), pad=[1, 2, 0, 3], constant_val=0.5
        ),
        "pad_reflect": unary(
            "pad", lambda x: t(np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2), (3, 0)), "reflect")), pad=[1, 2, 3, 0], mode="reflect"
        ),
        "pad_edge": unary(
            "pad", lambda x: t(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 0), (2, 1)), "edge")), pad=[0, 0, 2, 1], mode="replicate"
        ),
        "fill": (lambda mb, v: mb.mul(x=v.x, y=mb.fill(shape=[1, 4, 1, 1], value=2.5)), lambda v: v.x * 2.5),
        "fill_late": (
            lambda mb, v: mb.fill(
                shape=mb.add(x=mb.slice_by_index(x=v.i, begin=[0, 0], end=[1, 2], squeeze_mask=[True, False]), y=[1, 1]), value=3.0
            ),
            lambda v: torch.full((v.i + 1)[0].tolist(), 3.0),
        ),
        "range": (lambda mb, v: mb.range_1d(start=mb.reduce_min(x=v.i), end=20, step=3), lambda v: torch.arange(int(v.i.min()), 20, 3)),
        "depth_to_space": unary(
            "depth_to_space",
            lambda x: t(np.einsum("nabchw->nchawb", x.numpy().reshape(2, 2, 2, 1, 6, 8)).reshape(2, 1, 12, 16).copy()),
            block_size=2,
        ),
        "space_to_depth": unary(
            "space_to_depth",
            lambda x: t(np.einsum("nchawb->nabchw", x.numpy().reshape(2, 4, 3, 2, 4, 2)).reshape(2, 16, 3, 4).copy()),
            block_size=2,
        ),
        "pixel_shuffle": unary("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), upscale_factor=2),
        "pixel_unshuffle": unary("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), downscale_factor=np.uint32(2)),
        "band_part": unary("band_part", lambda x: x * t(np.tri(6, 8, 2) * (1 - np.tri(6, 8, -2))).float(), lower=1, upper=2),
        "identity": unary("identity", lambda x: x),
    },
    "gathering": {
        "gather": (lambda mb, v: mb.gather(x=v.x, indices=v.i, axis=1), lambda v: v.x[:, v.i.long()]),
        "gather_last": (lambda mb, v: mb.gather(x=TABLE, indices=v.i, axis=-1), lambda v: t(TABLE)[:, v.i.long()]),
        "gather_batch": (
            lambda mb, v: mb.gather(x=v.x, indices=np.array([[0, 3, 3], [2, 1, 0]], np.int32), axis=1, batch_dims=1),
            lambda v: torch.stack((v.x[0][[0, 3, 3]], v.x[1][[2, 1, 0]])),
        ),
        "gather_nd": (lambda mb, v: mb.gather_nd(x=v.square, indices=v.i), lambda v: v.square[v.i[:, 0].long(), v.i[:, 1].long()]),
        "gather_nd_batch": (
            lambda mb, v: mb.gather_nd(x=v.x, indices=np.array([[[0, 1]], [[3, 5]]], np.int32), batch_dims=1),
            lambda v: torch.stack((v.x[0, 0, 1], v.x[1, 3, 5]))[:, None],
        ),
        "gather_along_axis": (
            lambda mb, v: mb.gather_along_axis(x=mb.slice_by_size(x=v.square, begin=[0, 0], size=[3, 4]), indices=v.i, axis=1),
            lambda v: v.square[:3].gather(1, v.i.long()),
        ),
    },
    "resizing": {
        "nearest": unary(
            "upsample_nearest_neighbor",
            lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
            scale_factor_height=2,
            scale_factor_width=3,
        ),
        "nearest_part": unary(
            "upsample_nearest_neighbor",
            lambda x: F.interpolate(x, (9, 20), mode="nearest"),
            scale_factor_height=1.5,
            scale_factor_width=2.5,
        ),
        "nearest_size": unary(
            "resize_nearest_neighbor", lambda x: F.interpolate(x, (7, 9), mode="nearest"), target_size_height=7, target_size_width=9
        ),
        "bilinear": unary(
            "upsample_bilinear",
            lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            scale_factor_height=2,
            scale_factor_width=2,
            align_corners=False,
        ),
        "bilinear_corners": unary(
            "upsample_bilinear",
            lambda x: F.interpolate(x, (12, 24), mode="bilinear", align_corners=True),
            scale_factor_height=2,
            scale_factor_width=3,
            align_corners=True,
        ),
        "bilinear_size": unary(
            "resize_bilinear",
            lambda x: F.interpolate(x, (5, 11), mode="bilinear", align_corners=True),
            target_size_height=5,
            target_size_width=11,
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
    },
    "layers": {
        "conv": (
            lambda mb, v: mb.conv(x=v.x, weight=KERNEL, bias=BIAS, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 1]),
            lambda v: F.conv2d(v.x, t(KERNEL), t(BIAS), (2, 1), 1),
        ),
        "conv_uneven": (
            lambda mb, v: mb.conv(x=v.x, weight=KERNEL, pad_type="custom", pad=[0, 1, 2, 1], dilations=[2, 1]),
            lambda v: F.conv2d(F.pad(v.x, (2, 1, 0, 1)), t(KERNEL), dilation=(2, 1)),
        ),
        "conv_same": (lambda mb, v: mb.conv(x=v.x, weight=KERNEL, pad_type="same"), lambda v: F.conv2d(v.x, t(KERNEL), padding="same")),
        "conv_groups": (
            lambda mb, v: mb.conv(x=v.x, weight=GROUPED, pad_type="valid", groups=2),
            lambda v: F.conv2d(v.x, t(GROUPED), groups=2),
        ),
        "conv_1d": (
            lambda mb, v: mb.conv(x=mb.reshape(x=v.x, shape=[2, 4, 48]), weight=KERNEL[..., 0], pad_type="valid"),
            lambda v: F.conv1d(v.x.reshape(2, 4, 48), t(KERNEL[..., 0])),
        ),
        "conv_transpose": (
            lambda mb, v: mb.conv_transpose(x=v.x, weight=ACROSS, pad_type="custom", pad=[1, 0, 0, 1], strides=[2, 2]),
            lambda v: F.conv_transpose2d(v.x, t(ACROSS), stride=2)[:, :, 1:, :-1],
        ),
        "linear": (lambda mb, v: mb.linear(x=v.x, weight=WEIGHT, bias=C7), lambda v: v.x @ t(WEIGHT).T + t(C7)),
        "matmul": (lambda mb, v: mb.matmul(x=v.x, y=v.y, transpose_y=True), lambda v: v.x @ v.y.mT),
        "matmul_turned": (lambda mb, v: mb.matmul(x=v.x, y=v.y, transpose_x=True), lambda v: v.x.mT @ v.y),
        "einsum": (
            lambda mb, v: mb.einsum(values=(v.x, mb.transpose(x=v.y, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"),
            lambda v: torch.einsum("nchw,nuhw->nchu", v.x, v.y),
        ),
        "layer_norm": (
            lambda mb, v: mb.layer_norm(x=v.x, axes=[-1], gamma=WEIGHT[0], beta=WEIGHT[1], epsilon=1e-3),
            lambda v: (v.x - v.x.mean(-1, True)) / (v.x.var(-1, correction=0, keepdim=True) + 1e-3).sqrt() * t(WEIGHT[0]) + t(WEIGHT[1]),
        ),
        "layer_norm_channels": (
            lambda mb, v: mb.layer_norm(x=v.x, axes=[1], gamma=C4, beta=C4, epsilon=1e-5),
            lambda v: F.layer_norm(v.x.permute(0, 2, 3, 1), (4,), t(C4), t(C4)).permute(0, 3, 1, 2),
        ),
        "batch_norm": (
            lambda mb, v: mb.batch_norm(x=v.x, mean=C4, variance=C4**2, gamma=C4, beta=C4 + 1, epsilon=1e-4),
            lambda v: (
                (v.x - t(C4)[:, None, None]) / (t(C4**2)[:, None, None] + 1e-4).sqrt() * t(C4)[:, None, None] + t(C4 + 1)[:, None, None]
            ),
        ),
        "instance_norm": (
            lambda mb, v: mb.instance_norm(x=v.x, gamma=C4, beta=C4, epsilon=1e-2),
            lambda v: (
                (v.x - v.x.mean((2, 3), True)) / (v.x.var((2, 3), correction=0, keepdim=True) + 1e-2).sqrt() * t(C4)[:, None, None]
                + t(C4)[:, None, None]
            ),
        ),
        "l2_norm": (lambda mb, v: mb.l2_norm(x=v.x, epsilon=1e-3), lambda v: v.x / (v.x.pow(2).sum((1, 2, 3), keepdim=True) + 1e-3).sqrt()),
        "avg_pool": (
            lambda mb, v: mb.avg_pool(x=v.x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
            lambda v: v.x.reshape(2, 4, 3, 2, 4, 2).mean((3, 5)),
        ),
    },
}
LATER = {  # operations of iOS 18
    "attention": (
        lambda mb, v: mb.scaled_dot_product_attention(query=v.x, key=v.y, value=v.p),
        lambda v: (v.x @ v.y.mT / 8**0.5).softmax(-1) @ v.p,
    ),
    "attention_masked": (
        lambda mb, v: mb.scaled_dot_product_attention(query=v.x, key=v.y, value=v.p, attn_mask=WEIGHT[:6, :6].copy()),
        lambda v: (v.x @ v.y.mT / 8**0.5 + t(WEIGHT[:6, :6])).softmax(-1) @ v.p,
    ),
    "attention_bool": (
        lambda mb, v: mb.scaled_dot_product_attention(query=v.x, key=v.y, value=v.p, attn_mask=np.tri(6) > 0),
        lambda v: (v.x @ v.y.mT / 8**0.5).masked_fill(t(np.tri(6)) == 0, -torch.inf).softmax(-1) @ v.p,
    ),
}


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal((2, 4, 6, 8)).astype(np.float32) for _ in range(2))
    square = rng.standard_normal((4, 4)).astype(np.float32)
    p = rng.uniform(0.2, 2, (2, 4, 6, 8)).astype(np.float32)
    return {"x": x, "y": y, "p": p, "square": square, "i": np.array([[0, 1], [3, 2], [1, 1]], np.int32)}


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family(evaluate: Callable[..., list[Tensor]], family: str, target: str) -> None:
    cases = FAMILIES[family] | (LATER if (family, target) == ("layers", "iOS18") else {})

    def build(x: Any, y: Any, p: Any, square: Any, i: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        v = SimpleNamespace(x=x, y=y, p=p, square=square, i=i)
        made = [mb.cast(x=case[0](mb, v), dtype="fp32", name=f"out_{name}") for name, case in cases.items()]
        return tuple(made)

    given = inputs()
    found = evaluate(build, target, **given)
    v = SimpleNamespace(**{name: torch.from_numpy(value) for name, value in given.items()})
    for (name, (_, reference)), made in zip(cases.items(), found, strict=True):
        torch.testing.assert_close(made, reference(v).float(), rtol=2e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


def names(value: Any) -> Iterator[str]:
    code = value.__code__
    yield from code.co_names
    for cell in value.__closure__ or ():
        if isinstance(cell.cell_contents, str):
            yield cell.cell_contents


def test_no_operation_is_left_out() -> None:
    met = {name for cases in (*FAMILIES.values(), LATER) for build, _ in cases.values() for name in names(build)}
    assert set(OPERATIONS) - met == {"shape"}, "add a case for each"
