"""Contact sheets: every picture of an audit in the page itself, small, many in one WebP, with what was asked and what each detector saw.

A full audit has thousands of pictures and a page must still open on a phone. So tiles are as large as the budget allows, and where
even the smallest do not all fit, every sheet shows the same share of its pictures: leaked ones first, the others evenly spread.
What was asked and what was seen is there for every picture, shown or not.
"""

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .leakage import Sitting

SIDES = (160, 128, 96, 64)  # px of a tile, the largest that fits
QUALITY = 75  # of WebP
COLUMNS = 16  # tiles in a row of a sheet, at least
SAMPLE = 48  # pictures from which the bytes of one are estimated

Lines = Mapping[tuple[str, str, str], Mapping[str, Sequence[Mapping[str, Any]]]]  # (model, probe, cell) -> detector -> its lines


def read_lines(file: Path) -> Lines:
    """pictures.jsonl, by sitting and detector, in the order of the file."""
    found: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    with open(file, encoding="utf-8") as rows:
        for row in rows:
            line = json.loads(row)
            found[line["model"], line["probe"], line["cell"]][line["detector"]].append(line)
    return found


def build(sittings: Sequence[Sitting], detector: str, lines: Lines, room: int) -> dict[str, Any]:
    """For the page's script. detector: whose readings the sittings hold; lines: those of all detectors, where they were written;
    room: bytes that the result may take as JSON.

    {"side", "pictures", "shown", "sets": {"plain|erased neon": {"probe", "cell", "concept", "models": {"export": {
        "asked": [[prompt, plain, seed]], "seen": {detector: [[label, outcome, scores]]}, "uri", "columns",
        "tiles": [place of each picture in the sheet, or -1]}}}}}
    """
    sittings = [s for s in sorted(sittings, key=lambda s: s.role != "export") if len(s.pictures)]
    sets: dict[str, Any] = {}
    for s in sittings:
        concept = s.cell.concept.name if s.cell.concept else None
        facts: dict[str, Any] = {"probe": s.probe, "cell": s.cell.title, "concept": concept, "models": {}}
        asked = [[q.prompt, q.origin, q.seed] for q in s.cell.questions]
        words = {"asked": asked, "seen": _seen(s, detector, lines), "uri": "", "columns": 1, "tiles": [-1] * len(asked)}
        sets.setdefault(key(s.probe, s.cell.title), facts)["models"][s.role] = words
    side, share = fit(sittings, room - len(json.dumps(sets)))
    chosen: dict[str, list[int]] = {}  # the same of a probe's export and control, so that they can be held side by side
    for s in sittings:
        name = key(s.probe, s.cell.title)
        if name not in chosen or max(chosen[name], default=0) >= len(s.pictures):
            chosen[name] = choose(s.outcomes, share)
        if places := chosen[name]:
            tiles = {i: place for place, i in enumerate(places)}
            sets[name]["models"][s.role] |= {
                "uri": uri(_sheet([s.pictures[i] for i in places], side)),
                "columns": _columns(len(places)),
                "tiles": [tiles.get(i, -1) for i in range(len(s.pictures))],
            }
    shown = sum(tile >= 0 for drawn in sets.values() for words in drawn["models"].values() for tile in words["tiles"])
    return {"side": side, "pictures": sum(len(s.pictures) for s in sittings), "shown": shown, "sets": sets}


def key(probe: str, cell: str) -> str:
    return f"{probe}|{cell}"


def fit(sittings: Sequence[Sitting], budget: int) -> tuple[int, float]:
    """(px of a tile, share of the pictures that fits)"""
    total = sum(len(s.pictures) for s in sittings)
    if not total:
        return SIDES[-1], 1.0
    largest = max(max(s.pictures.shape[1:3]) for s in sittings)
    every = max(1, total // SAMPLE)
    sample = [p for n, p in enumerate(p for s in sittings for p in s.pictures) if n % every == 0]
    for side in SIDES:
        needed = len(uri(_sheet(sample, side))) / len(sample) * total
        if side <= largest and needed <= budget:
            return side, 1.0
    return SIDES[-1], min(1.0, max(0.0, 0.97 * budget / needed))  # an estimate: a little less


def choose(outcomes: Sequence[str], share: float) -> list[int]:
    """Which pictures are shown, in order: leaked ones first, the others evenly spread."""
    room = math.floor(share * len(outcomes) + 1e-9)
    leaked = [i for i, outcome in enumerate(outcomes) if outcome == "leaked"]
    others = [i for i, outcome in enumerate(outcomes) if outcome != "leaked"]
    first = spread(leaked, room)
    return sorted([*first, *spread(others, room - len(first))])


def uri(image: Image.Image, quality: int = QUALITY) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def spread(items: Sequence[int], n: int) -> list[int]:
    return list(items) if n >= len(items) else [items[int(i)] for i in np.linspace(0, len(items) - 1, n)] if n > 0 else []


def _sheet(pictures: Sequence[np.ndarray], side: int) -> Image.Image:
    columns = _columns(len(pictures))
    canvas = Image.new("RGB", (columns * side, max(1, math.ceil(len(pictures) / columns)) * side), "white")
    for n, picture in enumerate(pictures):
        tile = Image.fromarray(picture)
        tile = tile if tile.size == (side, side) else tile.resize((side, side), Image.Resampling.LANCZOS)
        canvas.paste(tile, (n % columns * side, n // columns * side))
    return canvas


def _columns(n: int) -> int:
    return min(max(1, n), max(COLUMNS, math.ceil(math.sqrt(n))))  # WebP ends at 16,383 px


def _seen(sitting: Sitting, detector: str, lines: Lines) -> dict[str, list[list[Any]]]:
    """By detector, of each picture: [label, outcome, scores]. Raises: ValueError for lines that are not of these pictures, a bug."""
    seen = {detector: list(_own(sitting))}
    for name, rows in lines.get((sitting.role, sitting.probe, sitting.cell.title), {}).items():
        if [(row["prompt"], row["seed"]) for row in rows] != [(q.prompt, q.seed) for q in sitting.cell.questions]:
            raise ValueError(f"pictures.jsonl: {sitting.role}, {sitting.probe}, {sitting.cell.title}: not the pictures of this sitting")
        seen[name] = [[row["label"], row["outcome"], row["scores"]] for row in rows]
    return seen


def _own(sitting: Sitting) -> Iterable[list[Any]]:
    for reading, outcome in zip(sitting.readings, sitting.outcomes, strict=True):
        yield [reading.label, outcome, {name: round(float(score), 4) for name, score in reading.scores.items()}]
