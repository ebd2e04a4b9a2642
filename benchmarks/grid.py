"""The report's grids: the same prompts and seeds, a row a model, a column a prompt, a panel for each probe and cell.

Which pictures stand there does not depend on what they show: they are the first of each cell's questions.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .leakage import Cell, Question, Sitting

MODELS = ("base", "control", "export")
TITLES = {"base": "base model", "control": "control, not erased", "export": "erased"}
SHOWN = {"erased": 8, "neighbours": 6, "rest": 6}  # columns of a panel, at most
ON_SHEET = {"erased": 4, "neighbours": 3, "rest": 3}  # columns of grid.png, of each cell
PLAIN = "plain"

Place = tuple[Sitting, int]  # the sitting, and which of its pictures


@dataclass(frozen=True)
class Row:
    model: str
    asked: str  # "same prompts" | "plain prompts", where the control was asked those that a probe started from
    places: tuple[Place | None, ...]  # one a column


@dataclass(frozen=True)
class Panel:
    probe: str
    cell: Cell
    questions: tuple[Question, ...]
    rows: tuple[Row, ...]


def asked(cell: Cell) -> tuple[Question, ...]:
    """The questions that a grid shows: all that the base model need draw."""
    return cell.questions[: SHOWN[cell.role]]


def panels(sittings: Sequence[Sitting]) -> list[Panel]:
    """In the order of the sittings; a model that drew none of a panel's pictures has no row in it."""
    found: dict[tuple[str, str, str], Sitting] = {(s.probe, s.cell.title, s.role): s for s in sittings}
    out = []
    for probe, title in dict.fromkeys((s.probe, s.cell.title) for s in sittings):
        first = next((s for model in ("export", "control", "base") if (s := found.get((probe, title, model)))), None)
        if first is None:
            continue
        questions = asked(first.cell)
        rows = [_row(model, found.get((probe, title, model)), found.get((PLAIN, title, model)), questions) for model in MODELS]
        out.append(Panel(probe, first.cell, questions, tuple(row for row in rows if row and any(row.places))))
    return out


def build(sittings: Sequence[Sitting]) -> dict[str, Any]:
    """The grids for report.json: what was asked and what the detector saw. The pictures themselves stand in report.html."""
    return {
        "panels": [
            {
                "probe": panel.probe,
                "cell": panel.cell.role,
                "concept": panel.cell.concept.name if panel.cell.concept else None,
                "questions": [{"prompt": q.prompt, "plain": q.origin, "seed": q.seed} for q in panel.questions],
                "rows": [
                    {"model": row.model, "asked": row.asked, "readings": [_reading(place) for place in row.places]} for row in panel.rows
                ],
            }
            for panel in panels(sittings)
        ]
    }


def picture(place: Place) -> np.ndarray:
    """uint8 (H, W, 3)"""
    sitting, i = place
    return sitting.pictures[i]


def sheet(sittings: Sequence[Sitting], titles: Mapping[str, str] = TITLES, side: int = 112) -> Image.Image:
    """The first probe's grid as one picture with words; `side` of a picture in px."""
    first = sittings[0].probe if sittings else PLAIN
    shown = [panel for panel in panels(sittings) if panel.probe == first]
    models = [model for model in MODELS if any(row.model == model for panel in shown for row in panel.rows)]
    columns = [(panel, i) for panel in shown for i in range(min(ON_SHEET[panel.cell.role], len(panel.questions)))]
    margin, header, gap = 150, 46, 4
    canvas = Image.new("RGB", (margin + len(columns) * (side + gap), header + len(models) * (side + gap)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for r, model in enumerate(models):
        pen.text((8, header + r * (side + gap) + side // 2 - 8), titles.get(model, model), "black", font)
    for c, (panel, i) in enumerate(columns):
        left = margin + c * (side + gap)
        colour = "#b00020" if panel.cell.role == "erased" else "black"
        pen.multiline_text((left, 6), textwrap.fill(textwrap.shorten(panel.questions[i].prompt, 48), 17), colour, font, spacing=2)
        for row in panel.rows:
            if place := row.places[i]:
                tile = Image.fromarray(picture(place))
                way = Image.Resampling.NEAREST if max(tile.size) < side else Image.Resampling.LANCZOS
                canvas.paste(tile.resize((side, side), way), (left, header + models.index(row.model) * (side + gap)))
    return canvas


def _row(model: str, own: Sitting | None, plain: Sitting | None, questions: Sequence[Question]) -> Row | None:
    if own is not None:
        index = {(q.prompt, q.seed): i for i, q in enumerate(own.cell.questions)}
        return Row(model, "same prompts", tuple((own, i) if (i := index.get((q.prompt, q.seed))) is not None else None for q in questions))
    if plain is None or model == "export":
        return None  # other prompts than the probe's show nothing of what it does to the export
    index = {(q.origin, q.seed): i for i, q in enumerate(plain.cell.questions)}
    return Row(model, "plain prompts", tuple((plain, i) if (i := index.get((q.origin, q.seed))) is not None else None for q in questions))


def _reading(place: Place | None) -> dict[str, str] | None:
    if place is None:
        return None
    sitting, i = place
    return {"seen": sitting.readings[i].label, "outcome": sitting.outcomes[i]}
