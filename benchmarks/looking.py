"""What detectors saw in the pictures that were drawn: a line a picture, pictures for the report, and quality of all that was not erased."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgesafe.concepts import Concept
from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import kernel_distance

from .cells import attempt
from .detectors.detector import Detector
from .leakage import Cell, Reading, Sitting, outcome

COPIES = 4  # real pictures for each generated one, in FID and KID
SHOWN = 256  # px of a picture in the report


@dataclass
class Looked:
    """A cell's pictures by one model, as each detector saw them."""

    cell: Cell  # with the questions that were asked
    readings: dict[str, tuple[Reading, ...]] = field(default_factory=dict)  # detector -> one a picture
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # detector -> reason


def look(detectors: Mapping[str, Detector], pictures: np.ndarray, cell: Cell, concepts: Sequence[Concept]) -> Looked:
    looked = Looked(cell)
    for name, detector in detectors.items():
        if cell.role == "erased" and cell.concept and not detector.knows(cell.concept):
            looked.failures[name] = f"this detector cannot tell whether “{cell.concept.name}” is in a picture"
            continue
        answer = attempt(lambda detector=detector: {"seen": detector.see(pictures, cell, concepts)})  # type: ignore[misc]
        if answer["status"] == "failed":
            looked.failures[name] = answer["reason"]
            continue
        looked.readings[name] = answer["seen"].readings
        if answer["seen"].embedding is not None:
            looked.embeddings[name] = answer["seen"].embedding
    return looked


def label(cell: Cell, reading: Reading) -> str:
    """Of an erased cell one of leakage.OUTCOMES; of others "right", "wrong" or "none", and "gone" where the detector can tell no more
    than that no erased concept is there."""
    if cell.role == "erased" and cell.concept:
        return outcome(cell.concept, reading)
    if reading.broken:
        return "none"
    if reading.right is None:
        return "wrong" if reading.shown else "gone"
    return "right" if reading.right else "wrong"


def lines(model: str, probe: str, looked: Looked) -> list[dict[str, Any]]:
    """One record a picture and detector, so that anybody can recount."""
    cell, rows = looked.cell, []
    for detector, readings in looked.readings.items():
        for q, r in zip(cell.questions, readings, strict=True):
            place = {"model": model, "probe": probe, "cell": cell.title, "concept": cell.concept.name if cell.concept else None}
            asked = {"detector": detector, "prompt": q.prompt, "plain": q.origin, "seed": q.seed}
            scores = {name: round(float(score), 4) for name, score in r.scores.items()}
            rows.append(place | asked | {"label": r.label, "scores": scores, "outcome": label(cell, r), "parts": dict(r.parts)})
    return rows


def sittings(probe: str, role: str, looked: Looked, pictures: np.ndarray) -> list[Sitting]:
    """For the report: by the first detector that could look, large pictures made smaller; none where no detector could."""
    first = next(iter(looked.readings.values()), None)
    if first is None:
        return []
    return [Sitting(probe, looked.cell, role, shrunk(pictures), first, tuple(label(looked.cell, r) for r in first))]


def shrunk(pictures: np.ndarray, side: int = SHOWN) -> np.ndarray:
    """uint8 (N, H, W, 3) with neither side over `side` px."""
    height, width = pictures.shape[1:3]
    if max(height, width) <= side:
        return pictures
    size = tuple(max(1, round(edge * side / max(height, width))) for edge in (width, height))
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures])


def fall_points(export: Mapping[str, Any] | None, control: Mapping[str, Any] | None, key: str) -> float | None:
    """By how many percentage points the export's rate lies under the control's."""
    ours, its = (row[key] if row else None for row in (export, control))
    if not ours or not its or ours["rate"] is None or its["rate"] is None:
        return None
    return round(100 * (its["rate"] - ours["rate"]), 1) + 0.0  # no negative zero


def quality(name: str, detector: Detector, looked: Mapping[str, Sequence[Looked]], seed: int) -> list[dict[str, Any]]:
    """FID and KID, in one detector's embedding, of all that was not erased against real pictures of it; and of real against real.

    looked: model -> its cells that ask for nothing erased.
    """
    asked = {role: {(q.prompt, q.seed): q for cell in cells for q in cell.cell.questions} for role, cells in looked.items()}
    questions = list(next(iter(asked.values()), {}).values())
    reference = detector.real(questions, COPIES, seed + 1) if len(questions) > 1 else None
    if reference is None:
        return []

    def row(what: str, features: Tensor) -> dict[str, Any]:
        sizes = {"generated_pictures": len(features), "real_pictures": len(reference), "feature_width": features.shape[1]}
        fid, kid = frechet_distance(features, reference), kernel_distance(features, reference)
        return {"what": what, "detector": name, **sizes, "fid": round(fid, 4), "kid": round(kid, 6) + 0.0}

    rows = []
    for role, cells in looked.items():
        if all(name in cell.embeddings for cell in cells):
            keys = [(q.prompt, q.seed) for cell in cells for q in cell.cell.questions]
            first = [keys.index(key) for key in dict.fromkeys(keys)]  # cells may share questions
            rows.append(row(role, torch.cat([cell.embeddings[name] for cell in cells])[first]))
    real = detector.real(questions, 1, seed + 2)
    return [*rows, row("real pictures", real)] if real is not None and rows else rows
