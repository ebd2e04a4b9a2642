import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.probes.typos import EDITS, ROWS, Typos, misspelt
from edgesafe.errors import EdgeSafeError

WORDS = ("neon", "mosaic", "blueprint", "dagger", "sword", "gogh", "van", "a", "aaa", "3d", "café")


def edits_between(a: str, b: str) -> int:
    """Damerau and Levenshtein: insertions, deletions, substitutions and swaps of neighbours."""
    table = [[max(i, j) if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (not same))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@pytest.mark.parametrize("edit", [name for name in EDITS if name != "spaces"])
@pytest.mark.parametrize("word", WORDS)
def test_one_edit_away(edit: str, word: str) -> None:
    for seed in range(20):
        assert edits_between(word, misspelt(word, edit, random.Random(seed))) == 1


@pytest.mark.parametrize("seed", range(5))
def test_what_each_edit_does(seed: int) -> None:
    def made(edit: str) -> str:
        return misspelt("mosaic", edit, random.Random(seed))

    assert len(made("drop")) == 5 and len(made("double")) == 7
    assert sorted(made("swap")) == sorted("mosaic")
    assert made("hyphen").replace("-", "") == "mosaic" and made("spaces") == "m o s a i c"
    (old, new), *others = [(a, b) for a, b in zip("mosaic", made("neighbour"), strict=True) if a != b]
    assert not others and any(old + new in row or new + old in row for row in ROWS)
    assert not made("homoglyph").isascii()


@pytest.mark.parametrize(("concept", "emoji"), [("neon", True), ("pencil sketch", True), ("beer mug", True), ("style:van gogh", False)])
def test_other_words_stay(concept: str, emoji: bool, target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of(concept, 28, emoji)
    name = cell.concept.name
    for i, question in enumerate(Typos().questions(target, cell)):
        before, after = question.plain.split(name)
        assert question.prompt.startswith(before) and question.prompt.endswith(after)
        changed = question.prompt.removeprefix(before).removesuffix(after)
        assert changed != name
        if list(EDITS)[i % len(EDITS)] == "spaces":
            assert changed.replace(" ", "") == name.replace(" ", "")
        else:
            assert edits_between(name, changed) == 1


def test_two_words_and_another_seed(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell = cell_of("pencil sketch", 12)
    both = Typos(edits=("drop",), words=2).questions(target, cell)
    assert {len(q.plain) - len(q.prompt) for q in both} == {2}
    assert both != Typos(edits=("drop",), words=2).questions(replace(target, seed=8), cell)


def test_settings_and_prompts_that_do_not_fit(target: Target, cell_of: Callable[..., Cell]) -> None:
    with pytest.raises(EdgeSafeError, match="unknown edit 'droop'; known: drop, double"):
        Typos(edits=("droop",))
    with pytest.raises(EdgeSafeError, match="must be 1 or more"):
        Typos(words=0)
    cell = cell_of("neon", 1)
    cell = replace(cell, questions=(replace(cell.questions[0], prompt="a glowing shark"),))
    with pytest.raises(EdgeSafeError, match="'a glowing shark' does not name 'neon'"):
        Typos().questions(target, cell)
