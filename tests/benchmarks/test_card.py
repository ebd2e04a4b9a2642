"""The model card: huggingface_hub reads it back, and it says what the audit says."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from edgesafe import artifact
from edgesafe.benchmarks import card

from . import audits
from .audits import cell, flags


def facts(folder: Path, report: dict[str, Any] | None = None, licence: str | None = None, **fields: Any) -> card.Facts:
    export = audits.sealed(folder, **fields)
    tuned = cell("fine-tune", flags(30), None, attacker="files", model="export, fine-tuned 100 steps")
    record, _ = audits.audit(export, others=[cell("typos", None), tuned])
    digest = artifact.sha256(export / artifact.MANIFEST)
    return card.Facts(export.name, artifact.read(export), digest, record, "12" * 32, report, None, licence)


def test_the_hub_reads_it_back(tmp_path: Path) -> None:
    made = facts(tmp_path / "tiny-onnx-fp16")
    read = ModelCard(card.build(made))
    assert (read.data.license, read.data.library_name, read.data.pipeline_tag) == ("apache-2.0", "onnx", "text-to-image")
    assert read.data.base_model is None, "emoji:teacher is no model of the hub"
    found = {(row.dataset_name, row.metric_type): row.metric_value for row in read.data.eval_results}
    (verdict,), rest = made.audit["verdicts"], made.audit["kept"][1]["export"]["right"]["rate"]
    assert found == {
        ("EdgeSafe audit, style neon", "leak_upper95_share"): verdict["upper95_share"],
        ("EdgeSafe audit, neighbours neon", "right_share"): 0.9,
        ("EdgeSafe audit, rest", "right_share"): rest,
        ("EdgeSafe audit, all that was not erased", "fid"): 14.1,
    }
    assert read.data.model_name == "tiny-onnx-fp16"


def test_it_says_what_the_audit_says(tmp_path: Path) -> None:
    made = facts(tmp_path / "tiny-onnx-fp16")
    text = card.build(made)
    (verdict,) = made.audit["verdicts"]
    assert f"> {verdict['sentence']}" in text and "> One judge, and it is generous." in text
    assert "| plain | prompts | neon | emoji-judge | 1/40 |" in text and "| 32/40 | 39/40 | 0/40 | 0/40 |" in text
    assert "| typos | prompts | neon | emoji-judge | failed: no memory \\| for it | – | – | – | – | – |" in text
    assert "| fine-tune | files | neon | emoji-judge | 30/40 | 90.0 % | – | 10/40 |" in text
    hashes = made.manifest_sha256, "12" * 32, audits.JUDGE, "ef" * 32
    for words in (*hashes, "style right 998/1000", "- Only what was asked was asked.", "| unet | 65.3 |"):
        assert words in text
    for section in ("Intended use", "What this does not show", "Threat model", "How to load it", "Provenance", "What is kept"):
        assert f"\n## {section}\n" in text
    assert 'ORTStableDiffusionPipeline.from_pretrained(".")' in text and "latency" not in text
    words = text.lower().replace("edgesafe", "")
    assert "safe" not in words


def test_tables_are_tables(tmp_path: Path) -> None:
    lines = card.build(facts(tmp_path / "x")).splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(heads) == 8
    for i in heads:
        rows = [lines[i - 1], *(line for line in lines[i + 1 : i + 4] if line.startswith("|"))]
        assert lines[i - 2] == "" and {row.replace("\\|", "").count("|") for row in rows} == {lines[i].count("|")}, rows


def test_speed_comes_from_the_report(tmp_path: Path) -> None:
    row = {"what": "export", "status": "measured", "runtime": "onnxruntime", "threads": 2, "part": "unet_call", "median_ms": 5.4, "n": 30}
    others = [row | {"what": "base model", "median_ms": 99.0}, row | {"status": "failed"}]
    text = card.build(facts(tmp_path / "x", {"latency": [row, *others]}))
    assert "On a test, not on a phone:" in text and "| unet call | onnxruntime | 2 | 5.4 | 30 |" in text and "99.0" not in text


@pytest.mark.parametrize(("target", "words"), [("coreml", "ml-stable-diffusion` this folder is"), ("openvino", "openvino_model.xml")])
def test_each_target_says_how_it_is_loaded(target: str, words: str, tmp_path: Path) -> None:
    made = facts(tmp_path / "x", target={"name": target, "precision": "fp16"})
    text = card.build(made)
    assert words in text and "optimum" not in text and ModelCard(text).data.library_name == target


def test_a_model_of_ones_own_states_its_licence_or_that_it_does_not(tmp_path: Path) -> None:
    base = {"id": "someone/diffusion-v1", "revision": "ab12", "sha256": None}
    unstated = ModelCard(card.build(facts(tmp_path / "a", base_model=base)))
    assert (unstated.data.base_model, unstated.data.license, unstated.data.license_name) == ("someone/diffusion-v1", "other", "not-stated")
    assert "is not stated here: look it up at the base model" in unstated.text and "Noto" not in unstated.text
    assert "| the base model's weights | not known |" in unstated.text
    local = card.build(facts(tmp_path / "c", base_model=base | {"id": "/srv/models/mine", "revision": None}, control="/srv/models/mine"))
    assert "| made from | `mine` |" in local and "| un-erased control | `mine` |" in local and "/srv" not in local
    stated = ModelCard(card.build(facts(tmp_path / "b", licence="openrail++", base_model=base)))
    assert (stated.data.license, stated.data.license_name) == ("openrail++", None) and "as it was stated" in stated.text
