"""What the paper's table asks: pictures of the concept, of its neighbours, of held-out pairs, and of everything else.

A question's seed depends on its prompt alone, so rows and topics share the pictures of a prompt.
"""

import math
from dataclasses import replace
from functools import cache
from hashlib import sha256

from edgesafe import artifact
from edgesafe.concepts import Concept, carriers, parse
from edgesafe.emoji.world import prompt

from . import questions
from .leakage import Question
from .paper_plan import Sizes, Topic

MANIFEST = artifact.Manifest("run", {"id": "emoji:teacher"}, "emoji:student", (), (), {})  # whose questions are the emoji world's


@cache
def topic_concepts(topic: Topic) -> tuple[Concept, ...]:
    return parse(topic.erase, questions.judged_world(), topic.anchor)


@cache
def ask(topic: Topic, sizes: Sizes) -> dict[str, tuple[Question, ...]]:
    """By set; each set has as many questions as its size says."""
    concepts, world = topic_concepts(topic), questions.judged_world()
    each = math.ceil(sizes.concept / len(concepts))
    cells = {n: questions.cells(MANIFEST, concepts, n, 0) for n in {each, sizes.neighbours, sizes.rest} if n}

    def role(name: str, n: int) -> list[Question]:
        found = [q for cell in cells.get(n, ()) if cell.role == name for q in cell.questions]
        return list(dict.fromkeys(found)) if name == "neighbours" else found

    erased = {s.name for s in world.subjects for c in concepts if c.name == s.name} | {c.name for c in concepts}
    held = [(world.subjects[s].name, world.styles[t]) for s, t in world.pairs(heldout=True).tolist()]
    held = [(s, t) for s, t in held if not {s, t} & erased and not carriers(prompt(s, t), concepts)]
    held.sort(key=lambda pair: sha256("|".join(pair).encode()).digest())
    copies = math.ceil(sizes.transfer / len(held))
    transfer = [Question(prompt(s, t), 0, s, t) for _ in range(copies) for s, t in held]
    return {
        "concept": _seeded(role("erased", each)[: sizes.concept]),
        "neighbours": _seeded(role("neighbours", sizes.neighbours)[: sizes.neighbours]),
        "transfer": _seeded(transfer[: sizes.transfer]),
        "rest": _seeded(role("rest", sizes.rest)[: sizes.rest]),
    }


def _seeded(asked: list[Question]) -> tuple[Question, ...]:
    """Each with a seed of its prompt's own, another one where it is asked again."""
    times: dict[str, int] = {}
    found = []
    for question in asked:
        n = times[question.prompt] = times.get(question.prompt, -1) + 1
        seed = int.from_bytes(sha256(f"{question.prompt}|{n}".encode()).digest()[:4]) % 2**31
        found.append(replace(question, seed=seed))
    return tuple(found)
