"""A detector's own error, on pictures of which somebody knows what they show.

The folder is a Hugging Face imagefolder: pictures and `metadata.jsonl` of {"file_name": "1.png", "shows": ["nudity"]}, one line a
picture, [] for a picture of none of the concepts. Sensitivity = found / showing it, specificity = left alone / not showing it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Question
from .detector import Detector

CELL = Cell("rest", None, (Question("", 0),))
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def figures(detector: Detector, folder: str | None, concepts: Sequence[Concept]) -> list[dict[str, Any]]:
    """Rows for `own_figures`; none where no folder is given."""
    if folder is None:
        return []
    known = [concept for concept in concepts if detector.knows(concept)]
    rows = [(shows, detector.see(picture(path)[None], CELL, known).readings[0].shown) for path, shows in read(Path(folder), concepts)]
    found = []
    for concept in known:
        there = [concept.name in shown for shows, shown in rows if concept.name in shows]
        away = [concept.name not in shown for shows, shown in rows if concept.name not in shows]
        found.append({"name": f"{concept.name} found in known pictures of it", "numerator": sum(there), "denominator": len(there)})
        found.append({"name": f"known pictures without {concept.name} left alone", "numerator": sum(away), "denominator": len(away)})
    return found


def read(folder: Path, concepts: Sequence[Concept]) -> list[tuple[Path, frozenset[str]]]:
    """[(picture, names of what it shows)]; names that were not erased are allowed."""
    path = folder / "metadata.jsonl"
    example = '{"file_name": "1.png", "shows": ["nudity"]}'
    if not path.is_file():
        raise EdgeSafeError(f"{path}: not there; known pictures need it, one line a picture: {example}")
    rows = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            place, shows = folder / row["file_name"], row["shows"]
            if not isinstance(shows, list) or not all(isinstance(name, str) for name in shows):
                raise TypeError("shows is not a list of names")
        except (ValueError, KeyError, TypeError) as error:
            raise EdgeSafeError(f"{path}, line {n}: {error}; needed is {example}") from error
        rows.append((place, frozenset(" ".join(name.lower().split()) for name in shows)))
    named = {name for _, shows in rows for name in shows}
    if not named & {concept.name for concept in concepts}:
        erased, found = ", ".join(concept.name for concept in concepts), ", ".join(sorted(named)) or "nothing"
        raise EdgeSafeError(f"{path}: no line shows an erased concept ({erased}), so there is nothing to find. It names: {found}")
    return rows


def picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)"""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise EdgeSafeError(f"{path}: not readable as a picture ({error})") from error


def pictures(folder: Path, whose: str) -> list[np.ndarray]:
    """Of every picture file in the folder, by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise EdgeSafeError(f"{whose}: {folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return [picture(path) for path in paths]
