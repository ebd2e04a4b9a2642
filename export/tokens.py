"""The exported `vocab.json` and `merges.txt` against `CLIPTokenizerFast` of the model: ids of 1,000 strings.

The files are read by edgesafe.bpe, which shares no code with transformers, so that a damaged, cut or mixed-up file shows, and so does a
rule that an app's tokenizer would get wrong.
"""

import random
import re
import string
import warnings
from pathlib import Path
from typing import Any

from edgesafe.bpe import END, LENGTH, START, SUFFIX, Tokenizer
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

COUNT = 1000
WORDS = (
    "a an the of in on with and red blue apple castle sea night portrait photo photograph oil painting neon style sketch watercolor shark "
    "mountains sunset cat dog astronaut riding horse trending highly detailed cinematic lighting bokeh masterpiece unsqueezable xylophone "
    "counterrevolutionary pneumonoultramicroscopicsilicovolcanoconiosis qwrtz zzzz"
).split()
SCRIPTS = (
    "straße Ärger naïve façade Ångström coöperate İstanbul ΑΣΟΦΟΣ Ὀδυσσεύς Привет МОСКВА שלום مرحبا नमस्ते สวัสดี 你好 世界 東京タワー "
    "안녕하세요 Việt ﬁnal ǅungla ŉ ß ẞ ﷺ ½ Ⅷ ² x² ₂ ① ３４ १२ ٣ 𝔘𝔫𝔦 𝟙𝟚 µ Ω Å ª º"
).split()
EMOJI = "🍎 🦈 ❤️ 👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ☕ ✂︎ 🧑‍🎨 ©️ #️⃣".split()
COMBINING = "e\u0301 n\u0303 a\u0308\u0304 o\u0323\u0302 \u0301alone Z\u0351\u036b\u0343 q\u0307\u0323 \u1100\u1161\u11a8".split(" ")
PUNCTUATION = (*string.punctuation, *"... — – “quoted” ‘single’ ¿ ¡ … !!! ?! (:1.3) <b> a/b € № ､ 。".split())
CONTRACTIONS = "it's it'S don't WE'RE i've I'm she'll they'd l'été rock'n'roll 's 'tis ''s o'clock 're' y'all'd".split()
NUMBERS = "0 7 42 1984 3.14 1,000,000 2k 4K 16:9 007 1e-5 50% #5 24/7 mp3 r2d2 h2o covid19".split()
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\x85", "\x0b", "\x1c", " \t \n ")
SPECIAL = ("<|endoftext|>", "a <|startoftext|> b", "<|endof text|>")
ODD = ("", "\x00", "a\x07b", "\ufeffbom", "\u202ertl", "\ufffd", "\U0010ffff", "\ue000")  # byte order mark, right-to-left, no character
GROUPS = (WORDS, SCRIPTS, EMOJI, COMBINING, PUNCTUATION, CONTRACTIONS, NUMBERS)
PLAIN = re.compile("([a-z]+|[0-9])?( +([a-z]+|[0-9]))* *")


def strings() -> list[str]:
    """COUNT different ones, always the same: each piece above alone, then captions, mixtures, odd spaces, cases, and texts over 77 ids."""
    chance = random.Random(0)
    made = dict.fromkeys([*ODD, *SPECIAL, *SPACES, *(piece for group in GROUPS for piece in group)])
    while len(made) < COUNT:
        kind = chance.randrange(5)
        if kind == 0:
            text = " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))
        elif kind == 1:
            text = "".join(chance.choice(chance.choice((*GROUPS, SPACES))) for _ in range(chance.randint(2, 8)))
        elif kind == 2:
            text = chance.choice(SPACES).join(chance.choice(chance.choice(GROUPS)) for _ in range(chance.randint(2, 10)))
        elif kind == 3:
            cased = [chance.choice((str.upper, str.lower, str.title))(word) for word in chance.choices(WORDS, k=6)]
            text = "".join(word + chance.choice((" ", ", ", "-")) for word in cased)
        else:
            text = " ".join(chance.choice(chance.choice(GROUPS)) for _ in range(chance.randint(60, 120)))
        made[text] = None
    return list(made)


def compare(folder: Path, model: TextToImage) -> dict[str, Any]:
    """For the manifest's `parity`: {"strings", "equal"}. Raises: EdgeSafeError, naming the first string whose ids differ."""
    found: dict[str, Any] = {"strings": COUNT, "equal": COUNT}
    for name in model.family.tokenizers.values():
        place = next((place for place in (folder / name, folder) if (place / "vocab.json").is_file()), None)
        if place is None:
            raise EdgeSafeError(f"{folder}: no vocab.json, in it or in {name}/")
        ours, wanted = Tokenizer.read(place, getattr(model, name).pad_token), _wanted(model.folder / name)
        _refuse_unlike(place, {text: ours.ids(text) for text in wanted}, wanted)
        if place == folder:  # Core ML
            found["notes"] = [_apples(ours, wanted)]
    return found


def _wanted(folder: Path) -> dict[str, list[int]]:
    from transformers import CLIPTokenizerFast

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    texts = strings()
    return dict(zip(texts, theirs(texts, truncation=True, max_length=LENGTH).input_ids, strict=True))


def _refuse_unlike(place: Path, ours: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    unlike = [text for text in wanted if ours[text] != wanted[text]]
    if unlike:
        first = f"{unlike[0][:60]!r}: {ours[unlike[0]][:8]}, but CLIPTokenizerFast gives {wanted[unlike[0]][:8]}"
        raise EdgeSafeError(
            f"{place}: vocab.json and merges.txt give other ids than the model's own tokenizer for {len(unlike)} of {len(wanted)} "
            f"strings, first for {first}"
        )


def apple_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """By the rules of BPETokenizer in Apple's ml-stable-diffusion: split at spaces alone, and spelled in characters, not bytes."""
    found = [piece for word in text.strip().lower().split(" ") if word for piece in tokenizer.merge([*word[:-1], word[-1] + SUFFIX])]
    return [tokenizer.vocab.get(piece, tokenizer.vocab[END]) for piece in (START, *found, END)]


def _apples(tokenizer: Tokenizer, wanted: dict[str, list[int]]) -> str:
    """On which strings Apple's own Swift tokenizer gives the same ids."""
    same = sum(apple_ids(tokenizer, text) == ids for text, ids in wanted.items())
    plain = {text: ids for text, ids in wanted.items() if PLAIN.fullmatch(text) and len(ids) < LENGTH}
    agree = sum(apple_ids(tokenizer, text) == ids for text, ids in plain.items())
    differs = f"it differs at 'mp3' and '1984', at other characters, and past {LENGTH} ids, where it drops the end"
    return (
        f"Apple's Swift tokenizer gives the same ids for {agree} of the {len(plain)} strings of a-z words and single digits, "
        f"and for {same} of all {len(wanted)}; {differs}"
    )
