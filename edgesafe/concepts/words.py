"""How words are found in captions: whole words, in any case, accent and number, with any punctuation between them."""

import re
import unicodedata
from functools import lru_cache

VOWELS = "aeiou"
JOINT = r"[\W_]{1,3}"  # between two words of a term: "claude-monet", "impression, sunrise"


@lru_cache(maxsize=16_384)
def fold(text: str) -> str:
    """Lower case without accents, of the same length, so that places found in it are places of the text."""
    return "".join(_letter(char) for char in text)


def _letter(char: str) -> str:
    base = unicodedata.normalize("NFD", char)[0].lower()
    return base if len(base) == 1 else char


@lru_cache(maxsize=16_384)
def pattern(term: str) -> str:
    """Of the term's whole words in folded text, the last one in the singular or the plural."""
    words = re.findall(r"[^\W_]+", fold(term))
    if not words:
        return re.escape(term) if term.strip() else r"(?!)"  # an emoji, say; nothing is found nowhere
    return rf"(?<![^\W_]){JOINT.join([*words[:-1], _either_number(words[-1])])}(?![^\W_])"


def _either_number(word: str) -> str:
    """knife -> knife or knives, berry -> berry or berries, box -> box or boxes, cat -> cat or cats."""
    if re.search(r"[^aeiou]y$", word):
        return rf"{word[:-1]}(?:y|ys|ies)"
    if word.endswith(("f", "fe")):
        return rf"{word.rstrip('e')[:-1]}(?:fe?s?|ves)"
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        return rf"{word}(?:e?s)?"
    return rf"{word}s?"


def singular(term: str) -> str:
    """guns -> gun, boxes -> box, berries -> berry; glass and cactus stay. A guess by the ending, for English."""
    if term.endswith("ies") and len(term) > 4:
        return term[:-3] + "y"
    if term.endswith(("sses", "xes", "zes", "ches", "shes")):
        return term[:-2]
    return term[:-1] if term.endswith("s") and not term.endswith(("ss", "us", "is")) else term


def with_article(words: str) -> str:
    """ "egg" -> "an egg"; words that bring their own article keep it."""
    return words if without_article(words) != words else f"{'an' if words[:1] in VOWELS else 'a'} {words}"


def without_article(words: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", words)


def tidy(text: str) -> str:
    """What is left of a caption when words were taken out of it: no commas, conjunctions or prepositions without a word."""
    text = re.sub(r",(?:\s*,)+", ",", re.sub(r"\s+(?=[,.;])", "", " ".join(text.split())))
    before = None
    while text != before:
        before, text = text, re.sub(r"^(?:and|or)\b|\b(?:and|or|of|by|with|in the style of|in)$|^[\s,.;]+|[\s,;]+$", "", text)
    return " ".join(text.split())
