from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, wording
from edgesafe.benchmarks.probes.paraphrase import Paraphrase
from edgesafe.concepts import parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()


@pytest.fixture(scope="module")
def captions() -> set[str]:
    """What training may show: 20,000 captions."""
    generator = torch.Generator().manual_seed(1)
    subjects, styles = torch.randint(len(WORLD.subjects), (20_000,)), torch.randint(len(WORLD.styles), (20_000,))
    return {WORLD.caption(s, t, None, generator) for s, t in zip(subjects.tolist(), styles.tolist(), strict=True)}


@pytest.mark.parametrize("concept", ["neon", "pencil sketch", "beer mug", "kitchen knife", "syringe", "cat"])
def test_no_caption_and_no_pair_holds_the_prompt(concept: str, target: Target, cell_of: Callable[..., Cell], captions: set[str]) -> None:
    cell = cell_of(concept, 120)
    prompts = {question.prompt for question in Paraphrase().questions(target, cell)}
    assert len(prompts) > 40
    assert not prompts & {prompt for prompt, _ in cell.concept.pairs}
    assert not prompts & captions


def test_every_wording_is_asked(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of("beer mug", 60)
    prompts = [question.prompt for question in Paraphrase(reordered=False).questions(target, cell)]
    assert all(any(word in prompt for prompt in prompts) for word in wording.words(cell.concept, emoji=True))
    assert not any("pint of lager" in prompt for prompt in prompts)  # no word of it is one of this world's
    assert [q.prompt for q in Paraphrase(synonyms=False).questions(target, cell) if "beer mug" not in q.prompt] == []


def test_a_model_that_reads_english_is_asked_all(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of("style:van gogh", 60, emoji=False)
    prompts = " | ".join(question.prompt for question in Paraphrase().questions(target, cell))
    assert "Starry Night" in prompts and "梵高" in prompts and "im Stil von van gogh" in prompts


def test_a_file_of_ones_own(target: Target, cell_of: Callable[..., Cell], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[style]\nneon = ["laser", "{rest} at the disco"]\n')
    cell = cell_of("neon", 6)
    asked = Paraphrase(str(path), synonyms=False, reordered=False).questions(target, cell)
    for question in asked:
        assert "laser" in question.prompt or question.prompt == f"{wording.rest(question.plain, cell.concept)} at the disco"
    assert Paraphrase(str(path)).settings()["file"] == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("[style", "not valid TOML"),
        ("[look]\nneon = ['x']", r"unknown table \[look\]; known: style, object"),
        ("neon = ['x']", r"unknown table \[neon\]"),
        ("[style]\nneon = 'x'", "needs a list of phrases"),
        ("[style]\nneon = []", "needs a list of phrases"),
        ("[style]\nneon = ['{who} x']", r"holds \{who\}; only \{rest\} is filled in"),
        ("[style]\nneon = ['{rest x']", "braces that do not match"),
    ],
)
def test_a_file_that_does_not_fit(text: str | None, message: str, tmp_path: Path, target: Target, cell_of: Callable[..., Cell]) -> None:
    path = tmp_path / "own.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeSafeError, match=message):
        Paraphrase(str(path)).questions(target, cell_of("neon", 2))


def test_nothing_left_to_ask(target: Target, cell_of: Callable[..., Cell]) -> None:
    with pytest.raises(EdgeSafeError, match="nothing is left to ask"):
        Paraphrase(synonyms=False, reordered=False)
    with pytest.raises(EdgeSafeError, match="no other words are known for 'cat'"):
        Paraphrase(reordered=False).questions(target, cell_of("cat", 2))
    cell = cell_of("neon", 1)
    cell = replace(cell, questions=(replace(cell.questions[0], prompt="a shark"),))
    with pytest.raises(EdgeSafeError, match="does not name 'neon'"):
        Paraphrase().questions(target, cell)


@pytest.mark.parametrize(
    ("phrase", "prompt", "concept", "expected"),
    [
        ("knife kitchen", "a kitchen knife in the style of mosaic", "kitchen knife", "a knife kitchen in the style of mosaic"),
        ("explosive", "sepia picture of a bomb", "bomb", "sepia picture of an explosive"),
        ("laser", "shark neon style", "neon", "shark laser style"),
        ("{rest}, {c}", "a shark in the style of neon", "neon", "shark, neon"),
        ("{c} of {rest}", "neon picture of a shark", "neon", "neon of shark"),
        ("{rest}, {c}", "bomb", "bomb", "bomb"),
        ("{c} and {other}, {rest}", "bomb sepia style", "bomb", "bomb and dog, sepia style"),
    ],
)
def test_put(phrase: str, prompt: str, concept: str, expected: str) -> None:
    assert wording.put(phrase, prompt, parse(concept, WORLD)[0], other="dog", look="sepia") == expected


def test_the_packaged_wordings_are_whole() -> None:
    names = {"look": "x", "other": "y"}
    for name, table in (("concepts.toml", {"style", "object"}), ("templates.toml", {"reordered", "composed", "companions"})):
        assert set(wording._packaged(name)) == table
    for kind in ("style", "object"):
        for group in ("reordered", "composed"):
            phrases = wording.templates(group, kind, emoji=False)
            assert len(set(phrases)) == len(phrases) and all("{c}" in phrase and "{rest}" in phrase for phrase in phrases)
            assert all(phrase.format(c="c", rest="r", **names) for phrase in phrases)
        for name, row in wording._packaged("concepts.toml")[kind].items():
            phrases = [*row.get("heard", ()), *row["other"]]
            assert len(set(phrases)) == len(phrases) >= 6, name
            assert set(row) <= {"heard", "other"} and not any("{c}" in phrase for phrase in phrases)
