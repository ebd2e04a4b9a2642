"""Write report.json, checked against report.schema.json, and report.html, one self-contained page made from it."""

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import jsonschema
import numpy as np
from PIL import Image

from edgesafe.metrics.pixels import CEILING_DB

from .leakage import upper

SCHEMA_VERSION = 1
SCHEMA = "report.schema.json"
THUMBNAIL = 256  # px, of a larger picture in the page

TITLES = {
    "base": "base model",
    "control": "control, not erased",
    "export": "erased",
    "unet_call": "UNet call",
    "picture": "picture",
    "text_encoder": "text encoder",
    "vae_decoder": "VAE decoder",
}
ALWAYS = (
    "Only plain prompts were asked. Paraphrases, typing errors, other languages, optimised prompts, noise injection and completion from "
    "another model were not tried.",
    "Nobody with access to the files attacked them: no fine-tuning, no textual inversion, no filling in of weights.",
    "Latency, memory and cold start are of this computer's processor, not of a phone.",
    "The Wilson intervals take pictures as independent, and say nothing of prompts that were not asked.",
)


def schema() -> dict[str, Any]:
    return json.loads(files(__package__).joinpath(SCHEMA).read_text(encoding="utf-8"))


def check(record: dict[str, Any]) -> None:
    """Raises: jsonschema.ValidationError, which would be a bug here and not the user's."""
    jsonschema.Draft202012Validator(schema()).validate(record)


def limits(record: dict[str, Any]) -> list[str]:
    """What the report does not show, in sentences."""
    found = list(ALWAYS)
    leak = record["leakage"]
    if leak["status"] != "measured":
        return [f"Leakage was not measured: {leak['reason']}.", *found[1:3]]
    if leak["detector"]["name"] == "emoji-judge":
        found.insert(0, "These figures are of the small embedded emoji model. They establish nothing about a Stable Diffusion model.")
    found.append("The detector makes errors of its own, printed beside the tables; the rates are not corrected for them.")
    for row in leak["quality"][:1]:
        n, width = row["generated_pictures"], row["feature_width"]
        found.append(f"FID from {n} pictures in {width} dimensions is biased upward: compare it only with the rows beside it.")
    return found


def write(folder: Path, record: dict[str, Any], pictures: Sequence[Sequence[np.ndarray | None]] = ()) -> None:
    """record: all of report.json but its limits. pictures: of the grid, rows of one (H, W, 3) uint8 a column."""
    record = record | {"limits": limits(record)}
    check(record)
    (folder / "report.json").write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(html(record, pictures), encoding="utf-8")


def html(record: dict[str, Any], pictures: Sequence[Sequence[np.ndarray | None]] = ()) -> str:
    source, strict = jinja2.PackageLoader(__package__, "templates"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=source, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share, "ms": milliseconds, "mib": mebibytes, "title": title}
    environment.filters |= {"upper": upper, "db": decibels}
    images = [[None if p is None else {"uri": data_uri(p), "small": max(p.shape) < THUMBNAIL} for p in row] for row in pictures]
    return environment.get_template("report.html").render(r=record, images=images)


def data_uri(picture: np.ndarray) -> str:
    """(H, W, 3) uint8 as a PNG inside the page."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def title(name: str) -> str:
    return TITLES.get(name, name)


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def milliseconds(value: float | None) -> str:
    """Three significant digits, in s from 1 s on."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.1f} s" if value >= 10_000 else f"{value / 1000:.2f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def decibels(value: float) -> str:
    return f"{value:.1f} dB" if value < CEILING_DB else f"≥ {CEILING_DB:.0f} dB"


def mebibytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} MiB" if value >= 100 else f"{value:.1f} MiB" if value >= 1 else f"{value:.2f} MiB"
