"""The report's grid: the same prompts and seeds drawn by the base model, by the un-erased control and by the export."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgesafe.concepts import Concept

from .cells import CAUGHT
from .detectors.detector import Detector, Seen
from .gallery import Gallery
from .judging import Artist, Judged, Progress
from .leakage import Cell, Question, Reading, outcome

ROWS = {"erased": 4, "neighbours": 3, "rest": 3}  # at most, of each cell
ORDER = ("base", "control", "export")


def size(cells: Sequence[Cell]) -> int:
    """Rows of the grid."""
    return sum(min(ROWS[cell.role], len(cell.questions)) for cell in cells)


def build(
    judged: Judged, base: Artist | None, detector: Detector, concepts: Sequence[Concept], gallery: Gallery, progress: Progress
) -> tuple[dict[str, Any], list[list[np.ndarray | None]]]:
    """The grid for report.json, and its pictures: rows of one picture (H, W, 3) a column, None where a model could not draw."""
    places = [(cell, c, i) for c, cell in enumerate(judged.cells) for i in range(min(ROWS[cell.role], len(cell.questions)))]
    questions = [cell.questions[i] for cell, _, i in places]
    drawn: dict[str, tuple[Sequence[np.ndarray] | np.ndarray, Sequence[Reading]]] = {}
    failures = dict(judged.failures)
    for role, seen in judged.seen.items():
        drawn[role] = [judged.pictures[role][c][i] for _, c, i in places], [seen[c].readings[i] for _, c, i in places]
    if base is not None:
        try:
            drawn["base"] = _draw(base, questions, detector, gallery, progress)
        except CAUGHT as error:
            failures["base"] = str(error)
    columns = [role for role in ORDER if role in drawn or role in failures]
    rows = [
        {
            "prompt": q.prompt,
            "seed": q.seed,
            "cell": cell.role,
            "concept": cell.concept.name if cell.concept else None,
            "labels": [_label(q, cell, drawn[role][1][n], concepts) if role in drawn else None for role in columns],
        }
        for n, ((cell, _, _), q) in enumerate(zip(places, questions, strict=True))
    ]
    pictures = [[drawn[role][0][n] if role in drawn else None for role in columns] for n in range(len(rows))]
    return {"columns": [{"model": role, "reason": failures.get(role)} for role in columns], "rows": rows}, pictures


def _draw(
    base: Artist, questions: Sequence[Question], detector: Detector, gallery: Gallery, progress: Progress
) -> tuple[np.ndarray, tuple[Reading, ...]]:
    if isinstance(base.source, Exception):
        raise base.source
    pictures, _ = gallery.pictures(base.source, base.runtime, questions, lambda n: progress("base", n))
    seen: Seen = detector.see(pictures)
    return pictures, seen.readings


def _label(question: Question, cell: Cell, reading: Reading, concepts: Sequence[Concept]) -> dict[str, Any]:
    """What the detector saw, and how it counts."""
    if cell.role == "erased" and cell.concept:
        return {"seen": reading.label, "outcome": outcome(question, cell.concept, reading, concepts)}
    right = (reading.subject, reading.style) == (question.subject, question.style)
    return {"seen": reading.label, "outcome": "right" if right else "none" if reading.subject is None else "wrong"}


def sheet(shown: dict[str, Any], pictures: Sequence[Sequence[np.ndarray | None]], titles: dict[str, str], side: int = 112) -> Image.Image:
    """The grid as one picture with words: a row a model, a column a prompt; `side` of a picture in px."""
    margin, header, gap = 150, 46, 4
    columns, rows = len(shown["rows"]), len(shown["columns"])
    canvas = Image.new("RGB", (margin + columns * (side + gap), header + rows * (side + gap)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for r, column in enumerate(shown["columns"]):
        pen.text((8, header + r * (side + gap) + side // 2 - 8), titles.get(column["model"], column["model"]), "black", font)
    for c, row in enumerate(shown["rows"]):
        left = margin + c * (side + gap)
        colour = "#b00020" if row["cell"] == "erased" else "black"
        pen.multiline_text((left, 6), textwrap.fill(row["prompt"], 17), colour, font, spacing=2)
        for r, picture in enumerate(pictures[c]):
            if picture is not None:
                small = max(picture.shape[:2]) < side
                tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
                canvas.paste(tile, (left, header + r * (side + gap)))
    return canvas
