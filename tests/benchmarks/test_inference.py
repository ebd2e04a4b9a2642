"""The plan of the races, the arithmetic of the operator profile, and what a finished record looks like on the screen."""

import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from edgesafe.benchmarks import inference, operators, random_pipeline
from edgesafe.benchmarks.peers import PEERS
from edgesafe.benchmarks.runtimes import RUNTIMES
from edgesafe.errors import EdgeSafeError


@pytest.mark.parametrize("size", ["sd15", "tenth"])
def test_every_race_can_be_prepared(size: str) -> None:
    planned, made = inference.races(size), inference.exports(size)
    assert {race.part for race in planned} == set(inference.PARTS) - {"profile"}
    assert len({race.name for race in planned}) == len(planned)
    for race in planned:
        assert race.ours.runtime in RUNTIMES and race.theirs.runtime in {*RUNTIMES, *PEERS}
        for model in (race.ours, race.theirs):
            assert model.folder in made or model.folder in ("emoji:teacher", size), model
    sources = {source for source, _ in made.values()}
    assert sources == {"emoji:teacher", "emoji:student", size, f"{size}-tiny"}


def test_a_failed_export_is_told(tmp_path: Path) -> None:
    (tmp_path / "tenth").mkdir()
    (tmp_path / "tenth" / "model_index.json").write_text("{")
    with pytest.raises(EdgeSafeError, match=r"exporting tenth-onnx: .*model_index.json: not valid JSON"):
        inference.prepare("tenth-onnx", "tenth", tmp_path, Console(quiet=True))


def test_unknown_parts_are_named() -> None:
    result = CliRunner().invoke(inference.main, ["--parts", "emoji,nothing"])
    assert result.exit_code == 2 and "unknown part 'nothing'; known: emoji, emoji-int8" in result.output
    result = CliRunner().invoke(inference.main, ["--size", "huge"])
    assert result.exit_code == 2 and "--size huge: known are sd15" in result.output


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    times, peaks = {side: {"median_ms": 10.0} for side in ("ours", "theirs")}, {"ours": 100.0, "theirs": 100.0}
    ratio = {"n": 3, "median": 2.0, "interval95": None, "warning": None}

    def race(one: inference.Race, *given: object) -> dict:
        ran.append(one.name)
        if one.theirs.runtime == "diffusers":
            raise EdgeSafeError("no such luck")
        return {"times": times, "peak_mib": peaks, "times_as_fast": ratio, "memory_ratio": 1.0}

    monkeypatch.setattr(inference, "race", race)
    monkeypatch.setattr(inference, "prepare", lambda name, *given: name)
    options = ["--parts", "emoji", "--out", str(tmp_path)]
    first = CliRunner().invoke(inference.main, options)
    assert first.exit_code == 0, first.output
    CliRunner().invoke(inference.main, options)
    assert len(ran) == 3 + 1, "the failed race alone is run again"
    assert "no such luck" in first.output.replace("\n", " ")
    record = json.loads((tmp_path / "sd15-2-threads.json").read_text())
    assert record["threads"] == 2 and record["machine"]["processor"]
    assert sorted(row["status"] for row in record["races"].values()) == ["failed", "measured", "measured"]


def test_operations_are_counted() -> None:
    """Against torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    x, weight = torch.randn(2, 8, 10, 10), torch.randn(16, 4, 3, 3)
    a, b = torch.randn(2, 5, 7), torch.randn(7, 9)
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 3, 4)
    runs = {
        "Conv": (lambda: torch.conv2d(x, weight, padding=1, groups=2), [x.shape, weight.shape], [(2, 16, 10, 10)]),
        "MatMul": (lambda: a @ b, [a.shape, b.shape], [(2, 5, 9)]),
        "MultiHeadAttention": (lambda: (q @ k.mT).softmax(-1) @ k, [(1, 5, 8), (1, 3, 8), (1, 3, 8)], [(1, 5, 8)]),
    }
    for operator, (run, inputs, outputs) in runs.items():
        with FlopCounterMode(display=False) as counter:
            run()
        assert operators.operations(operator, inputs, outputs) == counter.get_total_flops(), operator
    in_8_bits = operators.operations("QLinearConv", [x.shape, [], [], weight.shape, [16], [16], [], []], [(2, 16, 10, 10)])
    assert in_8_bits == operators.operations("Conv", [x.shape, weight.shape], [(2, 16, 10, 10)])
    assert operators.operations("Add", [(3, 3), (3, 3)], [(3, 3)]) == 0


def test_a_profile_is_summed_by_operator() -> None:
    def node(name: str, operator: str, microseconds: float, shapes: list) -> dict:
        given, made = ([{"float": shape} for shape in side] for side in shapes)
        args = {"op_name": operator, "input_type_shape": given, "output_type_shape": made}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}

    product, sums = [[[10, 100], [100, 50]], [[10, 50]]], [[[10, 50], [50]], [[10, 50]]]
    events = [{"name": "model_run", "cat": "Session", "dur": microseconds} for microseconds in (9000, 4000, 5000, 6000)]
    for warm in (9, 1, 1, 1):
        events += [node("a", "MatMul", 1000 * warm, product), node("b", "MatMul", 2000 * warm, product), node("c", "Add", 500 * warm, sums)]
    found = operators.by_operator(events, 1.0, {})
    matmul, add = found["operators"]
    assert (matmul["operator"], matmul["nodes"], matmul["ms"], add["ms"]) == ("MatMul", 2, 3.0, 0.5)
    assert matmul["gflop"] == pytest.approx(2 * 2 * 10 * 100 * 50 / 1e9, abs=1e-3)
    assert matmul["share"] == pytest.approx(3 / 3.5, abs=1e-3) and add["share_of_peak"] is None
    assert found["call_ms"] == 5.0


def test_profile_of_a_small_unet(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "SIDE", 64)
    found = operators.profile(onnx_folder, None, 1, calls=2)
    kinds = {row["operator"]: row for row in found["operators"]}
    assert kinds["MultiHeadAttention"]["nodes"] == 32 and kinds["Conv"]["gflop"] > 0
    page = io.StringIO()
    operators.show(Console(file=page, width=140), found)
    assert "MultiHeadAttention" in page.getvalue() and "of the machine's" in page.getvalue()


def test_a_pruned_random_pipeline_has_the_students_shape() -> None:
    size = random_pipeline.pruned(random_pipeline.SIZES["tenth"], "tiny")
    assert size.unet["mid_block_type"] is None and size.unet["layers_per_block"] == 1
    assert list(size.unet["block_out_channels"]) == [96, 192, 448]
