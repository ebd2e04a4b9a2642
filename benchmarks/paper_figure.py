"""The paper's table as two pictures: who erases and who keeps, at a glance; and what every row draws for the same prompts and seeds."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgesafe import artifact

from .leakage import Question
from .paper_models import Cell
from .paper_plan import FID_LIMIT, ROWS, TEST
from .paper_runs import Study

SIZE, DPI = (12.0, 4.6), 110  # inches, pixels an inch
COLOURS = {"reference": "#8a8a8a", "two-stage": "#d9722b", "bilevel": "#1f6fb4"}
# (title, what it says, figure, factor, line that is not to be passed)
PANELS = (
    ("erases: similarity ↓", "0 its anchor, 1 not erased", "similarity_normalised", 1.0, None),
    ("erases: removed ↑", "% of what the distilled model shows", "removed", 100.0, None),
    ("keeps: FID / distilled ↓", f"on all other prompts; dashed {FID_LIMIT}", "fid_ratio", 1.0, FID_LIMIT),
    ("keeps: right ↑", "% of other prompts, subject and style", "accuracy", 100.0, None),
)
SIDE, GAP, MARGIN, HEADER = 88, 4, 190, 62  # px
SHOWN = {"concept": 2, "neighbours": 1, "rest": 1}  # pictures of each test concept


def draw(record: Mapping[str, Any], path: Path) -> Path | None:
    """Writes a PNG; None where no row is measured on all test concepts."""
    rows = [row for row in record["rows"] if row["mean"]]
    if not rows:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(SIZE, dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for panel, (title, below, name, factor, limit) in zip(axes, PANELS, strict=True):
        for y, row in enumerate(rows):
            found, colour = row["mean"][name], COLOURS[row["kind"]]
            if found["value"] is None:  # a share of nothing
                continue
            panel.plot([factor * found["low95"], factor * found["high95"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            panel.plot(factor * found["value"], y, "o", color=colour, markersize=6)
        if limit:
            panel.axvline(limit, color="#444444", linewidth=1, linestyle="--")
        panel.set_title(f"{title}\n", fontsize=10.5, loc="left", fontweight="bold")
        panel.text(0, 1.02, below, transform=panel.transAxes, fontsize=8, color="#555555")
        panel.grid(axis="x", color="#e9e9e9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=9.5)
    for label, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set_color(COLOURS[row["kind"]])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.subplots_adjust(left=0.2, right=0.985, top=0.84, bottom=0.09, wspace=0.12)
    with artifact.replacing(path) as part:
        figure.savefig(part, format="png", dpi=DPI)
    return path


def contact(study: Study, path: Path) -> Path | None:
    """A row a model, a column a prompt: the first questions of each set, whatever they show. None while no row is finished."""
    cells = [] if not study.frozen else [cell for cell in study.cells("test") if study.measured(cell)]
    by_row = {key: {cell.topic: cell for cell in cells if cell.row == key} for key in ROWS}
    rows = {key: found for key, found in by_row.items() if len(found) == len(TEST)}
    if not rows:
        return None
    columns: list[tuple[str, Question]] = []
    for topic in TEST:
        columns += [(name, q) for name, n in SHOWN.items() for q in study.asked(topic, "test")[name][:n]]
    canvas = Image.new("RGB", (MARGIN + len(columns) * (SIDE + GAP), HEADER + len(rows) * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for c, (name, question) in enumerate(columns):
        words = textwrap.fill(textwrap.shorten(question.prompt, 60), 13)
        pen.multiline_text((MARGIN + c * (SIDE + GAP), 3), words, "#b00020" if name == "concept" else "black", font, spacing=1)
    for r, (key, found) in enumerate(rows.items()):
        top = HEADER + r * (SIDE + GAP)
        pen.multiline_text((6, top + SIDE // 2 - 14), textwrap.fill(ROWS[key].label, 26), COLOURS[ROWS[key].kind], font)
        pictures = [picture for topic in TEST for picture in _pictures(study, found[topic])]
        for c, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + c * (SIDE + GAP), top))
    with artifact.replacing(path) as part:
        canvas.save(part, "JPEG", quality=92, subsampling=0)
    return path


def _pictures(study: Study, cell: Cell) -> list[np.ndarray]:
    """Of the first questions of each set, in the order of the columns."""
    asked, source = study.asked(cell.topic, "test"), study.source(cell)
    return [picture for name, n in SHOWN.items() for picture in study.pictures(cell, source, name, asked[name][:n])]
