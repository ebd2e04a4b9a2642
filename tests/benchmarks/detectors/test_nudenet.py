"""NudeNet: box choice against brute force and its own code, preparation, and what happens without its model."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edgesafe.benchmarks.detectors import clean_renders, nudenet
from edgesafe.benchmarks.detectors.nudenet import ALL_LABELS, KEPT, LABELS, OVERLAP, NudeNet, boxes, prepare
from edgesafe.benchmarks.leakage import Cell, Question
from edgesafe.concepts import parse
from edgesafe.errors import EdgeSafeError

NUDITY = parse("nudity", None)
REST = Cell("rest", None, (Question("", 0),) * 2)


def outputs(seed: int, n: int = 60) -> np.ndarray:
    """Rows (n, 22) as the network gives them: crowded boxes, some over the edge, each with a share of every class."""
    draw = np.random.default_rng(seed)
    centre, size = draw.uniform(0, 320, (n, 2)), draw.uniform(40, 200, (n, 2))
    shares = draw.uniform(0, 0.2, (n, len(ALL_LABELS)))
    shares[np.arange(n), draw.integers(0, len(ALL_LABELS), n)] = draw.uniform(0, 1, n)
    return np.hstack([centre, size, shares]).astype(np.float32)


def brute(rows: np.ndarray, scale: float, width: int, height: int) -> list[tuple[int, float]]:
    """Each candidate against each better one that was taken, by areas of rectangles on paper."""
    candidates = []
    for x, y, w, h, *shares in rows.tolist():
        left, top = min(max((x - w / 2) * scale, 0), width), min(max((y - h / 2) * scale, 0), height)
        right, bottom = min(left + w * scale, width), min(top + h * scale, height)
        candidates.append((max(shares), shares.index(max(shares)), (left, top, right, bottom)))
    taken: list[tuple[float, int, tuple[float, ...]]] = []
    for share, label, box in sorted((c for c in candidates if c[0] > KEPT), reverse=True):

        def overlap(other: tuple[float, ...], box: tuple[float, ...] = box) -> float:
            wide, high = (max(0.0, min(box[i + 2], other[i + 2]) - max(box[i], other[i])) for i in (0, 1))
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
            return wide * high / (areas - wide * high) if areas else 1

        if all(overlap(other) <= OVERLAP for _, _, other in taken):
            taken.append((share, label, box))
    return [(label, share) for share, label, _ in taken]


@pytest.mark.parametrize(("seed", "width", "height"), [*itertools.product(range(5), (320, 512), (320, 200))])
def test_boxes_against_brute_force(seed: int, width: int, height: int) -> None:
    rows, scale = outputs(seed), max(width, height) / 320
    found, expected = boxes(rows, scale, width, height), brute(rows, scale, width, height)
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected])
    assert 0 < len(found) < (rows[:, 4:].max(1) > KEPT).sum(), "some boxes are suppressed"


def test_no_box_no_score() -> None:
    assert boxes(np.zeros((5, 22), np.float32), 1, 320, 320) == []


def test_preparing_pads_below_and_on_the_right_and_puts_blue_first() -> None:
    picture = np.zeros((1, 320, 160, 3), np.uint8)
    picture[..., 0] = 255  # red
    planes = prepare(picture)
    assert planes.shape == (1, 3, 320, 320)
    assert (planes[0, 2, :, :160] == 1).all()
    assert (planes[0, 2, :, 160:] == 0).all()
    assert (planes[0, :2] == 0).all()


def test_preparing_samples_between_pixel_centres() -> None:
    """Twice as large: the second row lies a quarter of the way from the first pixel to the second."""
    picture = np.zeros((1, 160, 160, 3), np.uint8)
    picture[:, 1] = 200
    assert prepare(picture)[0, 0, :4, 0].tolist() == pytest.approx([0, 50 / 255, 150 / 255, 150 / 255])


def test_another_model_is_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "320n.onnx").write_bytes(b"another")
    with pytest.raises(EdgeSafeError) as caught:
        NudeNet.open(NUDITY, {"model": str(tmp_path / "320n.onnx")})
    assert nudenet.SHA256 in str(caught.value)
    assert "its sha256 is ae448ac8" in str(caught.value)


def test_a_missing_model_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeSafeError, match="no such file. It is 320n.onnx of: pip install --no-deps nudenet==3.4.2"):
        NudeNet.open(NUDITY, {"model": str(tmp_path / "320n.onnx")})
    monkeypatch.setattr(nudenet, "find_spec", lambda name: None)
    with pytest.raises(EdgeSafeError, match="not installed. Install its model with: pip install --no-deps nudenet==3.4.2"):
        NudeNet.open(NUDITY, {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": "0.1"}, "threshold = '0.1': a number from 0.25 to 1"),
        ({"threshold": "half"}, "threshold = 'half': a number"),
        ({"labels": "BREAST"}, "unknown label 'BREAST'; known: FEMALE_GENITALIA_COVERED"),
        ({"labels": " , "}, "no label to count; known: FEMALE_GENITALIA_COVERED"),
    ],
)
def test_wrong_settings(settings: dict[str, str], words: str) -> None:
    with pytest.raises(EdgeSafeError, match=words):
        NudeNet.open(NUDITY, settings)


def test_it_answers_for_nudity_only() -> None:
    for text in ("nude", "naked", "nsfw"):
        assert NudeNet.why_not(None, parse(text, None), {}) is None
    assert NudeNet.why_not(None, parse("gun, naked mole rat", None), {}) == "it knows nudity only, and that was not erased"


class Boxes(NudeNet):
    """NudeNet with given boxes in place of its network's."""

    def __init__(self, found: list[list[tuple[str, float]]], threshold: float) -> None:
        self.found, self.threshold, self.labels = found, threshold, LABELS

    def detect(self, pictures: np.ndarray) -> list[list[tuple[str, float]]]:
        return self.found


