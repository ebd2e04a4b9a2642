"""A user's classifier: the judge's own network as ONNX gives the judge's verdicts; its card; what is refused."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge
from edgesafe.benchmarks.detectors.onnx_classifier import LIKELIEST, Card, OnnxClassifier, prepare
from edgesafe.benchmarks.leakage import Cell, Question
from edgesafe.concepts import Concept, parse
from edgesafe.emoji import judge
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()
CONCEPTS = parse("beer mug, wine glass", WORLD)
NAMES = [*(s.name for s in WORLD.subjects), "none"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Subjects(torch.nn.Module):
    """The judge's subject head and embedding, behind a normalisation that the card undoes."""

    def __init__(self, network: judge.Judge) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(row).view(1, 3, 1, 1) for row in (MEAN, STD))
        subject, _, embedding = self.network(pixels * std + mean)
        return subject, embedding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classifier.onnx, the packaged judge's subject head, and classifier.toml. Do not write to it."""
    place = tmp_path_factory.mktemp("classifier")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            Subjects(judge.load()), (torch.rand(2, 3, 64, 64),), place / "classifier.onnx", dynamo=False,
            input_names=["pixels"], output_names=["subject", "embedding"], dynamic_axes={"pixels": {0: "n"}},
        )  # fmt: skip
    rows = {"size": [64, 64], "labels": NAMES, "mean": MEAN, "std": STD, "broken": ["none"], "threshold": LIKELIEST}
    rows |= {"embedding": "embedding", "output": "subject", "title": "the judge"}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items())
    concepts = "".join(f"{json.dumps(c.name)} = [{json.dumps(c.name)}]\n" for c in CONCEPTS)
    (place / "classifier.toml").write_text(f"{text}[concepts]\n{concepts}")
    return place


def renders(n: int) -> np.ndarray:
    """Some of them broken by noise, some of erased subjects."""
    g = torch.Generator().manual_seed(3)
    subjects = torch.randint(len(WORLD.subjects), (n,), generator=g)
    subjects[::3] = NAMES.index("beer mug")
    pictures = WORLD.render(subjects, torch.randint(len(WORLD.styles), (n,), generator=g), g)
    pictures[::5] = torch.rand(pictures[::5].shape, generator=g)
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_the_judge_as_onnx_gives_the_judges_verdicts(folder: Path) -> None:
    pictures = renders(60)
    cell = Cell("erased", CONCEPTS[0], (Question("beer mug", 0, "beer mug", "emoji"),) * 60)
    ours = OnnxClassifier.open(CONCEPTS, {"model": str(folder / "classifier.onnx")}).see(pictures, cell, CONCEPTS)
    theirs = EmojiJudge.open(CONCEPTS, {}).see(pictures, cell, CONCEPTS)
    assert [r.shown for r in ours.readings] == [r.shown for r in theirs.readings]
    assert [r.broken for r in ours.readings] == [r.broken for r in theirs.readings]
    assert any(r.shown for r in ours.readings)
    assert any(r.broken for r in ours.readings)
    for mine, other in zip(ours.readings, theirs.readings, strict=True):
        assert mine.scores == pytest.approx(other.scores, abs=2e-4)
    assert torch.allclose(ours.embedding, theirs.embedding, atol=1e-3)


