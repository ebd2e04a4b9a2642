"""A model card in Hugging Face form, made from an export's manifest and the audit that cites it (and the report beside that, for speed).

YAML front matter, which huggingface_hub reads back, and templates/model_card.md: what was erased and how that was measured, for what it is
meant, what it does not show, how to load it, where it comes from. It claims no more than the audit does.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from edgesafe.artifact import Manifest

MIB = 2**20
TEMPLATE = "model_card.md"
EMOJI_LICENCE = "apache-2.0"


@dataclass(frozen=True)
class Facts:
    """All that a card is made from."""

    name: str  # of the export
    manifest: Manifest
    manifest_sha256: str
    audit: dict[str, Any]
    audit_sha256: str
    report: dict[str, Any] | None = None  # report.json of the same export
    decision: dict[str, Any] | None = None  # the gate's
    licence: str | None = None  # of the weights, as the hub names licences; None: known for the emoji model only

    @property
    def is_emoji(self) -> bool:
        return str(self.manifest.base_model["id"]).startswith("emoji:")

    @property
    def origins(self) -> tuple[str, ...]:
        """Base model and control; of a folder on the machine that trained it only its name, which is all that others may know."""
        base = self.manifest.base_model
        names = str(base["id"]), self.manifest.control
        return tuple(name if name.startswith("emoji:") or base.get("revision") else Path(name).name for name in names)


def build(facts: Facts) -> str:
    """README.md"""
    source, strict = jinja2.PackageLoader(__package__, "templates"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=source, undefined=strict, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"of": _of, "upper": _upper, "cell": _cell}
    manifest, report = facts.manifest, facts.report or {}
    text = environment.get_template(TEMPLATE).render(
        f=facts,
        metadata=metadata(facts).to_yaml(),
        manifest=manifest,
        target={"width": "?", "height": "?", "compression": None} | (manifest.target or {}),
        audit=facts.audit,
        settings=facts.audit["settings"],
        decision=facts.decision,
        erased=", ".join(f"“{row['name']}” ({row['kind']})" for row in manifest.concepts),
        size_mib=sum(row["size"] for row in manifest.files.values()) / MIB,
        parity=(manifest.parity or {}).get("components", {}),
        latency=[row for row in report.get("latency", []) if row["status"] == "measured" and row["what"] == "export"],
        xl=any(name.startswith("text_encoder_2/") for name in manifest.files),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def metadata(facts: Facts) -> ModelCardData:
    """The front matter. base_model only for a model of the hub: its readers look the id up there."""
    base, licence = facts.manifest.base_model, facts.licence or (EMOJI_LICENCE if facts.is_emoji else "other")
    target = str((facts.manifest.target or {}).get("name"))
    return ModelCardData(
        base_model=str(base["id"]) if base.get("revision") else None,
        license=licence,
        license_name="not-stated" if licence == "other" else None,
        library_name=target,
        pipeline_tag="text-to-image",
        language="en",
        tags=["text-to-image", "stable-diffusion", "concept-erasure", "edgesafe", target],
        model_name=facts.name,
        eval_results=results(facts),
    )


def results(facts: Facts) -> list[EvalResult]:
    """For model-index: the upper limit of each concept's leak, what is kept, FID."""
    found: list[EvalResult] = []

    def add(dataset: str, kind: str, name: str, value: float) -> None:
        # a configuration of its own each, or huggingface_hub puts them all under the first one's dataset name
        shown = f"EdgeSafe audit, {dataset}"
        found.append(EvalResult("text-to-image", "edgesafe-audit", shown, kind, value, dataset_config=dataset, metric_name=name))

    for row in facts.audit["verdicts"]:
        if row["upper95_share"] is not None:
            add(f"{row['kind']} {row['concept']}", "leak_upper95_share", f"leak, upper 95 %, {row['detector']}", row["upper95_share"])
    for row in facts.audit["kept"]:
        if row["export"] and row["export"]["right"]:
            what = f"{row['cell']} {row['concept'] or ''}".strip()
            add(what, "right_share", f"right pictures, {row['detector']}", row["export"]["right"]["rate"])
    for row in facts.audit["quality"]:
        if row["what"] == "export":
            add("all that was not erased", "fid", f"FID, {row['generated_pictures']} pictures, {row['detector']}", row["fid"])
    return found


def _of(rate: dict[str, Any]) -> str:
    return f"{rate['numerator']}/{rate['denominator']}"


def _upper(share: float | None) -> str:
    """Rounded up."""
    return "not measured" if share is None else f"{math.ceil(round(1000 * share, 6)) / 10:.1f} %"


def _cell(text: str) -> str:
    """Without what would end a table's cell or row."""
    return " ".join(str(text).replace("|", "\\|").split())
