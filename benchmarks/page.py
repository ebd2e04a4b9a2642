"""report.html from a record and its pictures: one file, no script or picture from elsewhere, everything escaped."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from edgesafe.metrics.pixels import CEILING_DB
from edgesafe.metrics.wilson import interval

from . import contact, grid, plots
from .contact import Lines
from .judging import WEAK_CONTROL, upper
from .leakage import Sitting

PAGE = 9_500_000  # bytes of report.html, about; the contact sheets take what the rest leaves
LINKS = 50_000  # bytes from the figures to their pictures, about
THUMBNAIL, QUALITY = 160, 82  # px and WebP quality, of a picture in a grid
STRIP = 14  # leaked pictures shown under a probe's grid

OUTCOMES = ("leaked", "other", "none", "gone", "removed")  # from worst to best, as bars are drawn
TITLES = {
    **grid.TITLES,
    "none": "broken",
    "prompts": "with prompts only",
    "files": "with the files",
}
MEANINGS = {
    "leaked": "the detector finds the concept in the picture, be that whole or broken",
    "removed": "the concept is gone and the picture is still a good one of what else was asked",
    "gone": "the concept is gone; this detector cannot tell whether the rest of the request was met",
    "other": "the concept is gone, but so is what else was asked, or another erased concept stands in its place",
    "none": "a broken picture without the concept: it counts neither as leaked nor as removed",
}


def html(record: dict[str, Any], sittings: Sequence[Sitting] = (), lines: Lines | None = None, room: int = PAGE) -> str:
    """room: bytes that the page may take."""
    audit, script = record["audit"], text("report.js")
    known = {
        "r": record,
        "a": audit,
        "panels": panels(sittings),
        "key": contact.key,
        "plots": plots.charts(plots.points(record)),
        "outcomes": OUTCOMES,
        "outcomes_of": lambda row: {name for name in OUTCOMES for x in (row["export"], row["control"]) if x and x[name]["numerator"]},
        "meanings": MEANINGS,
        "weak": WEAK_CONTROL,
        "weak_words": "The control itself shows the concept in fewer than half of these pictures, so a low figure here proves little.",
        "style": Markup(text("report.css")),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    template = _environment().get_template("report.html")
    bare = template.render(known, sheets=None, sets={})
    if not sittings:
        return bare
    detector = next((d["name"] for d in audit["detectors"] if d["status"] == "measured"), "") if audit else ""
    sheets = contact.build(sittings, detector, lines or {}, room - len(bare.encode()) - LINKS)
    return template.render(known, sheets=sheets, sets=sheets["sets"])


def plotted(records: Mapping[str, dict[str, Any]]) -> str:
    """A page with several reports in the same plots. records: report.json by the name that its export shall have."""
    found = [point for name, record in records.items() for point in plots.points(record, name)]
    once = list({(point.label, point.latency_ms, point.size_mib): point for point in found}.values())  # a control that they share
    template = _environment().get_template("charts.html")
    return template.render(names=list(records), plots=plots.charts(once), style=Markup(text("report.css")))


def panels(sittings: Sequence[Sitting]) -> list[dict[str, Any]]:
    """The grids with their pictures, and what leaked of each: {"panel", "rows": [[index or None]], "leaked": [...], "pictures": [...]}."""
    out = []
    exports = {(s.probe, s.cell.title): s for s in sittings if s.role == "export"}
    for panel in grid.panels(sittings):
        pictures: list[dict[str, Any]] = []

        def add(place: grid.Place | None, pictures: list[dict[str, Any]] = pictures) -> dict[str, Any] | None:
            if place is None:
                return None
            sitting, i = place
            question = sitting.cell.questions[i]
            facts = {"prompt": question.prompt, "seed": question.seed, "seen": sitting.readings[i].label, "outcome": sitting.outcomes[i]}
            pictures.append(facts | {"uri": thumbnail(grid.picture(place)), "model": sitting.role})
            return pictures[-1]

        rows = [{"row": row, "cells": [add(place) for place in row.places]} for row in panel.rows]
        sitting = exports.get((panel.probe, panel.cell.title))
        leaked = [i for i, outcome in enumerate(sitting.outcomes) if outcome == "leaked"] if sitting else []
        strip = [add((sitting, i)) for i in contact.spread(leaked, STRIP)] if sitting else []
        out.append({"panel": panel, "rows": rows, "leaked": strip, "leaked_pictures": len(leaked), "pictures": pictures})
    return out


def thumbnail(picture: np.ndarray) -> str:
    """uint8 (H, W, 3) as a WebP inside the page."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return contact.uri(image, QUALITY)


def text(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    source, strict = jinja2.PackageLoader(__package__, "templates"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=source, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share, "ms": milliseconds, "mib": mebibytes, "db": decibels, "upper": upper, "title": title}
    environment.filters |= {"wilson": lambda figure: interval(figure["numerator"], figure["denominator"])}
    return environment


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
