"""The tokenizer check: what it tries, what it finds, and what it says of Apple's own tokenizer."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from edgesafe import model
from edgesafe.bpe import Tokenizer
from edgesafe.errors import EdgeSafeError
from edgesafe.export import tokens


def test_a_thousand_different_strings_always_the_same_and_of_every_kind() -> None:
    made = tokens.strings()
    assert len(made) == len(set(made)) == tokens.COUNT == 1000 and made == tokens.strings()
    assert "" in made and " " in made and "\t" in made and any(len(text.split()) > 77 for text in made)
    categories = {unicodedata.category(character) for text in made for character in text}
    assert {"Ll", "Lu", "Lo", "Lt", "Mn", "Nd", "Nl", "No", "Po", "Sc", "Sm", "So", "Sk", "Zs", "Cc", "Cf", "Co"} <= categories
    assert any("\u200d" in text for text in made) and any(unicodedata.normalize("NFC", text) != text for text in made)
    assert any("'ll" in text for text in made) and any(text != text.lower() for text in made)


@pytest.mark.parametrize("place", ["", "tokenizer"])
def test_the_models_own_files_agree_in_either_place(place: str, tiny_sd1: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd1 / "tokenizer", tmp_path / place, dirs_exist_ok=True)
    found = tokens.compare(tmp_path, model.sketch(tiny_sd1))
    assert (found["strings"], found["equal"]) == (1000, 1000) and ("notes" in found) == (place == "")


@pytest.mark.parametrize("damage", ["merges", "vocab", "cut"])
def test_files_that_differ_are_named_with_the_first_string(damage: str, tiny_sd1: Path, tmp_path: Path) -> None:
    place = tmp_path / "tokenizer"
    shutil.copytree(tiny_sd1 / "tokenizer", place)
    merges, vocab = (place / "merges.txt").read_text(), (place / "vocab.json").read_text()
    if damage == "merges":  # two lines change places
        head, one, two, *rest = merges.split("\n")
        (place / "merges.txt").write_text("\n".join([head, *rest[:-1], two, one, ""]))
    elif damage == "vocab":
        (place / "vocab.json").write_text(vocab.replace('"red</w>"', '"rad</w>"'))
    else:
        (place / "merges.txt").write_text(merges[: len(merges) // 2].rpartition("\n")[0])
    with pytest.raises(EdgeSafeError, match=r"tokenizer: vocab.json and merges.txt give other ids .* first for '.*CLIPTokenizerFast"):
        tokens.compare(tmp_path, model.sketch(tiny_sd1))


def test_an_export_without_a_tokenizer_is_named(tiny_sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="no vocab.json"):
        tokens.compare(tmp_path, model.sketch(tiny_sd1))


def test_apples_tokenizer_agrees_on_words_and_single_digits_only(tiny_sd1: Path) -> None:
    ours = Tokenizer.read(tiny_sd1 / "tokenizer")
    for text in ("a red apple", "  shark  neon style ", "room 1 on 7"):
        assert tokens.PLAIN.fullmatch(text.strip()) and tokens.apple_ids(ours, text) == ours.ids(text)
    for text in ("room 101", "mp3", "red, apple", "it's", "é", "a\tb", "x" * 100):
        assert tokens.apple_ids(ours, text) != ours.ids(text)
    for text in ("room 101", "mp3", "Red", "red, apple"):
        assert not tokens.PLAIN.fullmatch(text)
