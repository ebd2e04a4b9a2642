"""Our reading of CLIP's tokenizer files against transformers' own, on a small vocabulary, and what is no such file."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
from transformers import CLIPTokenizerFast

from edgesafe import bpe
from edgesafe.bpe import Tokenizer, words_of
from edgesafe.errors import EdgeSafeError


@pytest.fixture(scope="module")
def folder(tiny_sd1: Path) -> Path:
    return tiny_sd1 / "tokenizer"


def test_any_characters_give_the_ids_of_clip_tokenizer_fast(folder: Path) -> None:
    ours, theirs = Tokenizer.read(folder), CLIPTokenizerFast.from_pretrained(folder)
    chance = random.Random(1)
    blocks = ("abcdefghijklmnopqrstuvwxyz ", "ABC'sStTreve  \t\n", "0123456789.,", "áéßΣςǆ́̈", "あ漢한🍎👩‍🚀", "<|endoftext|>", "|<>'\"!?")
    texts = ["".join(chance.choice(chance.choice(blocks)) for _ in range(chance.randint(0, 60))) for _ in range(500)]
    points = [chr(c) for c in range(0x20, 0x3000) if unicodedata.category(chr(c)) != "Cn"]  # Cn: not in this Python's Unicode yet
    texts += ["a" + "b".join(points[i : i + 8]) for i in range(0, len(points), 8)]
    wanted = theirs(texts, truncation=True, max_length=77).input_ids
    assert not [text for text, ids in zip(texts, wanted, strict=True) if ours.ids(text) != ids]


def test_a_padding_token_of_its_own_is_cut_out_of_the_text(folder: Path) -> None:
    ours, theirs = Tokenizer.read(folder, "!"), CLIPTokenizerFast.from_pretrained(folder, pad_token="!")
    texts = ["!", "red apple!", "hi!!! there ?!", "a ! b", "<|endoftext|>!x"]
    assert [ours.ids(text) for text in texts] == theirs(texts).input_ids
    assert ours.ids("!") != Tokenizer.read(folder).ids("!")


def test_the_rules_one_by_one() -> None:
    assert list(words_of("  It's\ta DOG,2024!? ")) == ["it", "'s", "a", "dog", ",", "2", "0", "2", "4", "!?"]
    assert list(words_of("e\u0301 ΑΣ")) == ["\u00e9", "ας".replace("ς", "σ")]
    assert list(words_of("a\x1cb\x85c")) == ["a", "\x1c", "b", "c"], "U+001C is no white space, U+0085 is"
    assert list(words_of("x<|endoftext|>y<|startof")) == ["x", bpe.END, "y", "<|", "startof"]


def test_merges_apply_in_the_order_of_the_file_and_what_is_unknown_is_the_end() -> None:
    vocab = {bpe.START: 0, bpe.END: 1, "ab": 2, "c</w>": 3, "a": 4, "bc</w>": 5}
    assert Tokenizer(vocab, {("a", "b"): 0, ("b", "c</w>"): 1}).ids("abc") == [0, 2, 3, 1]
    assert Tokenizer(vocab, {("b", "c</w>"): 0, ("a", "b"): 1}).ids("abc") == [0, 4, 5, 1]
    assert Tokenizer(vocab, {}).ids("z") == [0, 1, 1]


def test_a_long_text_keeps_its_start_and_an_end(folder: Path) -> None:
    ours = Tokenizer.read(folder)
    ids = ours.ids("red apple " * 100)
    assert len(ids) == 77 and ids[0] == ours.vocab[bpe.START] and ids[-1] == ours.vocab[bpe.END] and ours.vocab[bpe.END] not in ids[:-1]


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("{", "", "vocab.json or merges.txt is damaged"),
        (json.dumps({bpe.START: 0}), "", "vocab.json: no '<|endoftext|>'"),
        (json.dumps({bpe.START: 0, bpe.END: 1}), "#version: 0.2\na b c\n", "merges.txt: the line 'a b c' is not a pair"),
        (None, "", "vocab.json: cannot be read (No such file"),
    ],
)
def test_other_files_are_refused(vocab: str | None, merges: str, message: str, tmp_path: Path) -> None:
    if vocab is not None:
        (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(EdgeSafeError) as caught:
        Tokenizer.read(tmp_path)
    assert message in str(caught.value)
