"""A bundle: only of what the gate passes, whole, and loaded by whatever loads the export."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard
from rich.console import Console

from edgesafe import artifact
from edgesafe.apps import site
from edgesafe.benchmarks import bundle, gate, policy
from edgesafe.benchmarks.bundle import BundleConfig, run
from edgesafe.commands.bundle import bundle as command
from edgesafe.errors import ArtifactError, EdgeSafeError

from . import audits

QUIET = Console(quiet=True)
ADDED = {"LICENSE", "NOTICE", "OFL.txt", "README.md", "audit.json", "policy.toml"}


@pytest.fixture
def held(tmp_path: Path) -> Path:
    path = tmp_path / "my-policy.toml"
    path.write_text("recount = true\n[default]\nhighest_leak = 0.5\nprobes = ['plain']\n[concept.neon]\nleast_pictures = 40\n")
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = audits.sealed(tmp_path / "runs" / "tiny-onnx")
    audits.write(tmp_path / "runs" / "tiny-onnx-audit", *audits.audit(folder))
    return folder


def test_it_holds_the_export_as_it_is_and_what_goes_with_it(export: Path, held: Path, tmp_path: Path) -> None:
    out = run(BundleConfig(export, tmp_path / "app" / "model", held), QUIET)
    manifest = artifact.read(out)
    assert manifest == artifact.read(export) and artifact.sha256(out / "manifest.json") == artifact.sha256(export / "manifest.json")
    assert set(artifact.extra(out, manifest)) == ADDED | {"bundle.json"}
    assert (out / "audit.json").read_bytes() == (export.with_name("tiny-onnx-audit") / "audit.json").read_bytes()
    assert (out / "policy.toml").read_text() == held.read_text()
    for name, words in (("LICENSE", "Apache License"), ("NOTICE", "Noto"), ("OFL.txt", "SIL OPEN FONT LICENSE")):
        assert words in (out / name).read_text()
    assert ModelCard.load(out / "README.md").data.model_name == "tiny-onnx"
    record = bundle.read(out)
    assert record["decision"]["passed"] and record["limits"]["neon"]["least_pictures"] == 40 and set(record["files"]) == ADDED
    assert not list((tmp_path / "app").glob(".*")) and not artifact.extra(export, artifact.read(export))


def test_the_decision_can_be_made_again_in_the_bundle(export: Path, held: Path, tmp_path: Path) -> None:
    out = run(BundleConfig(export, tmp_path / "b", held), QUIET)
    again = gate.check(out, None, policy.parse((out / "policy.toml").read_text().replace("recount = true", ""), "p"))
    assert again.audit == out / "audit.json" and again.passed


def test_what_the_gate_refuses_is_not_packed(export: Path, tmp_path: Path) -> None:
    with pytest.raises(gate.Refused, match="REFUSED: .* the default policy: .*asked: plain, “neon”: 40, not at least 200 pictures;"):
        run(BundleConfig(export, tmp_path / "b"), QUIET)
    shutil.rmtree(export.with_name("tiny-onnx-audit"))
    with pytest.raises(EdgeSafeError, match="nobody audited it"):
        run(BundleConfig(export, tmp_path / "b"), QUIET)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["README.md", "bundle.json", "audit.json"])
def test_a_changed_bundle_is_told(name: str, export: Path, held: Path, tmp_path: Path) -> None:
    out = run(BundleConfig(export, tmp_path / "b", held), QUIET)
    (out / name).write_text("{}" if name == "bundle.json" else (out / name).read_text() + " ")
    with pytest.raises(EdgeSafeError, match=f"{name}: (missing or changed|schema version None)"):
        bundle.read(out)
    (out / name).unlink()
    with pytest.raises(EdgeSafeError, match="missing or changed since the bundle was made|no bundle.json: this is a export"):
        bundle.read(out)


def test_a_file_of_the_export_is_never_written_through_a_link(tmp_path: Path, held: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "README.md").write_text("my own")
    export = audits.sealed(folder / "x")  # sealed by itself, then once more with a README of its own
    (export / "README.md").write_text("my own")
    artifact.seal(export, artifact.read(export))
    audits.write(folder / "audit", *audits.audit(export))
    with pytest.raises(EdgeSafeError, match="it holds a README.md of its own, in whose place the bundle's would come"):
        run(BundleConfig(export, tmp_path / "b", held), QUIET)
    assert (export / "README.md").read_text() == "my own" and not (tmp_path / "b").exists()


def test_it_copies_where_the_disk_makes_no_links(export: Path, held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = run(BundleConfig(export, tmp_path / "a", held), QUIET)
    assert (linked / "unet" / "model.onnx").samefile(export / "unet" / "model.onnx")

    def apart(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(bundle.os, "link", apart)
    out = run(BundleConfig(export, tmp_path / "b", held), QUIET)
    assert not (out / "unet" / "model.onnx").samefile(export / "unet" / "model.onnx") and bundle.read(out)


def test_a_report_beside_the_audit_tells_the_speed(export: Path, held: Path, tmp_path: Path) -> None:
    row = {"what": "export", "status": "measured", "runtime": "onnxruntime", "threads": 2, "part": "picture", "median_ms": 152.0, "n": 10}
    report = {"artifact": {"sha256": artifact.sha256(export / "manifest.json")}, "latency": [row]}
    place = export.with_name("tiny-onnx-audit") / "report.json"
    place.write_text(json.dumps(report))
    text = (run(BundleConfig(export, tmp_path / "a", held), QUIET) / "README.md").read_text()
    assert "| picture | onnxruntime | 2 | 152.0 | 10 |" in text
    place.write_text(json.dumps(report | {"artifact": {"sha256": "0" * 64}}))
    assert "152.0" not in (run(BundleConfig(export, tmp_path / "b", held), QUIET) / "README.md").read_text()
    place.write_text("{")
    with pytest.raises(EdgeSafeError, match="report.json: not valid JSON"):
        run(BundleConfig(export, tmp_path / "c", held), QUIET)


def test_a_model_of_ones_own_brings_its_licence(tmp_path: Path, held: Path) -> None:
    export = audits.sealed(tmp_path / "x", base_model={"id": "someone/model", "revision": None, "sha256": None})
    audits.write(tmp_path / "audit", *audits.audit(export))
    (tmp_path / "LICENSE").write_text("RAIL")
    out = run(BundleConfig(export, tmp_path / "b", held, licence="openrail++", notices=(tmp_path / "LICENSE",)), QUIET)
    assert (out / "LICENSE").read_text() == "RAIL" and not (out / "OFL.txt").exists()
    assert ModelCard.load(out / "README.md").data.license == "openrail++"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"app": "ios"}, "--app ios: there is no such app; known: web. Leave --app out for the plain folder"),
        ({"max_mib": 3.0}, "--max-mib is the limit of an app. Name one with --app"),
        ({"app": "web", "max_mib": float("nan")}, "--max-mib nan: no export is that small"),
        ({"licence": " "}, "--license: an empty name"),
        ({"notices": (Path("none.txt"),)}, "--notice none.txt: no such file"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeSafeError, match=message):
        BundleConfig(Path("x"), **options)


def test_what_is_there_is_not_overwritten(export: Path, held: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="lies in the export, which stays as it was sealed"):
        run(BundleConfig(export, export / "b", held), QUIET)
    run(BundleConfig(export, tmp_path / "b", held), QUIET)
    with pytest.raises(ArtifactError, match="exists. Give another --out, or --force to replace it"):
        run(BundleConfig(export, tmp_path / "b", held), QUIET)
    assert bundle.read(run(BundleConfig(export, tmp_path / "b", held, force=True), QUIET))


def test_the_command_prints_the_place(export: Path, held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(export.parent.parent)
    result = CliRunner().invoke(command, ["--policy", str(held)], catch_exceptions=False)
    assert result.exit_code == 0 and result.stdout == "bundles/tiny-onnx\n" and Path("bundles/tiny-onnx/bundle.json").is_file()
    assert "“neon” leaks at most" in result.stderr and "bundle runs/tiny-onnx" in result.stderr


@pytest.fixture
def drawable(onnx_folder: Path, tmp_path: Path) -> Path:
    """A real export, audited by hand as if "neon" had been erased from it."""
    folder = Path(shutil.copytree(onnx_folder, tmp_path / "runs" / "tiny-onnx"))
    artifact.seal(folder, dataclasses.replace(artifact.read(folder), concepts=(audits.NEON,)))
    audits.write(tmp_path / "runs" / "tiny-onnx-audit", *audits.audit(folder))
    return folder


def test_an_app_is_a_site_with_the_plain_bundle_in_it(drawable: Path, held: Path, tmp_path: Path) -> None:
    out = run(BundleConfig(drawable, tmp_path / "site", held, app="web"), QUIET)
    plain = run(BundleConfig(drawable, tmp_path / "plain", held), QUIET)
    assert bundle.read(out / "model")["files"] == bundle.read(plain)["files"]
    inside = {path.relative_to(out / "model") for path in (out / "model").rglob("*")}
    assert inside == {path.relative_to(plain) for path in plain.rglob("*")}
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {name for name, _ in site.files()} | {".nojekyll"} == {name for name in names if not name.startswith(("model/", "plan/"))}
    assert {"plan/plan.json", "plan/main.onnx"} <= names
    assert {"index.html", "sw.js"} <= names and not any(name.startswith(site.BENCH) for name in names)


def test_the_command_says_how_to_try_the_app(drawable: Path, held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(drawable.parent.parent)
    result = CliRunner().invoke(command, ["--policy", str(held), "--app", "web"], catch_exceptions=False)
    assert result.exit_code == 0 and result.stdout == "bundles/tiny-onnx-web\n"
    assert "python -m http.server 8000 --bind 127.0.0.1 --directory bundles/tiny-onnx-web" in result.stderr
    assert "http://localhost:8000/" in result.stderr


def test_an_app_is_replaced_only_where_one_is(drawable: Path, held: Path, tmp_path: Path) -> None:
    config = BundleConfig(drawable, tmp_path / "site", held, app="web")
    run(config, QUIET)
    with pytest.raises(ArtifactError, match="exists. Give another --out, or --force to replace it"):
        run(config, QUIET)
    (tmp_path / "site" / "index.html").write_text("old")
    again = run(BundleConfig(drawable, tmp_path / "site", held, app="web", force=True), QUIET)
    assert (again / "index.html").read_text() != "old"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my page")
    with pytest.raises(ArtifactError, match="was not made by edgesafe"):
        run(BundleConfig(drawable, tmp_path / "mine", held, app="web", force=True), QUIET)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"target": {"name": "coreml", "precision": "fp16"}}, {}, "its target is coreml, and --app web runs onnx alone. Export the run"),
        ({"kind": "run", "target": None}, {}, "its target is a run, and --app web runs onnx alone"),
        ({}, {"max_mib": 1e-6}, r"\d MiB for a browser to fetch, over --max-mib 1e-06. Export fewer bits .*int8"),
    ],
)
def test_an_app_takes_no_export_that_it_cannot_run(
    fields: dict[str, Any], options: dict[str, Any], message: str, drawable: Path, held: Path, tmp_path: Path
) -> None:
    artifact.seal(drawable, dataclasses.replace(artifact.read(drawable), **fields))
    with pytest.raises(EdgeSafeError, match=message) as caught:
        run(BundleConfig(drawable, tmp_path / "b", held, app="web", **options), QUIET)
    assert caught.value.exit_code == 2 and not (tmp_path / "b").exists()


def test_an_app_takes_no_other_pipeline(export: Path, held: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="model_index.json: names no pipeline"):
        run(BundleConfig(export, tmp_path / "b", held, app="web"), QUIET)
    (export / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(EdgeSafeError, match="a StableDiffusionXLPipeline, and --app web draws with a StableDiffusionPipeline alone"):
        run(BundleConfig(export, tmp_path / "b", held, app="web"), QUIET)


def test_an_app_takes_nothing_unaudited_refused_or_leading_out(drawable: Path, held: Path, tmp_path: Path) -> None:
    with pytest.raises(gate.Refused, match="REFUSED") as caught:
        run(BundleConfig(drawable, tmp_path / "b", app="web"), QUIET)
    assert caught.value.exit_code == 1
    shutil.rmtree(drawable.with_name("tiny-onnx-audit"))
    with pytest.raises(EdgeSafeError, match="nobody audited it") as without:
        run(BundleConfig(drawable, tmp_path / "b", held, app="web"), QUIET)
    assert without.value.exit_code == 2
    path = drawable / "manifest.json"
    path.write_text(path.read_text().replace('"model_index.json"', '"../model_index.json"'))
    with pytest.raises(ArtifactError, match=r"'../model_index.json' leads out of the folder"):
        run(BundleConfig(drawable, tmp_path / "b", held, app="web"), QUIET)
    assert not (tmp_path / "b").exists()


def test_a_bundle_draws_what_its_export_draws(onnx_folder: Path, tmp_path: Path, held: Path) -> None:
    """The real thing: an exported pipeline, packed, opened by the runtime that opens exports."""
    from edgesafe.benchmarks import runtimes

    export = Path(shutil.copytree(onnx_folder, tmp_path / "tiny-onnx"))
    audits.write(tmp_path / "audit", *audits.audit(export))
    out = run(BundleConfig(export, tmp_path / "bundle", held), QUIET)
    drawn = [runtimes.load(place).generate(["red apple"], [3], steps=2) for place in (export, out)]
    assert (drawn[0] == drawn[1]).all()
