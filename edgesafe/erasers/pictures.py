"""The pictures an eraser noises: each shows the concept or, at the same prompt, its anchor. Drawn or encoded once, before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from ..concepts import Concept, carriers, retarget
from ..data import EmojiWorld, ImageFolder, Pictures, Show, Source, drawn_by, encode_pixels, generator
from ..emoji.world import BACKGROUNDS, World
from ..errors import EdgeSafeError
from ..model import TextToImage
from . import Eraser


@dataclass
class ConceptPictures:
    pictures: Pictures  # captions: prompts with the concept, whatever the picture shows
    anchors: list[str]  # the same prompts with the anchor

    def draw(self, n: int, noise: Generator) -> tuple[Tensor, list[str], list[str]]:
        """Latents (n, C, h, w), prompts with the concept, prompts with its anchor."""
        rows = torch.randint(len(self.anchors), (n,), generator=noise)
        batch = self.pictures.draw(rows, noise)
        return batch.latents, batch.captions, [self.anchors[i] for i in rows.tolist()]


def from_world(
    world: World, concepts: Sequence[Concept], net: TextToImage, count: int, anchor_share: float, seed: int, show: Show
) -> ConceptPictures:
    """`count` renders of the trained subject x style pairs that show a concept, `anchor_share` of them with its anchor in its place."""
    draws, parts, prompts = generator(seed, "concept pictures"), [], []
    names = [s.name for s in world.subjects]
    trained = world.pairs(heldout=False)
    for start in show(range(0, count, 64), "drawing pictures of the concept"):
        concept = concepts[start // 64 % len(concepts)]
        column, known = (1, list(world.styles)) if concept.kind == "style" else (0, names)
        pairs = trained[trained[:, column] == known.index(concept.name)]
        pairs = pairs[torch.randint(len(pairs), (min(64, count - start),), generator=draws)].clone()
        background = torch.randint(len(BACKGROUNDS), (len(pairs),), generator=draws)
        prompts += [world.caption(s, t, b, draws) for (s, t), b in zip(pairs.tolist(), background.tolist(), strict=True)]
        if concept.anchor in known:
            swapped = torch.rand(len(pairs), generator=draws) < anchor_share
            pairs[swapped, column] = known.index(concept.anchor)
        parts.append(encode_pixels(net, world.render(pairs[:, 0], pairs[:, 1], draws, background)))
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    return ConceptPictures(Pictures(mean, std, prompts, net.vae.config.scaling_factor), [retarget(p, concepts) for p in prompts])


def from_folder(source: ImageFolder, concepts: Sequence[Concept], count: int) -> ConceptPictures:
    """The folder's pictures whose captions carry a concept, at most `count`."""
    rows = [i for i, (_, caption) in enumerate(source.rows) if carriers(caption, concepts)][:count]
    missing = [c.name for c in concepts if not any(c.carried_by(source.rows[i][1]) for i in rows)]
    if missing:
        raise EdgeSafeError(
            f"--erase: no caption of {source.folder} holds {missing[0]!r}, so there is no picture of it to start from. "
            "Add some, or let the teacher draw them: --set eraser.pictures=teacher"
        )
    pictures = source.pictures(rows)
    return ConceptPictures(pictures, [retarget(c, concepts) for c in pictures.captions])


def from_teacher(
    net: TextToImage, concepts: Sequence[Concept], count: int, anchor_share: float, seed: int, folder: Path, show: Show
) -> ConceptPictures:
    """Pictures that the teacher draws for the concepts' prompts and, `anchor_share` of them, for the same prompts with the anchor."""
    pairs = [pair for c in concepts for pair in c.pairs]
    draws = generator(seed, "concept prompts")
    order = [pairs[int(i)] for _ in range(-(-count // len(pairs))) for i in torch.randperm(len(pairs), generator=draws)][:count]
    anchored = torch.rand(count, generator=draws) < anchor_share
    asked = [pair[int(swap)] for pair, swap in zip(order, anchored, strict=True)]
    drawn = drawn_by(net, asked, seed + 1, folder / "concept.safetensors", show)
    prompts, anchors = (list(column) for column in zip(*order, strict=True))
    return ConceptPictures(Pictures(drawn.mean, drawn.std, prompts, drawn.scale), anchors)


def prompts_only(net: TextToImage, concepts: Sequence[Concept]) -> ConceptPictures:
    """The concepts' prompts with blank latents, for an eraser that lets the student draw."""
    pairs = [pair for c in concepts for pair in c.pairs]
    blank = torch.zeros(len(pairs), *net.latent_shape, dtype=torch.float16)
    return ConceptPictures(Pictures(blank, blank, [p for p, _ in pairs], net.vae.config.scaling_factor), [a for _, a in pairs])


def gather(
    eraser: Eraser, source: Source, concepts: Sequence[Concept], net: TextToImage, count: int, seed: int, folder: Path, show: Show
) -> ConceptPictures:
    """As `eraser.pictures` says. The "data" of a caption list are pictures that the teacher draws."""
    share = eraser.anchor_share
    if eraser.pictures == "student":
        return prompts_only(net, concepts)
    if eraser.pictures == "data" and isinstance(source, ImageFolder):
        return from_folder(source, concepts, count)
    if eraser.pictures == "data" and isinstance(source, EmojiWorld):
        return from_world(source.world, concepts, net, count, share, seed, show)
    return from_teacher(net, concepts, count, share, seed, folder, show)
