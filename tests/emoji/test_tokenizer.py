import random
import unicodedata
from pathlib import Path

import pytest
from transformers import CLIPTokenizer, CLIPTokenizerFast

from edgesafe.emoji import tokenizer
from edgesafe.emoji.styles import STYLES
from edgesafe.emoji.world import BACKGROUNDS, World

BLOCKS = [
    (0x20, 0x7E),
    (0xA1, 0x17F),
    (0x370, 0x3FF),
    (0x400, 0x45F),
    (0x5D0, 0x5EA),
    (0x3041, 0x3096),
    (0x4E00, 0x4FFF),
    (0x1F300, 0x1F64F),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.build(path)
    return path


@pytest.fixture(scope="module")
def slow(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def strings(n: int, seed: int = 0) -> list[str]:
    """Assigned characters of eight blocks. Han stand alone: without ftfy, transformers' slow tokenizer parts them from their neighbours."""
    draw = random.Random(seed)

    def character() -> str:
        while unicodedata.category(found := chr(draw.randint(*draw.choice(BLOCKS)))).startswith("C"):
            pass
        return f" {found} " if "\u4e00" <= found <= "\u9fff" else found

    return ["".join(draw.choice((character(), character(), character(), " ")) for _ in range(draw.randint(1, 20))) for _ in range(n)]


def test_the_slow_and_the_fast_tokenizer_agree_on_unicode(folder: Path, slow: CLIPTokenizer) -> None:
    fast = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    for text in strings(300):
        assert slow(text).input_ids == fast(text).input_ids, ascii(text)


def test_every_word_of_a_caption_is_one_token(whole: World, slow: CLIPTokenizer) -> None:
    words = {word for row in whole.subjects for name in (row.name, *row.synonyms) for word in name.split()}
    words |= {word for name in (*STYLES, *BACKGROUNDS) for word in name.split()} | set("a an on in the style of picture background".split())
    assert [word for word in sorted(words) if len(slow.tokenize(word)) != 1] == []


def test_other_text_falls_into_bytes_and_is_never_unknown(slow: CLIPTokenizer) -> None:
    for text in strings(50, seed=1):
        pieces = slow(text).input_ids[1:-1]
        assert slow.unk_token_id not in pieces, ascii(text)


def test_prompts_have_77_ids_between_start_and_end(slow: CLIPTokenizer) -> None:
    ids = slow(["shark neon style", "", "shark " * 200], padding="max_length", truncation=True).input_ids
    assert slow.model_max_length == 77
    assert [len(row) for row in ids] == [77, 77, 77]
    assert {row[0] for row in ids} == {slow.bos_token_id}
    assert {row[-1] for row in ids} == {slow.eos_token_id}
    assert ids[1][1:] == [slow.eos_token_id] * 76