def test_a_threshold_divides_the_scores_that_are_written(folder: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.toml"
    text = (folder / "classifier.toml").read_text().replace(f'threshold = "{LIKELIEST}"', "threshold = 0.9")
    card.write_text(text.replace('"beer mug" = ["beer mug"]', '"beer mug" = ["beer mug", "wine glass"]'))
    detector = OnnxClassifier.open(CONCEPTS, {"model": str(folder / "classifier.onnx"), "card": str(card)})
    cell = Cell("erased", CONCEPTS[0], (Question("", 0),) * 60)
    for reading in detector.see(renders(60), cell, CONCEPTS).readings:
        assert reading.shown == {name for name, score in reading.scores.items() if score >= 0.9}
        assert reading.scores["beer mug"] >= reading.scores["wine glass"], "it is the sum of both labels"
    assert detector.facts()["threshold"] == 0.9


def test_own_error_on_known_pictures(folder: Path, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    shown = ["beer mug", "beer mug", "shark", "wine glass"]
    index = torch.tensor([NAMES.index(name) for name in shown])
    pictures = (WORLD.render(index, torch.zeros(4, dtype=torch.long), g) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    lines = []
    for i, (picture, name) in enumerate(zip(pictures, shown, strict=True)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "shows": [name]}))
    lines[1] = json.dumps({"file_name": "2.png", "shows": ["beer mug"]})  # a shark, said to be a beer mug: one miss
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    detector = OnnxClassifier.open(CONCEPTS, {"model": str(folder / "classifier.onnx"), "known": str(tmp_path)})
    counts = {row["name"]: (row["numerator"], row["denominator"]) for row in detector.facts()["own_figures"]}
    assert counts == {
        "beer mug found in known pictures of it": (1, 2),
        "known pictures without beer mug left alone": (2, 2),
        "wine glass found in known pictures of it": (1, 1),
        "known pictures without wine glass left alone": (3, 3),
    }


def card(**rows: Any) -> Card:
    return Card(**{"size": (4, 6), "labels": ("a", "b"), "concepts": {"gun": ["a"]}, **rows})


def test_preparing_against_the_arithmetic() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    found = prepare(pictures, card(mean=tuple(MEAN), std=tuple(STD)))
    assert found.shape == (2, 3, 4, 6)
    assert found[1, 2, 3, 5] == pytest.approx((pictures[1, 3, 5, 2] / 255 - 0.6) / 0.3, abs=1e-6)
    last = prepare(pictures, card(layout="NHWC", channels="BGR"))
    assert last[1, 3, 5].tolist() == pytest.approx((pictures[1, 3, 5, ::-1] / 255).tolist(), abs=1e-6)


def test_cropping_takes_the_middle() -> None:
    picture = np.zeros((1, 4, 12, 3), np.uint8)
    picture[:, :, 4:8] = 255
    assert prepare(picture, card(size=(4, 4), resize="crop", filter="nearest")).min() == 1
    stretched = prepare(picture, card(size=(4, 4), filter="nearest"))
    assert stretched.min() == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = [64, 64]", "size = 64", "size = 64: needed is a list"),
        ("size = [64, 64]", "", "size is missing"),
        ("size = [64, 64]", "size = [64, 64]\nwidth = 64", "unknown key 'width'; known: size, labels"),
        ("size = [64, 64]", 'size = [64, 64]\nlayout = "CHW"', "layout = 'CHW': needed is one of NCHW, NHWC"),
        ("size = [64, 64]", f'size = [64, 64]\nsha256 = "{"0" * 64}"', "its sha256 is"),
        (f'threshold = "{LIKELIEST}"', 'threshold = "high"', "threshold = 'high': needed is a number"),
        ('output = "subject"', 'output = "logits"', "it has no output 'logits'; its outputs: subject, embedding"),
        ('"beer mug" = ["beer mug"]', '"beer mug" = ["beers"]', "beer mug names the label 'beers'"),
        ('"beer mug" = ["beer mug"]\n"wine glass" = ["wine glass"]', 'gun = ["shark"]', "[concepts] names gun, but erased were beer mug"),
        ("size = [64, 64]", "size = [", "not readable as TOML"),
    ],
)
def test_a_wrong_card_is_named(folder: Path, tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (folder / "classifier.toml").read_text()
    assert old in text
    path = tmp_path / "card.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(EdgeSafeError) as caught:
        OnnxClassifier.open(CONCEPTS, {"model": str(folder / "classifier.onnx"), "card": str(path)})
    assert words in str(caught.value)
    assert path.name in str(caught.value) or "classifier.onnx" in str(caught.value)


def test_another_number_of_labels_than_columns(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"size": [64, 64], "labels": ["a", "b"], "concepts": {"beer mug": ["a"]}}))
    detector = OnnxClassifier.open(CONCEPTS, {"model": str(folder / "classifier.onnx"), "card": str(path)})
    with pytest.raises(EdgeSafeError, match=r"output 'subject' has the shape \(65,\) a picture, and .*card.json names 2 labels"):
        detector.see(renders(2), Cell("rest", None, (Question("", 0),) * 2), CONCEPTS)


def test_missing_and_unreadable_files(folder: Path, tmp_path: Path) -> None:
    gun = (Concept("gun", "object", ("gun",), "", ()),)
    with pytest.raises(EdgeSafeError, match="absent.onnx: no such file"):
        OnnxClassifier.open(gun, {"model": str(tmp_path / "absent.onnx")})
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(EdgeSafeError, match="bad.toml: no such file. It says how to ask the classifier"):
        OnnxClassifier.open(gun, {"model": str(tmp_path / "bad.onnx")})
    (tmp_path / "bad.toml").write_text('size = [4, 4]\nlabels = ["a"]\n[concepts]\ngun = ["a"]\n')
    with pytest.raises(EdgeSafeError, match="bad.onnx: onnxruntime cannot read it"):
        OnnxClassifier.open(gun, {"model": str(tmp_path / "bad.onnx")})
