"""The pictures an eraser noises: each shows a concept or, at the same prompt, its anchor. Drawn or encoded once, before training.

Concepts share pictures and erasing batches evenly, however many they are. Those that the student was erased of earlier have a share of
their own, EARLIER_SHARE of each batch, for distilling teaches them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Generator, Tensor

from ..concepts import Concept, retarget
from ..data import EmojiWorld, ImageFolder, Pictures, Show, Source, Stream, drawn_by, encode_pixels, generator
from ..emoji.world import BACKGROUNDS, World
from ..errors import EdgeSafeError
from ..model import TextToImage
from .gradient import GradientEraser

EARLIER_SHARE = 0.25  # of an erasing batch
RENDERED = 64  # pictures of the world at once


@dataclass
class ConceptPictures:
    pictures: Pictures  # captions: prompts with the concept, whatever the picture shows
    anchors: list[str]  # the same prompts with the anchor
    owners: list[int]  # the concept of each, by its number
    earlier: "ConceptPictures | None" = None  # of concepts that are to stay erased

    def draw(self, n: int, noise: Generator) -> tuple[Tensor, list[str], list[str]]:
        """Latents (n, C, h, w), prompts with the concept, prompts with its anchor; of each concept n / concepts, give or take one."""
        if self.earlier:
            kept = int(n * EARLIER_SHARE + float(torch.rand(1, generator=noise)))
            shared = ((replace(self, earlier=None), n - kept), (self.earlier, kept))
            latents, prompts, anchors = zip(*(part.draw(size, noise) for part, size in shared if size), strict=True)
            return torch.cat(latents), [*chain(*prompts)], [*chain(*anchors)]
        rows = self._rows(n, noise)
        batch = self.pictures.draw(rows, noise)
        return batch.latents, batch.captions, [self.anchors[i] for i in rows.tolist()]

    def _rows(self, n: int, noise: Generator) -> Tensor:
        """(n,) rows; which concepts get one more than the others is drawn."""
        owners = torch.tensor(self.owners)
        groups = [(owners == i).nonzero()[:, 0] for i in owners.unique()]
        if len(groups) == 1:
            return torch.randint(len(owners), (n,), generator=noise)
        turns = torch.randperm(len(groups), generator=noise).repeat(-(-n // len(groups)))[:n].tolist()
        places = torch.rand(n, generator=noise).tolist()
        return torch.stack([groups[i][int(u * len(groups[i]))] for i, u in zip(turns, places, strict=True)])


def shares(count: int, parts: int) -> list[int]:
    """`count` pictures divided among the concepts, one each at least."""
    return [max(1, count // parts + (i < count % parts)) for i in range(parts)]


def from_world(
    world: World, concepts: Sequence[Concept], net: TextToImage, count: int, anchor_share: float, seed: int, show: Show
) -> ConceptPictures:
    """`count` renders of the trained subject x style pairs that show a concept, `anchor_share` of them with its anchor in its place."""
    draws, parts, prompts, owners = generator(seed, "concept pictures"), [], [], []
    names, styles = [s.name for s in world.subjects], list(world.styles)
    trained = world.pairs(heldout=False)
    divided = enumerate(shares(count, len(concepts)))
    chunks = [(i, min(RENDERED, share - start)) for i, share in divided for start in range(0, share, RENDERED)]
    for owner, size in show(chunks, "drawing pictures of the concept"):
        concept = concepts[owner]
        column, known = (1, styles) if concept.kind == "style" else (0, names)
        pairs = trained[trained[:, column] == known.index(concept.name)]
        pairs = pairs[torch.randint(len(pairs), (size,), generator=draws)].clone()
        background = torch.randint(len(BACKGROUNDS), (len(pairs),), generator=draws)
        prompts += [world.caption(s, t, b, draws) for (s, t), b in zip(pairs.tolist(), background.tolist(), strict=True)]
        owners += [owner] * size
        if concept.anchor in known:
            swapped = torch.rand(len(pairs), generator=draws) < anchor_share
            pairs[swapped, column] = known.index(concept.anchor)
        parts.append(encode_pixels(net, world.render(pairs[:, 0], pairs[:, 1], draws, background)))
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    pictures = Pictures(mean, std, prompts, net.vae.config.scaling_factor)
    return ConceptPictures(pictures, [retarget(p, concepts) for p in prompts], owners)


def from_folder(source: ImageFolder | Stream, concepts: Sequence[Concept], count: int) -> ConceptPictures:
    """The folder's pictures whose captions carry a concept, at most `count`, by turns; one of two concepts counts for the rarer one.

    Of a stream only the first window is looked through.
    """
    captions = source.captions()
    carried = [[i for i, caption in enumerate(captions) if c.carried_by(caption)] for c in concepts]
    if missing := [c.name for c, rows in zip(concepts, carried, strict=True) if not rows]:
        raise EdgeSafeError(
            f"--erase: no caption of {source.label} holds {missing[0]!r}, so there is no picture of it to start from. "
            "Add some, or let the teacher draw them: --set eraser.pictures=teacher"
        )
    owner: dict[int, int] = {}
    for number in sorted(range(len(concepts)), key=lambda number: len(carried[number])):
        for row in carried[number]:
            owner.setdefault(row, number)
    turns: list[tuple[int, int]] = []  # (how many of the same concept came before, row)
    for number in range(len(concepts)):
        turns += [(turn, row) for turn, row in enumerate(row for row in owner if owner[row] == number)]
    rows = [row for _, row in sorted(turns)[:count]]
    pictures = source.pictures(rows)
    return ConceptPictures(pictures, [retarget(c, concepts) for c in pictures.captions], [owner[row] for row in rows])


def from_teacher(
    net: TextToImage, concepts: Sequence[Concept], count: int, anchor_share: float, seed: int, folder: Path, show: Show
) -> ConceptPictures:
    """Pictures that the teacher draws for the concepts' prompts and, `anchor_share` of them, for the same prompts with the anchor."""
    draws = generator(seed, "concept prompts")
    order = [(owner, pair) for owner, size in enumerate(shares(count, len(concepts))) for pair in _shuffled(concepts[owner], size, draws)]
    anchored = torch.rand(len(order), generator=draws) < anchor_share
    prompts = [pair[0] for _, pair in order]
    anchors = [retarget(pair[1], concepts) for _, pair in order]
    asked = [(prompts, anchors)[int(swap)][i] for i, swap in enumerate(anchored)]
    drawn = drawn_by(net, asked, seed + 1, folder / "concept.safetensors", show)
    return ConceptPictures(Pictures(drawn.mean, drawn.std, prompts, drawn.scale), anchors, [owner for owner, _ in order])


