"""The emoji world's CLIP tokenizer: byte-level BPE whose merges make one token of every word that captions use."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreSequence
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from .styles import STYLES
from .world import BACKGROUNDS, World

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
# CLIP's own word pattern (openai/CLIP, simple_tokenizer.py).
WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def corpus() -> list[str]:
    """Every word a training caption of any world can hold; held-out synonyms stay in pieces."""
    whole = World(subject_count=World.atlas_size(), styles=tuple(STYLES))
    names = [text for s in whole.subjects for text in (s.name, *s.synonyms)]
    return [*names, *STYLES, *BACKGROUNDS, "a an on in the style of picture background"]


def build(folder: Path) -> CLIPTokenizer:
    """Train the merges and write `vocab.json`, `merges.txt` and the configs into `folder`."""
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=10_000, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix=SUFFIX, show_progress=False)
    model = Tokenizer(BPE(end_of_word_suffix=SUFFIX))
    model.normalizer = Sequence([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    model.pre_tokenizer = PreSequence([Split(Regex(WORD), "removed", invert=True), ByteLevel(add_prefix_space=False)])
    model.train_from_iterator(corpus(), trainer)
    merges = [tuple(m) for m in json.loads(model.to_str())["model"]["merges"]]
    letters = sorted(alphabet)
    tokens = [*letters, *(c + SUFFIX for c in letters), *("".join(m) for m in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=END, pad_token=END, model_max_length=77)
    tokenizer.save_pretrained(folder)
    return tokenizer
