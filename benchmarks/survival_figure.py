"""The survival study as one picture: leak with its interval, a colour a model, the un-erased control as a grey band.

Left: one thing changed at a time. Right: solver by bits for each probe, and below it the model that was narrow before it was erased.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesafe import artifact

from .survival_plan import CROSSED, FACTORS, FORMS, MODELS, SWEPT, VIEWS, Blend, Row

SIZE, DPI = (11.0, 8.0), 110  # inches, pixels an inch
PLACES = (0.225, 0.115, 0.28, 0.81), (0.685, 0.505, 0.295, 0.42), (0.685, 0.065, 0.295, 0.27)  # left, bottom, width, height of the axes
COLOURS = {
    "penalty": "#1f6fb4",
    "weak": "#d9722b",
    "two-stage": "#2f8f5b",
    "alternate": "#8a56b0",
    "steps-30": "#b5405a",
    "narrow": "#d9722b",
    "narrow-all": "#1f6fb4",
}
SHIFTS = {1: (0.0,), 2: (-0.17, 0.17), 4: (-0.27, -0.09, 0.09, 0.27)}  # of dots that share a row
PROBES = ("plain", "completion", "noise")
BAND = "#d5d5d5"
START = -0.5  # of titles, in widths of the axes
Line = tuple[str, Sequence[dict[str, Any]]]  # a label, and the cells that share it


def draw(record: dict[str, Any], path: Path) -> Path | None:
    """Writes a PNG; None where nothing is finished yet."""
    cells = {cell["id"]: cell for cell in record["cells"] if cell["status"] == "measured"}
    if not cells:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(SIZE, dpi=DPI)
    FigureCanvasAgg(figure)
    left, top, bottom = (figure.add_axes(place) for place in PLACES)
    _lay(left, _factor_lines(cells), "One thing changed at a time", "base: fp32 ONNX, onnxruntime, DDIM 25, plain prompts")
    _lay(top, _matrix_lines(cells), "Solver × bits × probe", "4 bits: Core ML palettes")
    _lay(bottom, _narrow_lines(cells), "Erased on a 4-bit model", "share of the change: files (bits a weight); control: that 4-bit model")
    for axes in (left, bottom):
        axes.set_xlabel("whole pictures that show the erased style, % (95 % interval)", fontsize=9)
    _legend(left, SWEPT, -0.075)
    _legend(top, CROSSED, -0.075)
    with artifact.replacing(path) as part:
        figure.savefig(part, format="png", dpi=DPI)
    return path


def _factor_lines(cells: dict[str, dict[str, Any]]) -> list[Line | None]:
    """None: a gap between factors."""
    lines: list[Line | None] = []
    for factor in ("base", *FACTORS):
        labels = dict.fromkeys(row.label for model in reversed(SWEPT) for row in VIEWS[factor] if row.model == model)
        group = [(label, [cells[row.id] for row in VIEWS[factor] if row.label == label and row.id in cells]) for label in labels]
        group = [(label.removeprefix("Core ML, ") if factor == "precision" else label, found) for label, found in group if found]
        lines += [None, *group] if lines and group else group
    return lines


def _matrix_lines(cells: dict[str, dict[str, Any]]) -> list[Line | None]:
    lines: list[Line | None] = []
    for probe in PROBES:
        group = []
        for form in ("fp32", "4bit"):
            found = [cells[row.id] for model in CROSSED if (row := Row(model, form, probe=probe)).id in cells]
            group += [(f"{probe}, {FORMS[form].bits}", found)] if found else []
        lines += [None, *group] if lines and group else group
    return lines


def _narrow_lines(cells: dict[str, dict[str, Any]]) -> list[Line | None]:
    lines: list[Line | None] = []
    for row in VIEWS["narrow"]:
        model = MODELS[row.model]
        if row.id in cells and isinstance(model, Blend):
            form = FORMS[row.form].label.removeprefix("Core ML, ").replace(" palettes", "")
            form += ", choice on" if cells[row.id]["files"]["layers_kept_wider"] is not None else ""
            bits = cells[row.id]["files"]["bits_a_weight"]
            lines.append((f"{100 * model.share:.0f} %: {form} ({bits:.1f})", [cells[row.id]]))
    return lines


def _lay(axes: Any, lines: Sequence[Line | None], title: str, below: str) -> None:
    y, ticks, labels = 0.0, [], []
    for line in lines:
        if line is None:
            y += 0.45
            continue
        label, found = line
        for low, high in {tuple(cell["control"]["leaked"]["wilson95"]) for cell in found}:
            axes.barh(y, 100 * (high - low), 0.86, 100 * low, color=BAND, alpha=0.8, linewidth=0, zorder=1)
        shifts = SHIFTS.get(len(found)) or tuple((i - (len(found) - 1) / 2) * 0.2 for i in range(len(found)))
        for cell, shift in zip(found, shifts, strict=True):
            leaked, colour = cell["export"]["leaked"], COLOURS[cell["model"]]
            low, high = leaked["wilson95"]
            axes.plot([100 * low, 100 * high], [y + shift] * 2, color=colour, linewidth=1.8, solid_capstyle="butt", zorder=2)
            axes.plot(100 * leaked["rate"], y + shift, "o", color=colour, markersize=4.6, zorder=3)
        ticks.append(y)
        labels.append(label)
        y += 1.0
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.set_ylim(max(y, 1.0) - 0.45, -0.55)
    axes.set_xlim(-2, 102)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e9e9e9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{title}\n", fontsize=11, loc="left", x=START, fontweight="bold")
    axes.text(START, 1.01, below, transform=axes.transAxes, fontsize=8.5, color="#555555")


def _legend(axes: Any, models: Sequence[str], y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Line2D([], [], color=COLOURS[m], marker="o", markersize=4.6, linewidth=1.8, label=MODELS[m].label) for m in models]
    handles.append(Patch(color=BAND, label="un-erased control"))
    axes.legend(handles=handles, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.3, y), ncols=3, frameon=False, columnspacing=1.2)