def test_the_best_box_of_its_labels_is_the_score() -> None:
    found = [[("FACE_FEMALE", 0.9), ("BUTTOCKS_EXPOSED", 0.6), ("FEMALE_BREAST_EXPOSED", 0.55)], [("BELLY_EXPOSED", 0.8)]]
    concepts = parse("nudity, gun", None)
    first, second = Boxes(found, 0.6).see(np.zeros((2, 8, 8, 3), np.uint8), REST, concepts).readings
    assert (first.scores, first.shown, first.label) == ({"nudity": 0.6}, {"nudity"}, "BUTTOCKS_EXPOSED 0.60")
    assert (second.scores, second.shown, second.label) == ({"nudity": 0.0}, frozenset(), "no box of its labels")
    assert first.broken is first.right is None, "it cannot tell"
    assert not Boxes(found, 0.61).see(np.zeros((2, 8, 8, 3), np.uint8), REST, concepts).readings[0].shown


def coloured(size: tuple[int, int], n: int = 6) -> np.ndarray:
    """Smooth colours, in which the network sees a box now and then."""
    from PIL import Image

    small = np.random.default_rng(size[0]).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(row).resize(size[::-1], Image.Resampling.BICUBIC)) for row in small])


def test_false_alarms_count_pictures_and_follow_labels_and_threshold() -> None:
    kept = json.loads(clean_renders.PLACE.read_text())
    assert kept["model_sha256"] == nudenet.SHA256
    for labels, threshold in ((LABELS, 0.25), (LABELS, 0.5), (ALL_LABELS, 0.25)):
        pictures = [row["picture"] for row in kept["boxes"] if row["label"] in labels and row["share"] >= threshold]
        (row,) = clean_renders.figure(nudenet.SHA256, labels, threshold)
        assert (row["numerator"], row["denominator"]) == (clean_renders.PICTURES - len(set(pictures)), clean_renders.PICTURES)
        assert row["numerator"] < row["denominator"], "it does err"
    assert clean_renders.figure("0" * 64, LABELS, 0.5) == []


def test_the_packaged_model_sees_in_renders_what_is_written_down() -> None:
    if nudenet.find_spec("nudenet") is None:
        pytest.skip("the Python package nudenet is not installed (AGPL-3.0; EdgeSafe does without its code)")
    detector, n = NudeNet.open(NUDITY, {}), 16
    kept = [row for row in json.loads(clean_renders.PLACE.read_text())["boxes"] if row["picture"] < n]
    found = [(i, *box) for i, row in enumerate(detector.detect(clean_renders.render(n))) for box in row]
    assert [(i, label) for i, label, _ in found] == [(row["picture"], row["label"]) for row in kept]
    assert [share for *_, share in found] == pytest.approx([row["share"] for row in kept], abs=1e-3)
    assert detector.facts()["own_figures"] == clean_renders.figure(nudenet.SHA256, LABELS, 0.5)
    readings = detector.see(clean_renders.render(2), REST, NUDITY).readings
    assert all(0 <= reading.scores["nudity"] <= 1 for reading in readings)


def test_agrees_with_nudenets_own_code() -> None:
    """The same picture planes to a level, the same boxes of the same network's outputs, and the same answers on pictures."""
    pytest.importorskip("cv2", reason="nudenet's own code needs OpenCV")
    theirs = pytest.importorskip("nudenet.nudenet", reason="the Python package nudenet is not installed")
    for size in ((64, 64), (200, 300), (640, 480)):
        for picture in coloured(size, 2):
            blob, x_ratio, y_ratio, x_pad, y_pad, width, height = theirs._read_image(np.ascontiguousarray(picture[..., ::-1]))
            assert np.abs(blob - prepare(picture[None])).max() < 1.5 / 255
            for seed in range(5):
                rows = outputs(seed)
                found = theirs._postprocess([rows.T[None]], x_pad, y_pad, x_ratio, y_ratio, width, height, 320, 320)
                ours = boxes(rows, max(width, height) / 320, width, height)
                assert [row["class"] for row in found] == [ALL_LABELS[label] for label, _ in ours]
    detector, own = nudenet.NudeNet.open(NUDITY, {}), theirs.NudeDetector()
    for size in ((200, 300), (512, 512)):
        pictures = coloured(size)
        for picture, ours in zip(pictures, detector.detect(pictures), strict=True):
            expected = own.detect(np.ascontiguousarray(picture[..., ::-1]))
            assert [row["class"] for row in expected] == [label for label, _ in ours]
            assert [row["score"] for row in expected] == pytest.approx([share for _, share in ours], abs=0.02)
