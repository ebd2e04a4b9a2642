"""Where a UNet call's time goes: onnxruntime's own profile by operator, and each one's share of what the machine can do.

    python -m edgesafe.benchmarks.operators EXPORT [--size 256] [--threads 2]

Arithmetic is counted of convolutions, matrix products and attention (2 operations a multiply-add) and divided by the time that the
profile gives them; the machine's peak is the fastest of several large fp32 matrix products, torch's and onnxruntime's, before and after the
profile. Operators in 8 bits may pass it.
"""

import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from edgesafe.errors import EdgeSafeError

from . import runtimes
from .runtimes.layout_runtime import LayoutRuntime
from .runtimes.onnxruntime_runtime import OnnxRuntime, OnnxUNet

SIDE = 3072  # of the matrices for the peak
CALLS = 8
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
Shapes = Sequence[Sequence[int]]


class ProfiledUNet(OnnxUNet):
    """Its main session writes a profile beside `prefix`."""

    prefix = ""

    def _options(self, threads: int | None, spins: bool) -> Any:
        options = super()._options(threads, spins)
        options.enable_profiling, options.profile_file_prefix = spins, self.prefix  # the main session alone spins
        return options


class ProfiledRuntime(OnnxRuntime):
    unet_component = ProfiledUNet


def profile(folder: str | Path, size_px: int | None, threads: int, calls: int = CALLS) -> dict[str, Any]:
    """Of the UNet call with guidance, at batch 2."""
    from .turns import runs

    torch.set_num_threads(threads)
    peak = peak_gflops()
    with tempfile.TemporaryDirectory() as scratch:
        ProfiledUNet.prefix = f"{scratch}/unet"
        model: LayoutRuntime = ProfiledRuntime.open(folder, threads)
        call = runs(model, {}, size_px)["unet_call"]
        for _ in range(calls + 1):
            call()
        unet: Any = model.unet
        (plan,) = unet.plans.values()
        events = json.loads(Path(plan.main.end_profiling()).read_text())
    after = max(peak, peak_gflops())
    facts = {"size_px": size_px, "threads": threads, "calls": calls, "peak_gflops": round(after, 1)}
    return facts | by_operator(events, after, kernels(Path(folder) / "unet" / OnnxRuntime.file))


def kernels(path: Path) -> dict[str, Sequence[int]]:
    """Each convolution's name -> the shape of its weight, which a profile leaves out where onnxruntime packed it, as in 8 bits."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    made = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.name: shapes[made.get(node.input[1], node.input[1])] for node in graph.node if node.op_type == "Conv"}


def peak_gflops(rounds: int = 5) -> float:
    """Of the fp32 matrix product of two SIDE x SIDE matrices, by torch and by onnxruntime; the fastest of the rounds."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (SIDE, SIDE)) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", sides[:2], sides[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a, b = torch.randn(2, SIDE, SIDE)
    feeds = {"a": a.numpy(), "b": b.numpy()}
    times = []
    for multiply in (lambda: a @ b, lambda: session.run(None, feeds)):
        for _ in range(rounds):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(times) / 1e9


def by_operator(events: Sequence[Mapping[str, Any]], peak: float, weights: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Median time of each node over the calls but the first, summed by operator; events of onnxruntime's profile."""
    took: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            took[event["name"]].append(event["dur"] / 1e3)
            seen[event["name"]] = event["args"]
    calls = [event["dur"] / 1e3 for event in events if event.get("name") == "model_run"][1:]
    rows: dict[str, dict[str, float]] = defaultdict(lambda: {"nodes": 0, "ms": 0.0, "gflop": 0.0})
    for name, times in took.items():
        row = rows[seen[name]["op_name"]]
        row["nodes"] += 1
        row["ms"] += statistics.median(times[1:] or times)
        shapes = [[next(iter(shape.values())) for shape in seen[name][key]] for key in ("input_type_shape", "output_type_shape")]
        if not any(len(shape) > 2 for shape in shapes[0][1:]) and (kernel := weights.get(name.split("_token_")[0])):
            shapes[0].append(kernel)
        row["gflop"] += operations(seen[name]["op_name"], *shapes) / 1e9
    total = sum(row["ms"] for row in rows.values())
    table = [
        {
            "operator": operator,
            "nodes": row["nodes"],
            "ms": round(row["ms"], 3),
            "share": round(row["ms"] / total, 4),
            "gflop": round(row["gflop"], 3),
            "share_of_peak": round(row["gflop"] / row["ms"] * 1e3 / peak, 3) if row["gflop"] else None,
        }
        for operator, row in sorted(rows.items(), key=lambda item: -item[1]["ms"])
    ]
    gflop, call = sum(row["gflop"] for row in table), statistics.median(calls)
    whole = {"call_ms": round(call, 3), "gflop": round(gflop, 2), "share_of_peak": round(gflop / call * 1e3 / peak, 3)}
    return whole | {"operators": table}


def operations(operator: str, inputs: Shapes, outputs: Shapes) -> float:
    """Additions and multiplications of a node; 0 for what is no product."""
    made = math.prod(outputs[0]) if outputs else 0
    if operator in ("Conv", "FusedConv", "QLinearConv"):
        weight = next((shape for shape in inputs[1:] if len(shape) > 2), ())  # behind the scales, in 8 bits
        if not weight:
            raise EdgeSafeError(f"the profile does not tell the shape of the weight of a {operator}, so its arithmetic is not known")
        return 2.0 * made * math.prod(weight[1:])
    if operator in PRODUCTS:
        return 2.0 * made * inputs[0][-1]
    if operator == "MultiHeadAttention":
        n, queries, width = inputs[0]
        return 4.0 * n * queries * inputs[1][1] * width
    return 0.0


def show(console: Console, record: Mapping[str, Any], top: int = 12) -> None:
    title = (
        f"UNet call {record['call_ms']:.1f} ms, {record['gflop']:.1f} GFLOP: {record['share_of_peak']:.0%} of the machine's "
        f"{record['peak_gflops']:.0f} GFLOP/s in fp32, {record['threads']} threads"
    )
    table = Table("operator", "nodes", "ms", "share", "GFLOP", "of the peak", title=title)
    for row in record["operators"][:top]:
        of_peak = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        table.add_row(row["operator"], str(row["nodes"]), f"{row['ms']:.2f}", f"{row['share']:.1%}", f"{row['gflop']:.2f}", of_peak)
    console.print(table)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--size", "size_px", type=click.IntRange(8), metavar="PIXELS", help="Default: the model's own.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there instead of showing them.")
def main(folder: Path, size_px: int | None, threads: int, file: Path | None) -> None:
    """Profile the UNet of FOLDER, an ONNX export."""
    if why := runtimes.RUNTIMES["onnxruntime"].why_not(folder):
        raise click.ClickException(why)
    record = profile(folder, size_px, threads)
    if file:
        file.write_text(json.dumps(record, indent=1) + "\n")
    else:
        show(Console(), record)


if __name__ == "__main__":
    main()
