"""An evaluation's figures beside their targets, as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table

from ..metrics.wilson import Rate

# figure -> (target, gate for going on with the teacher); rates as shares, PSNR in dB
TARGETS: dict[str, tuple[float, float | None]] = {
    "judge, renders of held-out pairs: subject right": (0.95, None),
    "judge, renders of held-out pairs: style right": (0.98, None),
    "VAE, fresh renders: PSNR in dB": (25.0, None),
    "model, trained pairs: subject right": (0.85, 0.70),
    "model, trained pairs: style right": (0.95, 0.90),
    "model, held-out pairs: subject right": (0.60, 0.40),
    "model, held-out pairs: style right": (0.90, 0.80),
}
Figure = dict[str, Any] | float  # Rate.to_dict(), or dB


def verdicts(figures: dict[str, Figure]) -> dict[str, str]:
    """By the measured figure itself, not by its interval."""

    def verdict(figure: Figure, target: float, gate: float | None) -> str:
        # Of the counts: the rate in the report is rounded.
        value = figure["numerator"] / figure["denominator"] if isinstance(figure, dict) else figure
        if value >= target:
            return "target met"
        if gate is None:
            return "target not met"
        return "gate met, target not met" if value >= gate else "gate not met"

    return {name: verdict(figures[name], *TARGETS[name]) for name in TARGETS}


def text(figure: Figure) -> str:
    return str(Rate(figure["numerator"], figure["denominator"])) if isinstance(figure, dict) else f"{figure:.2f}"


def table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def show(report: dict[str, Any], console: Console) -> None:
    rows = table(f"{report['model']}, guidance {report['sampling']['guidance']}", "figure", "measured [95 %]", "target", "gate", "")
    for name, figure in report["figures"].items():
        marks = ["" if x is None else f"{x:g}" if x > 1 else f"{x:.0%}" for x in TARGETS.get(name, (None, None))]
        rows.add_row(name, text(figure), *marks, report["verdicts"].get(name, ""))
    console.print(rows)

    kinds = ("subject right", "style right", "called none")
    rows = table("By style, trained and held-out pairs together", "style", *kinds)
    for style, row in report["by_style"].items():
        rows.add_row(style, *(text(row[kind]) for kind in kinds))
    console.print(rows)

    rows = table("The subjects drawn worst, trained and held-out pairs together", "subject", "right", "taken for")
    for subject, row in report["worst_subjects"].items():
        rows.add_row(subject, text(row), ", ".join(f"{name} x{n}" for name, n in row["taken_for"].items()))
    console.print(rows)

    rows = table(
        "Two pictures of one caption", "pictures", "captions", "pixel difference", "in the judge's embedding", "same, other captions"
    )
    for who, row in report["two_pictures_of_one_caption"].items():
        rows.add_row(who, *("not measured" if value is None else str(value) for value in row.values()))
    console.print(rows)

    rows = table("Distance to renders of the same pairs, in the judge's embedding", "pictures", "FID", "KID")
    for who, row in report["distance_to_renders"].items():
        rows.add_row(who, f"{row['fid']:.3f}", f"{row['kid']:.4f}")
    console.print(rows)
