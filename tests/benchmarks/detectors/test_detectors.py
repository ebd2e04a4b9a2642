"""The contract that every detector keeps, and which ones are chosen."""

import inspect
from pathlib import Path

import pytest

from edgesafe.artifact import Manifest
from edgesafe.benchmarks import detectors
from edgesafe.benchmarks.detectors import DETECTORS, known
from edgesafe.benchmarks.detectors.detector import Detector
from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge
from edgesafe.concepts import parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

NEON = parse("neon", World())
GUN = parse("gun", None)


def manifest(base: str) -> Manifest:
    return Manifest("run", {"id": base, "revision": None, "sha256": None}, base, (), (), {})


@pytest.mark.parametrize("name", DETECTORS)
def test_contract(name: str) -> None:
    cls = DETECTORS[name]
    assert cls.name == name
    assert not inspect.isabstract(cls)
    assert inspect.signature(cls.see).parameters.keys() == inspect.signature(Detector.see).parameters.keys()
    assert all(isinstance(text, str) and text for text in cls.options.values())
    reason = cls.why_not(manifest("owner/model"), GUN, {})
    assert reason
    assert isinstance(reason, str), "of a model and concept that none of them knows without settings"


@pytest.mark.parametrize("name", DETECTORS)
def test_opening_without_what_it_needs_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesafe.emoji import judge

    monkeypatch.setattr(judge, "WEIGHTS", tmp_path / "judge.safetensors")
    settings = {"model": str(tmp_path / "absent")} if "model" in DETECTORS[name].options else {}
    with pytest.raises(EdgeSafeError):
        DETECTORS[name].open(GUN, settings)


def test_the_judge_is_chosen_for_the_emoji_world() -> None:
    ((name, detector),) = detectors.choose(None, manifest("emoji:teacher"), NEON, {})
    assert name == "emoji-judge"
    assert isinstance(detector, EmojiJudge)


def test_where_none_suits_each_says_why() -> None:
    found = detectors.choose(None, manifest("owner/model"), GUN, {})
    assert [name for name, _ in found] == list(DETECTORS)
    assert all(isinstance(reason, EdgeSafeError) for _, reason in found)
    assert str(found[0][1]) == "emoji-judge: it knows the embedded emoji model only"


def test_one_that_cannot_open_stands_beside_those_that_can(tmp_path: Path) -> None:
    settings = {"clip": {"model": str(tmp_path / "absent")}}
    for names in (None, "clip,emoji-judge", " emoji-judge, clip,clip "):
        found = dict(detectors.choose(names, manifest("emoji:teacher"), NEON, settings))
        assert set(found) == {"clip", "emoji-judge"}
        assert isinstance(found["clip"], EdgeSafeError)
        assert isinstance(found["emoji-judge"], EmojiJudge)


def test_unknown_names_and_settings() -> None:
    with pytest.raises(EdgeSafeError, match="unknown detector 'nude'; known: emoji-judge, nudenet"):
        detectors.choose("nude", None, GUN, {})
    with pytest.raises(EdgeSafeError, match="unknown detector 'clap'"):
        detectors.choose(None, None, GUN, {"clap": {}})
    with pytest.raises(EdgeSafeError, match="nudenet: unknown setting 'treshold'. Its settings: model: 320n.onnx"):
        detectors.choose("nudenet", None, GUN, {"nudenet": {"treshold": "0.5"}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "metadata.jsonl: not there; known pictures need it"),
        ('{"file_name": "1.png"}', "line 1: 'shows'"),
        ('{"file_name": "1.png", "shows": "gun"}', "line 1: shows is not a list of names"),
        ("gun", "line 1: Expecting value"),
        (
            '{"file_name": "1.png", "shows": ["knife"]}',
            "no line shows an erased concept (gun), so there is nothing to find. It names: knife",
        ),
        ("", "no line shows an erased concept"),
    ],
)
def test_wrong_known_pictures(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(EdgeSafeError) as caught:
        known.read(tmp_path, GUN)
    assert words in str(caught.value)


def test_an_unreadable_known_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(EdgeSafeError, match="1.png: not readable as a picture"):
        known.picture(tmp_path / "1.png")
