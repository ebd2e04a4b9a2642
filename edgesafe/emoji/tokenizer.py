"""The emoji world's CLIP tokenizer: byte-level BPE whose merges make one token of every word that captions use."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from .styles import STYLES
from .world import BACKGROUNDS, World

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def corpus() -> list[str]:
    """Every word a training caption of any world can hold; held-out synonyms stay in pieces."""
    whole = World(subject_count=World.atlas_size(), styles=tuple(STYLES))
    names = [text for s in whole.subjects for text in (s.name, *s.synonyms)]
    return [*names, *STYLES, *BACKGROUNDS, "a an on in the style of picture background"]


def merges_of(words: dict[str, int]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich 2016) until every word is one symbol: the most frequent pair first, ties in alphabetical order.

    `words`: byte-level spelling -> count. Unlike the tokenizers library's trainer, the same on every run.
    """
    spelled = {word: (*word[:-1], word[-1] + SUFFIX) for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, symbols in spelled.items():
            joined: list[str] = []
            for symbol in symbols:
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            spelled[word] = tuple(joined)


def build(folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`, or a new one: `vocab.json`, `merges.txt` and the configs.

    Ids follow CLIP's order: 256 bytes, 256 bytes that end a word, merges, the two special tokens.
    """
    if not (folder / "vocab.json").exists():
        merges = merges_of(Counter(word for text in corpus() for word in text.split()))
        letters = sorted(ByteLevel.alphabet())
        tokens = [*letters, *(c + SUFFIX for c in letters), *("".join(m) for m in merges), START, END]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}, ensure_ascii=False))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=END, pad_token=END, model_max_length=77)
    tokenizer.save_pretrained(folder)
    return tokenizer