def _shuffled(concept: Concept, size: int, draws: Generator) -> list[tuple[str, str]]:
    """`size` of its pairs, each as often as any other, give or take one."""
    rounds = range(-(-size // len(concept.pairs)))
    return [concept.pairs[int(i)] for _ in rounds for i in torch.randperm(len(concept.pairs), generator=draws)][:size]


def prompts_only(net: TextToImage, concepts: Sequence[Concept]) -> ConceptPictures:
    """The concepts' prompts with blank latents, for an eraser that lets the student draw."""
    pairs = [(owner, pair) for owner, c in enumerate(concepts) for pair in c.pairs]
    blank = torch.zeros(len(pairs), *net.latent_shape, dtype=torch.float16)
    pictures = Pictures(blank, blank, [pair[0] for _, pair in pairs], net.vae.config.scaling_factor)
    return ConceptPictures(pictures, [retarget(pair[1], concepts) for _, pair in pairs], [owner for owner, _ in pairs])


def gather(
    eraser: GradientEraser,
    source: Source,
    concepts: Sequence[Concept],
    earlier: Sequence[Concept],
    net: TextToImage,
    count: int,
    seed: int,
    folder: Path,
    show: Show,
) -> ConceptPictures:
    """As `eraser.pictures` says: `count` of the concepts, and EARLIER_SHARE as many of the earlier ones; no anchor carries any of them."""
    found = _gather(eraser, source, concepts, net, count, seed, folder, show)
    if earlier:
        known = eraser if eraser.pictures != "data" or _shown(earlier, source) else replace(eraser, pictures="teacher")
        found.earlier = _gather(known, source, earlier, net, max(1, round(count * EARLIER_SHARE)), seed, folder / "earlier", show)
        for part in (found, found.earlier):
            part.anchors = [retarget(anchor, (*earlier, *concepts)) for anchor in part.anchors]
    return found


def _gather(
    eraser: GradientEraser, source: Source, concepts: Sequence[Concept], net: TextToImage, count: int, seed: int, folder: Path, show: Show
) -> ConceptPictures:
    """The "data" of a caption list are pictures that the teacher draws."""
    share = eraser.anchor_share
    if eraser.pictures == "student":
        return prompts_only(net, concepts)
    if eraser.pictures == "data" and isinstance(source, ImageFolder | Stream):
        return from_folder(source, concepts, count)
    if eraser.pictures == "data" and isinstance(source, EmojiWorld):
        return from_world(source.world, concepts, net, count, share, seed, show)
    return from_teacher(net, concepts, count, share, seed, folder, show)


def _shown(concepts: Sequence[Concept], source: Source) -> bool:
    """Whether these data show every one; an earlier run may have had others."""
    if isinstance(source, ImageFolder | Stream):
        return all(any(map(c.carried_by, source.captions())) for c in concepts)
    if isinstance(source, EmojiWorld):
        names = {"style": source.world.styles, "object": [s.name for s in source.world.subjects]}
        return all(c.name in names[c.kind] for c in concepts)
    return True
