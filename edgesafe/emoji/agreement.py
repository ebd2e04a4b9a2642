"""The judge checked by eye: the agreement between a person's labels of numbered pictures, what was asked for, and the judge.

The labels are a CSV with the columns number,subject,style, filled in from the sheets of `sheets.py` alone; "none" says that nothing
can be named.
"""

import csv
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import EdgeSafeError
from ..metrics.wilson import Rate
from . import judge as judging
from . import sheets
from .judge import Judge
from .world import World

KINDS = ("subject", "style")


def read_labels(path: Path, world: World, count: int) -> dict[int, tuple[str, str]]:
    """number -> (subject, style); unlabelled numbers are left out.

    Raises: EdgeSafeError, naming the line, for an unknown number, subject or style.
    """
    known = {"subject": [*(s.name for s in world.subjects), sheets.NONE], "style": [*world.styles, sheets.NONE]}
    labels: dict[int, tuple[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("number", *KINDS) if name not in (reader.fieldnames or ())]
            if missing:
                raise EdgeSafeError(f"{path}: no column {missing[0]!r}; the columns are number,subject,style")
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                number = int(row["number"]) if (row["number"] or "").strip().isdecimal() else 0
                if not 1 <= number <= count or number in labels:
                    raise EdgeSafeError(f"{place}: number {row['number']!r} is used twice or not one of 1 to {count}")
                values = {column: (row[column] or "").strip().lower() for column in known}
                for column, value in values.items():
                    if value not in known[column]:
                        raise EdgeSafeError(f"{place}: unknown {column} {value!r}; known: {', '.join(known[column])}")
                labels[number] = (values["subject"], values["style"])
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeSafeError(f"{path}: not readable ({error})") from error
    if not labels:
        raise EdgeSafeError(f"{path}: no labels in it")
    return labels


def compare(world: World, judge: Judge, labels_csv: Path, folder: Path | None = None) -> dict[str, Any]:
    """Eye, judge and request compared; `folder` holds key.json and the sheets, by default the labels' own."""
    folder = folder or labels_csv.parent
    try:
        key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeSafeError(f"{folder / 'key.json'}: not readable ({error}); write it with --contact") from error
    asked, labels = key["asked"], read_labels(labels_csv, world, len(key["asked"]))
    same_judge = key["judge_sha256"] == judging.sha256()
    said = key["judge"] if same_judge else sheets.answers(world, judge, sheets.read_sheets(folder, len(asked)))
    rows: list[dict[str, Any]] = [
        {"number": n, "heldout": asked[n - 1]["heldout"]}
        | {what: {"eye": labels[n][i], "asked": asked[n - 1][what], "judge": said[n - 1][what]} for i, what in enumerate(KINDS)}
        for n in sorted(labels)
    ]
    figures: dict[str, Rate] = {}
    for what in KINDS:
        seen = [row[what] for row in rows]
        for a, b in (("eye", "judge"), ("eye", "asked"), ("judge", "asked")):
            figures[f"{what}: {a} = {b}"] = Rate.of(x[a] == x[b] for x in seen)
        wrong, right = ([x["judge"] == x["asked"] for x in seen if (x["eye"] == x["asked"]) == same] for same in (False, True))
        figures[f"{what}: judge = asked, of those where eye is not"] = Rate.of(wrong)
        figures[f"{what}: judge = asked, of those where eye is too"] = Rate.of(right)
    subjects = [row["subject"] for row in rows]
    figures["none: judge, where the eye says none"] = Rate.of(x["judge"] == sheets.NONE for x in subjects if x["eye"] == sheets.NONE)
    figures["none: judge, where the eye names a subject"] = Rate.of(x["judge"] == sheets.NONE for x in subjects if x["eye"] != sheets.NONE)
    return {
        "model": key["model"],
        "model_sha256": key["model_sha256"],
        "judge_sha256": judging.sha256(),
        "judged_again": not same_judge,
        "labelled": len(labels),
        "pictures": len(asked),
        "figures": {name: rate.to_dict() for name, rate in figures.items()},
        "disagreements": [row for row in rows if any(row[what]["eye"] != row[what]["judge"] for what in KINDS)],
    }


def show(report: dict[str, Any], console: Console) -> None:
    again = "; the judge is not the one of key.json and saw the sheets again" if report["judged_again"] else ""
    title = f"Agreement on {report['labelled']} of {report['pictures']} pictures of {report['model']}{again}"
    table = Table("figure", "rate [95 % Wilson]", title=title, title_justify="left", title_style="bold")
    for name, rate in report["figures"].items():
        table.add_row(name, str(Rate(rate["numerator"], rate["denominator"])))
    console.print(table)
    table = Table("number", "asked", "eye", "judge", title="Where eye and judge differ", title_justify="left", title_style="bold")
    for row in report["disagreements"]:
        cells = (f"{row['subject'][who]}, {row['style'][who]}" for who in ("asked", "eye", "judge"))
        table.add_row(str(row["number"]), *cells)
    console.print(table)
