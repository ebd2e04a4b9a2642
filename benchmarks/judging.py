"""Draw what the detector asks for with the export and with its un-erased control, look at every picture, and count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesafe.concepts import Concept
from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import kernel_distance

from .cells import CAUGHT
from .detectors.detector import Detector, Seen
from .gallery import Gallery
from .leakage import Cell, Question, kept, leakage, outcome, verdict
from .sources import Source

COPIES = 4  # real pictures for each generated one, in FID and KID


@dataclass(frozen=True)
class Artist:
    """A model that draws the questions; `source` gives the reason instead when there is none."""

    role: str  # "export" | "control"
    runtime: str
    source: Source | Exception


@dataclass
class Judged:
    cells: list[Cell]
    failures: dict[str, str] = field(default_factory=dict)  # role -> reason
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)  # role -> one array (N, H, W, 3) a cell
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    from_cache: dict[str, int] = field(default_factory=dict)


Progress = Callable[[str, int], None]  # (role, pictures newly done)


def look(detector: Detector, cells: list[Cell], artists: Sequence[Artist], gallery: Gallery, progress: Progress) -> Judged:
    judged = Judged(cells)
    questions = [q for cell in cells for q in cell.questions]
    ends = np.cumsum([len(cell.questions) for cell in cells])[:-1]
    for artist in artists:
        try:
            if isinstance(artist.source, Exception):
                raise artist.source
            drawn, kept_before = gallery.pictures(artist.source, artist.runtime, questions, partial(progress, artist.role))
            judged.pictures[artist.role] = np.split(drawn, ends)
            judged.seen[artist.role] = [detector.see(part) for part in judged.pictures[artist.role]]
            judged.from_cache[artist.role] = kept_before
        except CAUGHT as error:
            judged.failures[artist.role] = str(error)
    return judged


def count(judged: Judged, concepts: Sequence[Concept]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows for the report: (leakage by concept, kept by cell, verdicts); a role that failed is None in them."""
    leaks, keeps, verdicts = [], [], []
    for i, cell in enumerate(judged.cells):
        def measured(role: str, i: int = i, cell: Cell = cell) -> dict[str, Any] | None:
            if role not in judged.seen:
                return None
            readings = judged.seen[role][i].readings
            return leakage(cell, readings, concepts) if cell.role == "erased" else kept(cell.questions, readings)

        export, control = measured("export"), measured("control")
        key = "leaked" if cell.role == "erased" else "right"
        row: dict[str, Any] = {"concept": cell.concept.name if cell.concept else None, "prompts": len({q.prompt for q in cell.questions})}
        row |= {"export": export, "control": control, "fall_points": _fall(export, control, key)}
        if cell.role == "erased" and cell.concept:
            leaks.append(row | {"kind": cell.concept.kind})
            if export:
                verdicts.append(verdict(cell.concept, export, control))
        else:
            keeps.append(row | {"cell": cell.role})
    return leaks, keeps, verdicts


def _fall(export: dict[str, Any] | None, control: dict[str, Any] | None, key: str) -> float | None:
    """By how many percentage points the export's rate lies under the control's."""
    if not export or not control or export[key]["rate"] is None or control[key]["rate"] is None:
        return None
    return round(100 * (control[key]["rate"] - export[key]["rate"]), 1)


def quality(judged: Judged, detector: Detector, seed: int) -> list[dict[str, Any]]:
    """FID and KID, in the detector's embedding, of all that was not erased against real pictures of it; and of real against real."""
    index = [i for i, cell in enumerate(judged.cells) if cell.role != "erased"]
    questions: list[Question] = list({(q.prompt, q.seed): q for i in index for q in judged.cells[i].questions}.values())
    reference = detector.real(questions, COPIES, seed + 1) if len(questions) > 1 else None
    if reference is None:
        return []

    def row(what: str, features: Tensor) -> dict[str, Any]:
        sizes = {"generated_pictures": len(features), "real_pictures": len(reference), "feature_width": features.shape[1]}
        fid, kid = frechet_distance(features, reference), kernel_distance(features, reference)
        return {"what": what, **sizes, "fid": round(fid, 4), "kid": round(kid, 6) + 0.0}  # no negative zero

    rows = []
    for role, seen in judged.seen.items():
        features = torch.cat([seen[i].embedding for i in index])
        keys = [(q.prompt, q.seed) for i in index for q in judged.cells[i].questions]
        first = [keys.index(key) for key in dict.fromkeys(keys)]  # cells may share questions
        rows.append(row(role, features[first]))
    real = detector.real(questions, 1, seed + 2)
    return [*rows, row("real pictures", real)] if real is not None else rows


def lines(judged: Judged, concepts: Sequence[Concept]) -> list[dict[str, Any]]:
    """One record a picture, so that anybody can recount."""
    rows = []
    for role, seen in judged.seen.items():
        for cell, answer in zip(judged.cells, seen, strict=True):
            for q, r in zip(cell.questions, answer.readings, strict=True):
                ends = outcome(q, cell.concept, r, concepts) if cell.role == "erased" and cell.concept else None
                asked = {"prompt": q.prompt, "seed": q.seed, "asked_subject": q.subject, "asked_style": q.style}
                seen_as = {"seen_subject": r.subject, "seen_style": r.style}
                shares = {"subject_share": round(r.subject_share, 4), "style_share": round(r.style_share, 4)}
                rows.append({"model": role, "cell": cell.title, **asked, **seen_as, **shares, "outcome": ends})
    return rows
