"""What is timed, and that each measurement has a process of its own."""

from pathlib import Path

import pytest

from edgesafe.benchmarks import child, latency, speed
from edgesafe.benchmarks.gallery import Drawing
from edgesafe.benchmarks.latency import timed
from edgesafe.benchmarks.sources import describe
from edgesafe.benchmarks.speed import Subject


def test_warm_up_is_not_timed() -> None:
    calls: list[int] = []
    found = timed(lambda: calls.append(1), n=10, warm_up=3)
    assert (found["warm_up"], len(found["samples_ms"]), len(calls)) == (3, 10, 13)


def test_large_models_stop_at_the_limit() -> None:
    found = timed(lambda: None, n=10, warm_up=3, limit_s=0.0)
    assert (found["warm_up"], len(found["samples_ms"])) == (1, latency.AT_LEAST)


def test_cold_and_warm_rows(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject("export", "onnxruntime", describe(onnx_folder))
    begun: list[str] = []
    found = speed.measure([subject], Drawing(2, 4.0, "ddim"), 1, begun.append)
    assert begun == ["cold export, onnxruntime", "warm export, onnxruntime"]
    (cold,), (memory,) = found["cold_starts"], found["memory"]
    assert cold["status"] == "measured" and cold["total_ms"] >= cold["load_ms"] + cold["first_picture_ms"]
    assert memory["import_only_peak_mib"] < memory["peak_mib"]
    rows = {row["part"]: row for row in found["latency"]}
    assert {part: row["batch"] for part, row in rows.items()} == {"picture": 1, "unet_call": 2, "text_encoder": 1, "vae_decoder": 1}
    assert all(row["n"] >= 10 and row["threads"] == 1 for row in rows.values())
    assert rows["unet_call"]["median_ms"] < rows["picture"]["median_ms"]


def test_a_dead_child_is_a_failed_cell(tmp_path: Path) -> None:
    with pytest.raises(child.CellFailed, match="EdgeSafeError"):
        child.call("cold", {"source": str(tmp_path), "runtime": "torch", "steps": 1, "guidance": 1.0, "sampler": "ddim"}, 1)
    failed = speed.measure([Subject("export", "torch", child.CellFailed("killed"))], Drawing(2, 4.0, "ddim"), 1, lambda what: None)
    assert failed["cold_starts"][0]["reason"] == "killed" and failed["latency"] == [
        {"what": "export", "runtime": "torch", "threads": 1, "part": "picture", "batch": 1, "status": "failed", "reason": "killed"}
    ]
