"""Comparing: the tests against counting by hand, pairs only of the same questions, noise called noise, other settings never silently."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgesafe.benchmarks import differences, evidence
from edgesafe.benchmarks.compare import CompareConfig, Comparison, Row, run
from edgesafe.benchmarks.differences import Share
from edgesafe.commands.compare import compare as command
from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.wilson import interval

from . import audits
from .audits import cell, flags

LATENCY = {"what": "export", "status": "measured", "reason": None, "runtime": "onnxruntime", "threads": 2, "part": "picture", "batch": 1}
TIMES = {"median_ms": 150.0, "q1_ms": 149.0, "q3_ms": 152.0, "n": 10}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return audits.sealed(tmp_path / "tiny-onnx")


def record(folder: Path, export: Path, name: str, report: dict[str, Any] | None = None, **given: Any) -> Path:
    """audit.json, or a report.json with the parts given and this audit in it."""
    audit, pictures = audits.audit(export, **given)
    audit = audits.stamped(audit | {"artifact": audit["artifact"] | {"name": name}})
    path = audits.write(folder / name, audit, pictures)
    if report is None:
        return path
    rules = evidence.schema("report.schema.json")
    empty = dict.fromkeys(rules["required"]) | {key: [] for key in ("latency", "memory", "sizes", "parity")}
    head = {"schema_version": rules["properties"]["schema_version"]["const"], "artifact": audit["artifact"], "audit": audit}
    path = path.with_name("report.json")
    path.write_text(json.dumps(empty | head | report))
    return path


def row(found: Comparison, start: str) -> Row:
    (one,) = [row for row in found.rows if row.what.startswith(start)]
    return one


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 1), (0, 6), (5, 5), (2, 9)])
def test_mcnemar_counts_the_coin_tosses(b: int, c: int) -> None:
    tosses = list(itertools.product((0, 1), repeat=b + c))
    as_far = sum(abs(sum(toss) - (b + c) / 2) >= abs(b - (b + c) / 2) for toss in tosses)
    assert differences.mcnemar(b, c) == pytest.approx(as_far / len(tosses))


def test_the_interval_is_newcombes() -> None:
    """His first example (Statistics in Medicine 17, 1998, table II, method 10): 56/70 - 48/80 = 0.2000, 0.0524 to 0.3339."""
    first, other = (Share(hits / n, *interval(hits, n)) for hits, n in ((48, 80), (56, 70)))
    assert differences.interval(first, other) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert differences.interval(other, first) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_pairs_that_always_agree_leave_little_room() -> None:
    share = Share(0.3, 0.2, 0.45)
    assert differences.interval(share, share, 1.0) == pytest.approx((-0.05, 0.05))
    apart = differences.interval(share, share, 0.0)
    assert apart[0] < -0.17 and apart[1] > 0.17


def test_phi_is_the_correlation_of_the_flags_taken_cautiously() -> None:
    import numpy as np

    for share, cautious in ((0.9, True), (0.1, False)):  # alike, unlike
        draw = np.random.default_rng(0).random((2, 4000))
        one = draw[0] < 0.5
        other = one ^ (draw[1] > share)
        exact, found = np.corrcoef(one, other)[0, 1], differences.phi(list(zip(one.tolist(), other.tolist(), strict=True)))
        assert found == pytest.approx(exact, abs=3e-3) and (found < exact - 1e-6) == cautious
    assert differences.phi([(True, True)] * 3) == 0.0
    assert differences.phi([(True, True), (False, False)]) == 0.0
    assert differences.phi([(True, True)] * 18 + [(False, False)] * 6) == pytest.approx((108 - 12) / 108)


def test_pictures_of_the_same_questions_are_paired(export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a", plain=flags(20)), record(tmp_path, export, "b", plain=flags(2))
    found = run(CompareConfig(paths))
    leaked = row(found, "“neon” leaked, plain")
    assert [value.split(" ")[0] for value in leaked.values] == ["20/40", "2/40"] and leaked.differences[0].startswith("-45.0 points [-")
    p = differences.mcnemar(18, 0)
    assert leaked.verdicts == (f"differs: 18 only in the first, 0 only here, p {p:.2g}",)
    assert row(found, "rest right").verdicts == ("within noise: 0 only in the first, 0 only here, p 1",)
    assert row(found, "FID, 80 pictures").differences == ("+0.00",)
    assert found.notes == ("3 rates are compared at 5% each: about 0.15 would differ by chance alone.",)


def test_a_small_difference_is_noise(export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a", plain=flags(5)), record(tmp_path, export, "b", plain=flags(3))
    assert row(run(CompareConfig(paths)), "“neon” leaked").verdicts == ("within noise: 2 only in the first, 0 only here, p 0.5",)


def test_without_the_pictures_rates_are_compared_unpaired(export: Path, tmp_path: Path) -> None:
    paths = [record(tmp_path, export, name, plain=flags(hits)) for name, hits in (("a", 38), ("b", 2), ("c", 37))]
    (tmp_path / "b" / "pictures.jsonl").unlink()
    found = run(CompareConfig(tuple(paths)))
    leaked = row(found, "“neon” leaked")
    assert leaked.verdicts[0] == "differs, not paired" and leaked.verdicts[1].startswith("within noise: 1 only in the first")
    assert f"{paths[1]}: no pictures.jsonl beside it, so its pictures are not paired with others." in found.notes
    assert found.names == ("a (onnx fp16)", "b (onnx fp16)", "c (onnx fp16)")


def test_pictures_that_are_not_what_was_counted_are_not_paired(export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a", plain=flags(38)), record(tmp_path, export, "b", plain=flags(2))
    lines = [json.loads(line) for line in (tmp_path / "b" / "pictures.jsonl").read_text().splitlines()]
    hidden = [line | {"outcome": "leaked"} if line["outcome"] == "removed" else line for line in lines]
    audits.write(tmp_path / "b", json.loads(paths[1].read_text()), hidden)
    assert row(run(CompareConfig(paths)), "“neon” leaked").verdicts == ("differs, not paired",)


def test_a_probe_that_only_one_asked_is_shown(export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a"), record(tmp_path, export, "b", others=[cell("typos", flags(1)), cell("noise", None)])
    found = run(CompareConfig(paths))
    typos, noise = row(found, "“neon” leaked, typos"), row(found, "“neon” leaked, noise")
    assert (typos.values[0], typos.differences, typos.verdicts) == ("–", ("–",), ("not measured in both",))
    assert noise.values == ("–", "–")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"steps": 8}}, "steps 25 and 8"),
        ({"settings": {"sampler": "pndm"}}, "sampler ddim and pndm"),
        ({"settings": {"seed": 5, "pictures_per_cell": 10}}, "seed 0 and 5; pictures_per_cell 40 and 10"),
        ({"detectors": {"sha256": "0" * 64}}, "sha256 of emoji-judge: abababababab… and 000000000000…"),
        ({"detectors": {"threshold": 0.5}}, "threshold of emoji-judge: None and 0.5"),
        ({"probes": {"settings": {"rate": 0.1}}}, "settings of plain: nothing and rate 0.1"),
    ],
)
def test_other_settings_are_never_compared_silently(change: dict[str, Any], message: str, export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a"), record(tmp_path, export, "b")
    audit = json.loads(paths[1].read_text())
    for key, fields in change.items():
        (audit[key] if key == "settings" else audit[key][0]).update(fields)
    paths[1].write_text(json.dumps(audits.stamped(audit)))
    with pytest.raises(EdgeSafeError, match=f"not measured alike: {message}. Measure them alike, or compare them .* with --anyway"):
        run(CompareConfig(paths))
    assert run(CompareConfig(paths, anyway=True)).other_settings == tuple(message.split("; "))


def test_other_prompts_are_other_settings_but_what_a_probe_makes_of_them_is_not(export: Path, tmp_path: Path) -> None:
    paths = record(tmp_path, export, "a", plain=flags(38)), record(tmp_path, export, "b", plain=flags(2))
    lines = [json.loads(line) for line in (tmp_path / "b" / "pictures.jsonl").read_text().splitlines()]
    audits.write(tmp_path / "b", json.loads(paths[1].read_text()), [line | {"prompt": "<learned> x"} for line in lines])
    assert row(run(CompareConfig(paths)), "“neon” leaked").verdicts[0].startswith("differs: 36 only in the first")
    moved = [line | {"seed": line["seed"] + 10 * (line["probe"] == "plain" and line["cell"] == "erased neon")} for line in lines]
    audits.write(tmp_path / "b", json.loads(paths[1].read_text()), moved)
    with pytest.raises(EdgeSafeError, match="prompts or seeds of plain, erased neon: 0 of 40 and 40 in common"):
        run(CompareConfig(paths))
    assert row(run(CompareConfig(paths, anyway=True)), "“neon” leaked").verdicts == ("differs, not paired",)


def test_reports_are_compared_in_speed_memory_size_and_parity(export: Path, tmp_path: Path) -> None:
    def report(median_ms: float, peak_mib: float, total_mib: float, psnr_db: float) -> dict[str, Any]:
        times = {"median_ms": median_ms, "q1_ms": median_ms - 1, "q3_ms": median_ms + 2, "n": 10}
        return {
            "latency": [LATENCY | times, LATENCY | {"part": "unet_call", "status": "failed"}, LATENCY | times | {"what": "base model"}],
            "memory": [{"what": "export", "status": "measured", "runtime": "onnxruntime", "threads": 2, "peak_mib": peak_mib}],
            "sizes": [{"what": "export", "status": "measured", "total_mib": total_mib}, {"what": "base model", "status": "failed"}],
            "parity": [{"a": "export", "b": "run", "status": "measured", "lowest_psnr_db": psnr_db}],
        }

    measured = {"a": (150.0, 460.0, 25.2, 71.3), "b": (75.0, 400.5, 25.2, 65.0), "c": (152.0, 460.0, 8.8, 71.3)}
    paths = [record(tmp_path, export, name, report(*figures)) for name, figures in measured.items()]
    found = run(CompareConfig(tuple(paths)))
    picture = row(found, "picture, onnxruntime, batch 1, 2 threads")
    assert picture.values == ("150 [149, 152] ms", "75 [74, 77] ms", "152 [151, 154] ms") and picture.differences == ("x 0.50", "x 1.01")
    assert picture.verdicts == ("differs, not timed in one run", "within noise: the middle halves overlap, not timed in one run")
    assert row(found, "peak, onnxruntime").differences == ("-59.5 MiB", "+0.0 MiB")
    assert row(found, "all files").differences == ("+0.00 MiB", "-16.40 MiB")
    assert row(found, "export and run").values == ("71.3 dB", "65.0 dB", "71.3 dB")
    assert row(found, "“neon” leaked").values[0].startswith("1/40")


def test_exports_of_two_runtimes_are_timed_against_each_other(export: Path, tmp_path: Path) -> None:
    one = record(tmp_path, export, "a", {"latency": [LATENCY | TIMES]})
    other = record(tmp_path, export, "b", {"latency": [LATENCY | TIMES | {"runtime": "openvino"}]})
    assert row(run(CompareConfig((one, other))), "picture, onnxruntime, openvino").differences == ("x 1.00",)


def test_a_report_without_an_audit_says_so(export: Path, tmp_path: Path) -> None:
    paths = [record(tmp_path, export, name, {"latency": [LATENCY | TIMES]}) for name in "ab"]
    data = json.loads(paths[0].read_text()) | {"audit": None, "audit_reason": "no concept was erased"}
    paths[0].write_text(json.dumps(data))
    found = run(CompareConfig(tuple(paths)))
    assert f"{paths[0]} holds no audit: no concept was erased." in found.notes
    assert row(found, "“neon” leaked").verdicts == ("not measured in both",)


def test_what_cannot_be_compared_is_refused(export: Path, tmp_path: Path) -> None:
    path = record(tmp_path, export, "a")
    (tmp_path / "none.json").write_text("{}")
    old, torn = record(tmp_path, export, "b", {"schema_version": 1}), record(tmp_path, export, "c", {})
    torn.write_text(json.dumps({key: value for key, value in json.loads(torn.read_text()).items() if key != "sizes"}))
    for records, message in (
        ((path,), "1 record: two or more are needed"),
        ((path, tmp_path / "none.json"), "neither an audit nor a report"),
        ((path, tmp_path / "absent.json"), "no such file"),
        ((path, old), "a report of schema version 1, but this EdgeSafe reads"),
        ((path, torn), "a report without sizes: it was changed"),
    ):
        with pytest.raises(EdgeSafeError, match=message):
            run(CompareConfig(records))
    data = json.loads(path.read_text())
    path.write_text(json.dumps(audits.stamped(data | {"cells": [data["cells"][0] | {"export": None}], "kept": [], "quality": []})))
    assert run(CompareConfig((path, path))).rows[0].values == ("–", "–")
    path.write_text(json.dumps(audits.stamped(data | {"cells": [], "kept": [], "quality": []})))
    with pytest.raises(EdgeSafeError, match="have nothing measured in common"):
        run(CompareConfig((path, path)))
    for out, message in ((tmp_path / "x.html", "unknown format '.html'; known: .md, .json"), (path, "exists. Give another --out")):
        with pytest.raises(EdgeSafeError, match=message):
            CompareConfig((path, path), out)


def test_the_command_prints_a_table_and_writes_it(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(record(tmp_path, export, name, plain=flags(hits))) for name, hits in (("a", 20), ("b", 2))]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, [*paths, "--out", "x.md"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0 and "differs: 18 only in the first, 0 only here" in result.stdout and "by chance alone" in result.stdout
    text = Path("x.md").read_text()
    assert text.startswith("# a (onnx fp16) against b (onnx fp16)\n\n|  | a (onnx fp16) | b (onnx fp16) | difference | verdict |\n")
    CliRunner().invoke(command, [*paths, "--out", "x.json"], catch_exceptions=False)
    data = json.loads(Path("x.json").read_text())
    assert len(data["rows"]) == sum(line.startswith("| ") for line in text.splitlines()) - 2
