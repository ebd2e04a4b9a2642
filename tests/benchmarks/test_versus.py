"""Two artifacts in turn: pairs, ratios and processes of their own. What is timed here is too small for its figures to mean anything."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from edgesafe.benchmarks import versus
from edgesafe.benchmarks.child import CellFailed
from edgesafe.benchmarks.turns import Player, in_turn
from edgesafe.benchmarks.versus import VersusConfig
from edgesafe.errors import EdgeSafeError

QUIET = Console(quiet=True)


def test_the_first_of_a_pair_changes_place() -> None:
    asked: list[str] = []

    class Scribe:
        def __init__(self, name: str, ms: float) -> None:
            self.name, self.ms = name, ms

        def play(self, part: str) -> float:
            asked.append(self.name)
            return self.ms

    made = in_turn((Scribe("a", 1.0), Scribe("b", 2.0)), "picture", 4, 1, 60.0, 2)
    assert "".join(asked) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert made == ([1.0] * 4, [2.0] * 4)
    asked.clear()
    assert in_turn((Scribe("a", 1.0), Scribe("b", 2.0)), "picture", 100, 0, 0.0, 3) == ([1.0] * 3, [2.0] * 3), "the limit is over at once"


@pytest.fixture(scope="module")
def record(onnx_folder: Path, run_folder: Path) -> dict:
    return versus.run(VersusConfig(onnx_folder, run_folder, threads=1, pairs=6, steps=2, parts=("picture", "unet_call")), QUIET)


def test_both_are_measured_in_pairs(record: dict) -> None:
    assert (record["a"]["runtime"], record["b"]["runtime"]) == ("onnxruntime", "torch")
    for row, batch in zip(record["parts"], (1, 2), strict=True):
        assert (row["status"], row["batch"], row["times_as_fast"]["n"], row["a"]["n"], row["b"]["n"]) == ("measured", batch, 6, 6, 6)
        low, high = row["times_as_fast"]["interval95"]
        assert low <= row["times_as_fast"]["median"] <= high
    assert record["a"]["sha256"] and record["a"]["name"] == "tiny-onnx-fp32"


def test_each_side_has_its_own_memory(record: dict) -> None:
    """torch's side imports diffusers and transformers, ours neither."""
    assert 100 < record["a"]["peak_mib"] < record["b"]["peak_mib"]


def test_shown(record: dict) -> None:
    failed = {"part": "vae_decoder", "batch": 1, "status": "failed", "reason": "killed", "a": None, "b": None, "times_as_fast": None}
    page = io.StringIO()
    versus.show(Console(file=page, width=160), record | {"parts": [*record["parts"], failed]})
    text = page.getvalue()
    assert "A: tiny-onnx-fp32 (onnxruntime)" in text and "times as fast" in text and "killed" in text and "peak memory" in text


def test_a_child_that_fails_says_why(onnx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CellFailed, match=r"EdgeSafeError: .* is no ONNX export"):
        Player(str(tmp_path), "onnxruntime", 1)
    with Player(str(onnx_folder), "onnxruntime", 1) as player:
        with pytest.raises(CellFailed, match="KeyError: 'no such part'"):
            player.play("no such part")
        with pytest.raises(CellFailed):
            player.play("picture")


def test_wrong_settings_are_named(onnx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="--pairs 1: at least 2 is needed"):
        VersusConfig(onnx_folder, onnx_folder, pairs=1)
    with pytest.raises(EdgeSafeError, match="unknown part 'unet'; known: picture, unet_call"):
        VersusConfig(onnx_folder, onnx_folder, parts=("unet",))
    with pytest.raises(EdgeSafeError, match="A, .*: .* holds no torch weights"):
        versus.run(VersusConfig(onnx_folder, onnx_folder, runtime_a="torch"), QUIET)
