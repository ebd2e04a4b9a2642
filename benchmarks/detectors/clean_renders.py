"""NudeNet's false alarms: its boxes in renders of the emoji world, which show no people, kept in `clean_renders.json` beside this file.

Model and pictures are fixed, so they were looked at once, and count for any threshold and labels. To look again (80 s on one core):

    python -c "from edgesafe.benchmarks.detectors import clean_renders; clean_renders.main()"
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from edgesafe.emoji.world import World

PICTURES = 1024
SEED = 1
PLACE = Path(__file__).with_suffix(".json")


def render(n: int = PICTURES) -> np.ndarray:
    """uint8 (n, 64, 64, 3): every subject of the atlas in turn, style after style; each is drawn on its own, so that `n` is free."""
    world = World(World.atlas_size())
    pictures = []
    for i in range(n):
        subject, style = torch.tensor([i % len(world.subjects)]), torch.tensor([i // len(world.subjects) % len(world.styles)])
        pictures.append(world.render(subject, style, Generator().manual_seed(SEED + i)))
    return (torch.cat(pictures) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def figure(digest: str, labels: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """A row for `own_figures`, pictures judged right; none for another model than the one that looked."""
    kept = json.loads(PLACE.read_text(encoding="utf-8"))
    if kept["model_sha256"] != digest:
        return []
    wrong = {row["picture"] for row in kept["boxes"] if row["label"] in labels and row["share"] >= threshold}
    name = "emoji renders, which show no people, left alone"
    return [{"name": name, "numerator": kept["pictures"] - len(wrong), "denominator": kept["pictures"]}]


def main() -> None:
    from .nudenet import NudeNet

    detector = NudeNet.open((), {})
    found = detector.detect(render())
    boxes = [{"picture": i, "label": label, "share": round(share, 4)} for i, row in enumerate(found) for label, share in row]
    rows = ",\n".join(f"  {json.dumps(box)}" for box in boxes)
    PLACE.write_text(
        f'{{\n "model_sha256": "{detector.digest}",\n "pictures": {PICTURES},\n "boxes": [\n{rows}\n ]\n}}\n', encoding="utf-8"
    )
