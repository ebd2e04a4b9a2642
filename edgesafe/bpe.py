"""CLIP's tokenizer from `vocab.json` and `merges.txt` alone: the rules that an app's own tokenizer follows. Equal to `CLIPTokenizerFast`.

1. Normalise: Unicode NFC; each run of white space becomes one space; lower case, character by character (so a final sigma is as any).
2. Cut out the two special tokens where they stand in the text; they give their own ids. So does a padding token of its own, such as
   the "!" of Stable Diffusion XL's second tokenizer.
3. Split the rest into words, leftmost first: 's 't 're 've 'm 'll 'd | a run of letters (Unicode L*) | one number character (N*) | a run of
   anything else that is not white space. A number of four digits is four words.
4. Spell a word as UTF-8 bytes, each written as one printable character (GPT-2's table); the last one gets "</w>".
5. Merge the adjacent pair that stands first in merges.txt, the leftmost of equal ones, until no pair of the word stands there.
6. Look each piece up in vocab.json; what is not there is the unknown token, which is the end token.
7. Ids: start, at most 75 pieces, end. Padding to 77 is the caller's: the pad id differs between models.

Letters and numbers are those of this Python's Unicode tables; a character added later may be split otherwise elsewhere.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from .errors import EdgeSafeError

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
LENGTH = 77  # ids with start and end
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Unicode's White_Space; Python's own \s has U+001C to U+001F too
SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


@dataclass(frozen=True)
class Tokenizer:
    vocab: dict[str, int]
    ranks: dict[tuple[str, str], int]  # a pair's place in merges.txt
    special: tuple[str, ...] = (START, END)
    _known: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)  # words met before

    @classmethod
    def read(cls, folder: Path, pad: str = END) -> "Tokenizer":
        """`pad`: the token that the model fills up with. Raises: EdgeSafeError for files that are not those of a CLIP tokenizer."""
        vocab, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        try:
            words = json.loads(vocab.read_text(encoding="utf-8"))
            lines = merges.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise EdgeSafeError(f"{error.filename}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise EdgeSafeError(f"{folder}: vocab.json or merges.txt is damaged ({error})") from error
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong:
            raise EdgeSafeError(f"{merges}: the line {' '.join(wrong)!r} is not a pair")
        special = tuple(dict.fromkeys((START, END, pad)))
        lacking = [token for token in special if token not in words]
        if lacking:
            raise EdgeSafeError(f"{vocab}: no {lacking[0]!r}, so not a CLIP tokenizer's")
        return cls(words, {(first, second): rank for rank, (first, second) in enumerate(pairs)}, special)

    def ids(self, text: str, length: int = LENGTH) -> list[int]:
        """Start, the text's ids as far as they fit into `length`, end; not padded."""
        found = [piece for word in words_of(text, self.special) for piece in self.pieces(word)]
        return [self.vocab[START], *(self.vocab.get(piece, self.vocab[END]) for piece in found[: length - 2]), self.vocab[END]]

    def pieces(self, word: str) -> list[str]:
        if word not in self._known:
            symbols = [_table()[byte] for byte in word.encode("utf-8")]
            symbols[-1] += SUFFIX
            self._known[word] = [word] if word in self.special else self.merge(symbols)
        return self._known[word]

    def merge(self, symbols: list[str]) -> list[str]:
        """Step 5."""
        symbols = list(symbols)
        while pairs := [pair for pair in pairwise(symbols) if pair in self.ranks]:
            best = min(pairs, key=self.ranks.__getitem__)
            at = next(i for i, pair in enumerate(pairwise(symbols)) if pair == best)
            symbols[at : at + 2] = ["".join(best)]
        return symbols


def words_of(text: str, special: Sequence[str] = (START, END)) -> Iterator[str]:
    """Steps 1 to 3."""
    normal = "".join(c.lower() for c in SPACE.sub(" ", unicodedata.normalize("NFC", text)))
    for part in re.split(f"({'|'.join(map(re.escape, special))})", normal):
        yield from [part] if part in special else _split(part)


def _split(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        contraction = next((c for c in CONTRACTIONS if text.startswith(c, at)), None)
        kind, end = _kind(text[at]), at + 1
        if contraction:
            end = at + len(contraction)
        elif kind != "N":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != " ":
            yield text[at:end]
        at = end


@cache
def _kind(character: str) -> str:
    """L: letter, N: number, " ": white space, "": anything else."""
    if SPACE.match(character):
        return " "
    major = unicodedata.category(character)[0]
    return major if major in "LN" else ""


@cache
def _table() -> tuple[str, ...]:
    """256 printable characters: a byte that Latin-1 prints stands for itself, the others are numbered from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))
