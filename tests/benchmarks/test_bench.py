"""The whole bench on pictures whose truth is known: what it counts, what it writes, what it says when a part fails."""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from edgesafe import artifact
from edgesafe.benchmarks import child, report, sources
from edgesafe.benchmarks.audit import AuditConfig
from edgesafe.benchmarks.audit import run as audit
from edgesafe.benchmarks.bench import BenchConfig, run
from edgesafe.benchmarks.versus import VersusConfig
from edgesafe.cli import main
from edgesafe.errors import ArtifactError, EdgeSafeError

from .conftest import Painter

N = 20
QUIET = Console(quiet=True)
MACHINE = {"processor": "a test"}


@pytest.fixture
def export(onnx_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_folder, tmp_path / "runs" / "tiny-onnx-fp32"))


def bench(export: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    folder = run(BenchConfig(export, **{"pictures": N, "probes": "plain"} | options), MACHINE, QUIET)
    return folder, json.loads((folder / "report.json").read_text())


def test_the_audit_stands_in_the_report(export: Path, paint: Callable) -> None:
    paint({"export": Painter(["neon"], leak_every=5, break_every=10), "emoji:student": Painter([]), "emoji:teacher": Painter([])})
    folder, found = bench(export)
    (cell,) = found["audit"]["cells"]
    counts = {name: cell["export"][name]["numerator"] for name in ("leaked", "removed", "gone", "other", "none")}
    assert counts == {"leaked": 4, "removed": 14, "gone": 0, "other": 0, "none": 2}  # seeds 0, 5, 10, 15; 1, 11
    assert found["audit"] == json.loads((folder / "audit.json").read_text())
    assert found["audit"]["artifact"]["sha256"] == found["artifact"]["sha256"] == artifact.sha256(export / "manifest.json")
    assert len((folder / "pictures.jsonl").read_text().splitlines()) == 2 * 3 * N
    assert {panel["cell"] for panel in found["grid"]["panels"]} == {"erased", "neighbours", "rest"}
    assert {row["model"] for panel in found["grid"]["panels"] for row in panel["rows"]} == {"export", "control", "base"}
    assert folder.name == "tiny-onnx-fp32-bench"
    assert artifact.read(export).audit == "unmeasured", "the export stays as it was sealed"


def test_it_asks_plainly_and_in_other_words(export: Path, paint: Callable) -> None:
    paint({"export": Painter(["neon"]), "emoji:student": Painter([]), "emoji:teacher": Painter([])})
    folder = run(BenchConfig(export, pictures=4), MACHINE, QUIET)
    record = json.loads((folder / "audit.json").read_text())
    assert {cell["probe"]: cell["status"] for cell in record["cells"]} == {"plain": "measured", "paraphrase": "measured"}


def test_an_audit_and_a_bench_draw_the_same_pictures_once(export: Path, paint: Callable) -> None:
    control = Painter([])
    paint({"export": Painter(["neon"]), "emoji:student": control, "emoji:teacher": Painter([])})
    bench(export)
    assert control.drawn == 3 * N
    audit(AuditConfig(export, pictures=N, probes="plain"), MACHINE, QUIET)
    assert control.drawn == 3 * N
    bench(export, out=export.with_name("third"), steps=7)
    assert control.drawn == 6 * N, "other steps are other pictures"


def test_a_stopped_bench_leaves_nothing_but_its_pictures(export: Path, paint: Callable) -> None:
    class Interrupted(Painter):
        def generate(self, *prompts: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    artist = Painter(["neon"])
    paint({"export": artist, "emoji:student": Interrupted([]), "emoji:teacher": Painter([])})
    with pytest.raises(KeyboardInterrupt):
        bench(export)
    assert sorted(path.name for path in export.parent.iterdir()) == [".cache", "tiny-onnx-fp32"]
    drawn = artist.drawn
    paint({"export": artist, "emoji:student": Painter([]), "emoji:teacher": Painter([])})
    bench(export)
    assert (drawn, artist.drawn) == (N, 3 * N)


def test_the_command_says_how_much_leaks_and_where_the_report_is(export: Path, paint: Callable) -> None:
    paint({"export": Painter(["neon"]), "emoji:student": Painter([]), "emoji:teacher": Painter([])})
    result = CliRunner().invoke(main, ["bench", str(export), "--pictures", "4", "--threads", "1", "--probes", "plain"])
    assert result.exit_code == 0, result.output
    assert "leaks at most 49.0 % (upper 95 %) under these probes: " in result.stdout
    assert result.stdout.strip().endswith("tiny-onnx-fp32-bench/report.html")
    again = CliRunner().invoke(main, ["bench", str(export)])
    assert again.exit_code == 2
    assert "tiny-onnx-fp32-bench exists. Give another --out, or --force" in again.output


def test_failed_parts_are_shown_with_their_reason(export: Path, paint: Callable) -> None:
    """The base model's process dies, and there is no control."""
    paint({"export": Painter(["neon"]), "emoji:teacher": Painter([])})
    folder, found = bench(export, control="no-such-folder")
    failed = [row for row in found["cold_starts"] if row["status"] == "failed"]
    reason = "the measuring process was killed by signal 9 (out of memory?)"
    assert [(row["what"], row["reason"]) for row in failed] == [("base model", reason)]
    assert found["audit"]["cells"][0]["control"] is None
    assert "no-such-folder" in found["control"]["failure"]
    assert any("no un-erased control" in caution for caution in found["audit"]["verdicts"][0]["cautions"])
    page = (folder / "report.html").read_text()
    assert "killed by signal 9" in page
    assert "no-such-folder" in page


def test_a_model_without_detector_gets_speed_memory_and_sizes_only(tiny_sd1: Path, tmp_path: Path, paint: Callable) -> None:
    paint({})
    folder, found = bench(tiny_sd1, out=tmp_path / "plain")
    assert found["audit"] is None and found["grid"] is None
    assert "no manifest.json tells what was erased from it" in found["audit_reason"]
    assert not (folder / "audit.json").exists()
    assert {row["part"] for row in found["latency"]} == {"picture", "unet_call", "text_encoder", "vae_decoder"}
    assert "was not measured" in (folder / "report.html").read_text()


def test_a_core_ml_export_gives_its_sizes(export: Path, paint: Callable, tmp_path: Path) -> None:
    paint({})
    folder = tmp_path / "tiny-coreml-fp16"
    for name, size in (("Unet", 3000), ("TextEncoder", 1000)):
        (folder / "Resources" / f"{name}.mlpackage" / "Data").mkdir(parents=True)
        (folder / "Resources" / f"{name}.mlpackage" / "Data" / "weight.bin").write_bytes(bytes(size))
    old = artifact.read(export)
    artifact.seal(folder, artifact.replace(old, target={"name": "coreml", "precision": "fp16"}))
    _, found = bench(folder)
    assert {row["name"]: row["size_mib"] for row in found["sizes"][0]["components"]} == {"Unet": 0.003, "TextEncoder": 0.001}
    assert {row["status"] for row in found["latency"]} == {"failed"}
    with pytest.raises(EdgeSafeError, match="--runtimes: .* is no ONNX export"):
        bench(folder, runtimes=("onnxruntime",), out=tmp_path / "other")


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs there, and is timed")
def test_a_core_ml_export_is_audited_but_not_timed(export: Path, paint: Callable, tmp_path: Path) -> None:
    paint({"export": Painter(["neon"]), "emoji:student": Painter([])})
    folder = tmp_path / "tiny-coreml-fp16"
    for name in ("Unet", "TextEncoder", "VAEDecoder"):
        (folder / f"{name}.mlpackage").mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    artifact.seal(folder, artifact.replace(artifact.read(export), target={"name": "coreml", "precision": "fp16"}))
    _, found = bench(folder)
    assert found["audit"]["cells"][0]["status"] == "measured" and found["audit"]["runtime"] == "coreml"
    for rows in (found["latency"], found["cold_starts"], found["memory"]):
        (row,) = [row for row in rows if row["runtime"] == "coreml"]
        assert row["status"] == "failed" and "evaluated with torch here, which tells no times" in row["reason"]


def test_without_a_path_the_newest_that_can_be_run_is_taken(export: Path, tmp_path: Path) -> None:
    old = artifact.read(export)
    newer = export.with_name("newer-coreml-fp16")
    newer.mkdir()
    artifact.seal(newer, artifact.replace(old, target={"name": "coreml", "precision": "fp16"}))
    found, passed = sources.newest(("export",), export.parent)
    assert found == export
    assert len(passed) == 1
    assert "newer-coreml-fp16 is newer, but cannot be run here" in passed[0]


def test_no_export_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished export under .*edgesafe export"):
        sources.newest(("export",), tmp_path)


def test_the_run_behind_an_export(export: Path, run_folder: Path, tmp_path: Path) -> None:
    assert sources.twin(sources.describe(export)).place == str(run_folder)
    assert sources.twin(sources.describe(run_folder)).place == str(run_folder)


def test_a_run_that_changed_since_is_not_the_one_behind_the_export(export: Path, run_folder: Path) -> None:
    other = Path(shutil.copytree(run_folder, export.with_name("tiny")))
    manifest = artifact.read(other)
    artifact.seal(other, artifact.replace(manifest, steps=(artifact.replace(manifest.steps[0], seed=8),)))
    step = artifact.replace(artifact.read(export).steps[-1], config={"source": str(other)})
    artifact.seal(export, artifact.replace(artifact.read(export), steps=(*artifact.read(export).steps[:-1], step)))
    with pytest.raises(EdgeSafeError, match="has changed since this export was made from it"):
        sources.twin(sources.describe(export))


def test_refuses_before_any_work(export: Path, tmp_path: Path, paint: Callable) -> None:
    paint({})
    with pytest.raises(EdgeSafeError, match="--runtimes: unknown runtime 'tvm'; known: onnxruntime, openvino, torch, coreml"):
        BenchConfig(export, runtimes=("tvm",))
    with pytest.raises(EdgeSafeError, match="--pictures 1: at least 2"):
        BenchConfig(export, pictures=1)
    with pytest.raises(EdgeSafeError, match="--runtimes: .* holds no torch weights.* It runs on onnxruntime"):
        bench(export, runtimes=("torch",))
    (tmp_path / "there").mkdir()
    with pytest.raises(ArtifactError, match="there exists"):
        bench(export, out=tmp_path / "there")
    with pytest.raises(EdgeSafeError, match="--probes: unknown probe 'plane'"):
        BenchConfig(export, probes="plane")
    with pytest.raises(EdgeSafeError, match="--detectors: unknown detector 'eyes'"):
        bench(export, detectors="eyes")
    with pytest.raises(EdgeSafeError, match="--vs takes one runtime for both models, or one for each"):
        BenchConfig(export, against=export, runtimes=("torch", "onnxruntime", "openvino"))
    with pytest.raises(EdgeSafeError, match="no such folder"):
        bench(tmp_path / "nowhere")
    (export / "unet" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="unet/model.onnx"):
        bench(export)
    assert sorted(path.name for path in export.parent.iterdir()) == ["tiny-onnx-fp32"], "nothing was written"


def test_sizes_of_a_run_are_its_models(run_folder: Path) -> None:
    found = sources.sizes(sources.describe(run_folder))
    assert {"unet", "vae", "text_encoder", "tokenizer"} <= set(found)
    assert sum(found.values()) == sum(path.stat().st_size for path in (run_folder / "model").rglob("*") if path.is_file())


def test_a_measurement_in_a_child_process(onnx_folder: Path) -> None:
    spec = {"source": str(onnx_folder), "runtime": "onnxruntime", "steps": 1, "guidance": 4.0, "sampler": "ddim"}
    found = child.call("cold", spec, threads=1)
    parts = found["libraries_ms"] + found["load_ms"] + found["first_picture_ms"]
    assert found["total_ms"] == pytest.approx(parts, abs=1)
    assert 20 < found["import_only_peak_mib"] < found["peak_mib"]
    with pytest.raises(child.CellFailed, match="unknown runtime 'tvm'"):
        child.call("cold", spec | {"runtime": "tvm"}, threads=1)


def test_warm_times_in_this_process(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesafe.benchmarks import latency

    monkeypatch.setattr(latency, "PICTURES", 3)
    monkeypatch.setattr(latency, "CALLS", 4)
    found = latency.warm(str(onnx_folder), "onnxruntime", 1, 4.0, "ddim", 1, 0.0)
    runs = {part: len(row["samples_ms"]) for part, row in found.items()}
    assert runs == {"picture": 3, "unet_call": 4, "text_encoder": 4, "vae_decoder": 4}


def test_slow_runs_stop_at_the_limit_but_not_before_the_third() -> None:
    from edgesafe.benchmarks import latency

    assert len(latency.timed(lambda: None, 10, 2)["samples_ms"]) == 10
    slow = latency.timed(lambda: None, 10, 5, limit_s=0.0)
    assert (slow["warm_up"], len(slow["samples_ms"])) == (1, 3)


def test_two_models_in_turn(onnx_folder: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesafe.benchmarks.bench.VersusConfig", partial(VersusConfig, pairs=2, parts=("unet_call",)))
    out = tmp_path / "pair"
    result = CliRunner().invoke(main, ["bench", str(run_folder), str(onnx_folder), "--vs", "--threads", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "report.json").read_text())
    report.check(found)
    assert [(side["name"], side["runtime"]) for side in (found["versus"]["a"], found["versus"]["b"])] == [
        ("tiny", "torch"), (onnx_folder.name, "onnxruntime"),
    ]  # fmt: skip
    assert [(row["part"], row["status"]) for row in found["versus"]["parts"]] == [("unet_call", "measured")]
    assert found["versus"]["parts"][0]["times_as_fast"]["n"] == 2
    assert found["audit"] is None and "edgesafe audit" in found["audit_reason"]


@pytest.mark.parametrize("words", [["a", "b"], ["a", "--vs"], ["--vs"], ["a", "b", "c", "--vs"]])
def test_two_models_need_vs_and_vs_needs_two(words: list[str]) -> None:
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code == 2 and "edgesafe bench EXPORT OTHER --vs" in result.output


def test_bench_runs_as_one_process(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EdgeSafeError, match="bench takes times, so it runs as one process"):
        bench(export)


def test_the_report_is_valid(export: Path, paint: Callable) -> None:
    paint({"export": Painter(["neon"]), "emoji:student": Painter([]), "emoji:teacher": Painter([])})
    _, found = bench(export)
    report.check(found)
    assert {row["runtime"] for row in found["cold_starts"]} == {"onnxruntime", "torch"}  # what reads the export, and its run beside it
