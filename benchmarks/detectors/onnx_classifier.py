"""A classifier of your own: an ONNX file with one picture input, and beside it a TOML or JSON file that says how to ask and read it.

    size = [224, 224]              # height, width
    labels = ["drawing", "nude", "neutral"]     # in the order of the output's columns
    [concepts]
    nudity = ["nude"]              # the labels of an erased concept

and, where they differ from these: mean = [0, 0, 0], std = [1, 1, 1] (of pixels in [0, 1]), layout = "NCHW" | "NHWC", channels = "RGB" |
"BGR", resize = "stretch" | "crop" (the middle square), filter = "bilinear" | "bicubic" | "nearest", output = the first, activation =
"softmax" | "sigmoid" | "none", threshold = 0.5 | "likeliest", broken = [labels of a picture of nothing], embedding = an output (N, D) for
FID and KID, sha256 of the ONNX file, title.

    score = sum of its labels' shares (softmax), or the largest of them;   shown where score >= threshold, or the likeliest label is one
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from edgesafe.artifact import Manifest
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Reading
from . import known, weights
from .detector import Detector, Seen

WHO = "onnx-classifier"
LIKELIEST = "likeliest"
CHOICES = {
    "layout": ("NCHW", "NHWC"),
    "channels": ("RGB", "BGR"),
    "resize": ("stretch", "crop"),
    "filter": ("bilinear", "bicubic", "nearest"),
    "activation": ("softmax", "sigmoid", "none"),
}
BATCH = 32


@dataclass(frozen=True)
class Card:
    """The file beside the classifier."""

    size: tuple[int, int]  # height, width
    labels: tuple[str, ...]
    concepts: dict[str, list[str]]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: str = "NCHW"
    channels: str = "RGB"
    resize: str = "stretch"
    filter: str = "bilinear"
    output: str | None = None
    activation: str = "softmax"
    threshold: float | str = 0.5
    broken: tuple[str, ...] = ()
    embedding: str | None = None
    sha256: str | None = None
    title: str = ""
    place: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                self._refuse(f"{key} = {getattr(self, key)!r}", f"one of {', '.join(allowed)}")
        if len(self.size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.size):
            self._refuse(f"size = {list(self.size)}", "[height, width] in px")
        for key in ("mean", "std"):
            if len(getattr(self, key)) != 3 or not all(isinstance(x, int | float) for x in getattr(self, key)):
                self._refuse(f"{key} = {list(getattr(self, key))}", "three numbers")
        if 0 in self.std:
            self._refuse(f"std = {list(self.std)}", "three numbers that are not 0")
        if self.threshold != LIKELIEST and not isinstance(self.threshold, int | float):
            self._refuse(f"threshold = {self.threshold!r}", f'a number or "{LIKELIEST}"')
        if not self.labels or len(set(self.labels)) != len(self.labels):
            self._refuse("labels", "a list of different names, in the order of the output's columns")
        for where, names in {**self.concepts, "broken": self.broken}.items():
            if isinstance(names, str) or (where != "broken" and not names):
                self._refuse(f"{where} = {names!r}", "a list of labels")
            if unknown := [name for name in names if name not in self.labels]:
                self._refuse(f"{where} names the label {unknown[0]!r}", f"one of {', '.join(self.labels)}")

    def _refuse(self, found: str, needed: str) -> None:
        raise EdgeSafeError(f"{WHO}: {self.place}: {found}: needed is {needed}")

    @classmethod
    def read(cls, path: Path) -> "Card":
        if path.suffix == ".json":
            try:
                table = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise EdgeSafeError(f"{WHO}: {path}: not readable as JSON ({error})") from error
        else:
            table = weights.table(path, WHO)
        keys = [f.name for f in fields(cls) if f.name != "place"]
        if not isinstance(table, dict):
            raise EdgeSafeError(f"{WHO}: {path}: a table of {', '.join(keys)} is needed")
        if unknown := sorted(set(table) - set(keys)):
            raise EdgeSafeError(f"{WHO}: {path}: unknown key {unknown[0]!r}; known: {', '.join(keys)}")
        if missing := [f.name for f in fields(cls) if f.default is MISSING and f.name not in table]:
            raise EdgeSafeError(f"{WHO}: {path}: {missing[0]} is missing; size, labels and [concepts] are needed")
        lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        for key, kind in (("size", tuple), ("labels", tuple), ("mean", tuple), ("std", tuple), ("broken", tuple), ("concepts", dict)):
            if key in lists and not isinstance(lists[key], kind):
                raise EdgeSafeError(f"{WHO}: {path}: {key} = {lists[key]!r}: needed is {'a table' if kind is dict else 'a list'}")
        return cls(**lists, place=str(path))


class OnnxClassifier(Detector):
    name = WHO
    options: ClassVar[Mapping[str, str]] = {
        "model": "an ONNX file with a picture input",
        "card": "the TOML or JSON file that says how to read it; by default the one beside it with its name",
        "known": "a folder of known pictures with metadata.jsonl, for its own error",
    }

    @classmethod
    def why_not(cls, manifest: Manifest | None, concepts: Sequence[Concept], settings: Mapping[str, str]) -> str | None:
        return None if "model" in settings else f"no classifier was given. It needs the setting model: {cls.options['model']}"

    @classmethod
    def open(cls, concepts: Sequence[Concept], settings: Mapping[str, str]) -> "OnnxClassifier":
        if reason := cls.why_not(None, concepts, settings):
            raise EdgeSafeError(f"{WHO}: {reason}")
        path = Path(settings["model"]).expanduser()
        if not path.is_file():
            raise EdgeSafeError(f"{WHO}: {path}: no such file")
        beside = [path.with_suffix(suffix) for suffix in (".toml", ".json")]
        place = Path(settings["card"]).expanduser() if "card" in settings else next((p for p in beside if p.is_file()), beside[0])
        if not place.is_file():
            raise EdgeSafeError(f"{WHO}: {place}: no such file. It says how to ask the classifier: size, labels and [concepts] at least")
        card = Card.read(place)
        digest = weights.pinned(path, card.sha256, WHO) if card.sha256 else weights.sha256(path)
        detector = cls(path, card, digest)
        if not any(map(detector.knows, concepts)):
            names = ", ".join(concept.name for concept in concepts)
            raise EdgeSafeError(f"{WHO}: {place}: [concepts] names {', '.join(card.concepts)}, but erased were {names or 'none'}")
        detector.own_figures = known.figures(detector, settings.get("known"), concepts)
        return detector

    def __init__(self, path: Path, card: Card, digest: str) -> None:
        self.session, self.card, self.digest, self.path = weights.session(path), card, digest, path
        self.own_figures: list[dict[str, Any]] = []
        inputs, outputs = self.session.get_inputs(), [node.name for node in self.session.get_outputs()]
        if len(inputs) != 1:
            raise EdgeSafeError(f"{WHO}: {path}: it has the inputs {', '.join(node.name for node in inputs)}; one, a picture, is needed")
        if inputs[0].type != "tensor(float)":
            raise EdgeSafeError(f"{WHO}: {path}: its input {inputs[0].name} is a {inputs[0].type}; tensor(float) is needed")
        self.input, self.output = inputs[0].name, card.output or outputs[0]
        self.one_by_one = isinstance(inputs[0].shape[0], int)  # exported with a fixed batch
        for name in filter(None, (self.output, card.embedding)):
            if name not in outputs:
                raise EdgeSafeError(f"{WHO}: {path}: it has no output {name!r}; its outputs: {', '.join(outputs)}")

    def facts(self) -> dict[str, Any]:
        card = self.card
        likeliest = card.threshold == LIKELIEST
        joined = "the sum" if card.activation == "softmax" else "the largest"
        rule = "the likeliest label counts" if likeliest else f"{joined} of a concept's labels counts"
        concepts = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in card.concepts.items())
        title = card.title or self.path.name
        what = f"{title}, a classifier of the user's; {card.activation} over {len(card.labels)} labels, {rule}; {concepts}"
        threshold = None if likeliest else float(card.threshold)
        facts = {"name": self.name, "sha256": self.digest, "what": what, "threshold": threshold, "labels": list(card.labels)}
        return facts | {"own_figures": self.own_figures}

    def knows(self, concept: Concept) -> bool:
        return concept.name in self.card.concepts

    def see(self, pictures: np.ndarray, cell: Cell, concepts: Sequence[Concept]) -> Seen:
        shares, embedding = self.shares(pictures)
        card, readings = self.card, []
        names = [concept.name for concept in concepts if self.knows(concept)]
        for row in shares:
            likeliest = card.labels[int(row.argmax())]
            picked = {name: row[[card.labels.index(label) for label in card.concepts[name]]] for name in names}
            scores = {n: round(float(part.sum() if card.activation == "softmax" else part.max()), 4) for n, part in picked.items()}
            if card.threshold == LIKELIEST:
                shown = frozenset(name for name in names if likeliest in card.concepts[name])
            else:
                shown = frozenset(name for name in names if scores[name] >= float(card.threshold))
            broken = likeliest in card.broken if card.broken else None
            readings.append(Reading(f"{likeliest} {float(row.max()):.2f}", scores, shown, broken))
        return Seen(tuple(readings), None if embedding is None else torch.from_numpy(embedding))

    def shares(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(N, labels) after the activation, and the embedding (N, D)."""
        outputs = [name for name in (self.output, self.card.embedding) if name]
        batch, rows = 1 if self.one_by_one else BATCH, []
        for start in range(0, len(pictures), batch):
            rows.append(self.session.run(outputs, {self.input: prepare(pictures[start : start + batch], self.card)}))
        values, *embeddings = (np.concatenate(column) for column in zip(*rows, strict=True))
        if values.ndim != 2 or values.shape[1] != len(self.card.labels):
            found = f"output {self.output!r} has the shape {values.shape[1:]} a picture"
            raise EdgeSafeError(f"{WHO}: {self.path}: {found}, and {self.card.place} names {len(self.card.labels)} labels")
        logits = torch.from_numpy(values)
        activated = {"softmax": lambda: logits.softmax(1), "sigmoid": logits.sigmoid, "none": lambda: logits}[self.card.activation]()
        return activated.numpy(), embeddings[0] if embeddings else None


def prepare(pictures: np.ndarray, card: Card) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float32, of the size, order and range that the card names."""
    height, width = card.size
    resample = Image.Resampling[card.filter.upper()]
    rows = []
    for picture in pictures:
        image = Image.fromarray(picture)
        if card.resize == "crop" and image.width * height != image.height * width:
            scale = min(image.width / width, image.height / height)
            w, h = round(width * scale), round(height * scale)
            left, top = (image.width - w) // 2, (image.height - h) // 2
            image = image.crop((left, top, left + w, top + h))
        rows.append(np.asarray(image if image.size == (width, height) else image.resize((width, height), resample)))
    pixels = np.stack(rows).astype(np.float32) / 255
    pixels = (pixels - np.array(card.mean, np.float32)) / np.array(card.std, np.float32)
    pixels = pixels if card.channels == "RGB" else pixels[..., ::-1]
    return np.ascontiguousarray(pixels if card.layout == "NHWC" else pixels.transpose(0, 3, 1, 2))
