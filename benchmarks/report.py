"""Write report.json, checked against report.schema.json, report.html, one self-contained page made from it, and grid.png."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import referencing
from referencing.jsonschema import DRAFT202012

from . import contact, grid, page
from .leakage import Sitting
from .probes import PROBES

SCHEMA_VERSION = 2
SCHEMAS = ("report.schema.json", "audit.schema.json")
PICTURES = "pictures.jsonl"

ATTACKERS = {
    "prompts": "Nobody tried other prompts: an app's user was not played at all.",
    "files": "Nobody with access to the files attacked them: no fine-tuning, no learned words, no filling in of weights.",
}
ALWAYS = (
    "A limit holds for the probes that were tried, with their settings. A longer search, another method or a patient person may find more.",
    "Whether the law or a licence allows the pictures, nobody asked here: a detector names what it was trained to name.",
)


def schema(name: str = SCHEMAS[0]) -> dict[str, Any]:
    return json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def check(record: dict[str, Any]) -> None:
    """Raises: jsonschema.ValidationError, which would be a bug here and not the user's."""
    known = [(name, referencing.Resource.from_contents(schema(name), default_specification=DRAFT202012)) for name in SCHEMAS]
    registry: referencing.Registry = referencing.Registry().with_resources(known)
    jsonschema.Draft202012Validator(schema(), registry=registry).validate(record)


def limits(record: dict[str, Any]) -> list[str]:
    """What the report does not show, in sentences; what the audit says of itself comes first."""
    audit = record["audit"]
    if audit is None:
        found = [f"Leakage was not measured: {record['audit_reason']}."]
    else:
        found = [*audit["limits"], *_untried(audit), *ALWAYS, *_unproven(audit)]
    device = record.get("device")
    if device:
        found += _of_device(device)
    if record["versus"] or any(device is None or row["runtime"] != device["name"] for row in record["latency"]):
        others = "The other rows of latency, memory and cold start" if device else "Latency, memory and cold start"
        found.append(f"{others} are of this computer's processor, not of a phone.")
    return list(dict.fromkeys(found))


def write(folder: Path, record: dict[str, Any], sittings: Sequence[Sitting] = ()) -> None:
    """record: all of report.json but its limits. pictures.jsonl, if it lies in the folder, tells what every detector saw."""
    record = record | {"limits": limits(record)}
    check(record)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / SCHEMAS[0].replace(".schema", "")).write_text(text, encoding="utf-8")
    lines = contact.read_lines(folder / PICTURES) if (folder / PICTURES).is_file() else {}
    (folder / "report.html").write_text(page.html(record, sittings, lines), encoding="utf-8")
    if sittings:
        grid.sheet(sittings).save(folder / "grid.png")


def _of_device(device: dict[str, Any]) -> list[str]:
    name, n = device["name"], device["threads"]
    found = [f"Times of {name} are of one page in one browser, by that browser's clock, which steps by {device['clock_ms']:g} ms."]
    if not device["isolated"]:
        plain = "over plain http, where a browser gives two cores at most and no WebGPU"
        found.append(f"{name} opened the page {plain}: otherwise it may be faster.")
    elif device["backend"] == "wasm" and device["cores"] and n < device["cores"]:
        found.append(f"{name} drew with {n} of the {device['cores']} cores that it tells of.")
    found.append(f"What {name} says of itself (user agent, cores, memory, graphics adapter) is its browser's word; nobody checked it.")
    return found


def _untried(audit: dict[str, Any]) -> list[str]:
    found = []
    tried = {probe["name"]: probe for probe in audit["probes"]}
    if missing := [name for name in PROBES if name not in tried]:
        found.append(f"Probes that were not tried: {', '.join(missing)}.")
    if failed := [name for name, probe in tried.items() if probe["status"] == "failed"]:
        found.append(f"Probes that failed, of which nothing is known: {', '.join(failed)}.")
    measured = {cell["attacker"] for cell in audit["cells"] if cell["status"] == "measured"}
    return [*found, *(sentence for who, sentence in ATTACKERS.items() if who not in measured)]


def _unproven(audit: dict[str, Any]) -> list[str]:
    found = []
    for detector in audit["detectors"]:
        if detector["status"] == "failed":
            continue  # the audit says it
        if detector["own_figures"]:
            found.append(f"{detector['name']} makes errors of its own, printed under “Detectors”; no rate is corrected for them.")
        else:
            found.append(f"Nobody measured the errors of {detector['name']} on known pictures; no rate is corrected for them.")
    if audit["control"]["failure"] or not audit["control"]["id"]:
        found.append("There is no un-erased control beside the figures, so it is not known how often the concept would have shown.")
    for row in audit["quality"][:1]:
        n, width = row["generated_pictures"], row["feature_width"]
        found.append(f"FID from {n} pictures in {width} dimensions is biased upward: compare it only with the rows beside it.")
    return found
