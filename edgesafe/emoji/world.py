"""The emoji world: subjects x styles, drawn anew for every picture, with captions.

`World().render(subject, style, generator)` is the renderer; `World().sample(n, generator)` draws captioned training pictures
and never a held-out pair. A picture is a tensor (3, 64, 64) in [0, 1].
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from .styles import COLOURLESS, CORE_STYLES, STYLES

SIZE = 64  # px, of atlas tiles and pictures
HELDOUT_SHARE = 0.15  # of the subject x style pairs; plain emoji pairs are all trained
BACKGROUNDS = {
    "white": (1.0, 1.0, 1.0), "pink": (1.0, 0.75, 0.82), "yellow": (1.0, 0.93, 0.55), "green": (0.68, 0.90, 0.66),
    "blue": (0.65, 0.82, 1.0), "purple": (0.82, 0.73, 0.96), "grey": (0.78, 0.78, 0.80), "orange": (1.0, 0.80, 0.55),
}
BACKGROUND_NAMED = 0.25  # share of captions, where the style keeps colours
SYNONYM_USED = 0.15  # share of captions, where the subject has one
STYLE_UNNAMED = 0.5  # of the emoji pictures: "red apple" alone means the emoji


@cache
def _atlas() -> dict:
    return json.loads(files(__package__).joinpath("atlas.json").read_text())


@dataclass(frozen=True)
class Subject:
    name: str
    emoji: str
    category: str
    core: bool
    synonyms: tuple[str, ...]  # seen in training captions
    heldout_synonyms: tuple[str, ...]  # for paraphrase probes only


@dataclass(frozen=True)
class Batch:
    """`n` training pictures: pixels (n, 3, 64, 64) in [0, 1], class indices (n,), captions."""

    pixels: Tensor
    subjects: Tensor
    styles: Tensor
    captions: list[str]


@dataclass(frozen=True)
class World:
    """The world of `subject_count` subjects (atlas order) and the named styles."""

    subject_count: int = 64
    styles: tuple[str, ...] = CORE_STYLES

    def __post_init__(self) -> None:
        unknown = [s for s in self.styles if s not in STYLES]
        if unknown:
            raise ValueError(f"unknown style {unknown[0]!r}; known: {', '.join(STYLES)}")
        if not 1 <= self.subject_count <= len(_atlas()["subjects"]):
            raise ValueError(f"subject_count {self.subject_count}: the atlas holds 1 to {len(_atlas()['subjects'])}")

    @staticmethod
    def atlas_size() -> int:
        return len(_atlas()["subjects"])

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        rows = _atlas()["subjects"][: self.subject_count]
        return tuple(Subject(**row | {k: tuple(row[k]) for k in ("synonyms", "heldout_synonyms")}) for row in rows)

    @cached_property
    def tiles(self) -> Tensor:
        """(S, 4, 64, 64), colours multiplied by alpha."""
        with Image.open(str(files(__package__).joinpath("atlas.png"))) as image:
            sheet = torch.tensor(bytearray(image.convert("RGBA").tobytes())).view(image.height, image.width, 4) / 255
        columns = _atlas()["columns"]
        tiles = sheet.view(-1, SIZE, columns, SIZE, 4).transpose(1, 2).reshape(-1, SIZE, SIZE, 4).permute(0, 3, 1, 2)
        tiles = tiles[: self.subject_count]
        return torch.cat([tiles[:, :3] * tiles[:, 3:], tiles[:, 3:]], 1)

    @cached_property
    def heldout(self) -> Tensor:
        """(S, T) bool: pairs that training never shows. By hash of their names, so that worlds of any size agree."""

        def is_heldout(subject: str, style: str) -> bool:
            digest = hashlib.sha256(f"{subject}|{style}".encode()).digest()
            styled = len(CORE_STYLES) / (len(CORE_STYLES) - 1)  # plain emoji pairs are all trained
            return style != "emoji" and int.from_bytes(digest[:4]) / 2**32 < HELDOUT_SHARE * styled

        return torch.tensor([[is_heldout(s.name, t) for t in self.styles] for s in self.subjects])

    def pairs(self, heldout: bool) -> Tensor:
        """(P, 2) of (subject, style) indices."""
        return (self.heldout if heldout else ~self.heldout).nonzero()

    def render(self, subjects: Tensor, styles: Tensor, generator: Generator, background: Tensor | None = None) -> Tensor:
        """Draw (N, 3, 64, 64): position, scale, rotation, flip and background anew, then the style's filter.

        subjects, styles: (N,) indices; background: (N,) indices into BACKGROUNDS, drawn when None.
        """
        n = len(subjects)
        if background is None:
            background = torch.randint(len(BACKGROUNDS), (n,), generator=generator)
        u = torch.rand(5, n, generator=generator)
        scale = 0.80 + 0.18 * u[0]  # of the tile, which the subject nearly fills
        angle = (u[1] - 0.5) * 0.36  # rad, +-10 degrees
        free = 1.02 - scale  # subjects may touch the border
        shift = (u[2:4] * 2 - 1) * free / scale
        flip = torch.where(u[4] < 0.5, -1.0, 1.0)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        theta = torch.stack([torch.stack([cos * flip, -sin * flip, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], 1)
        grid = F.affine_grid(theta, [n, 4, SIZE, SIZE], align_corners=False)
        layer = F.grid_sample(self.tiles[subjects], grid, align_corners=False)
        colours = torch.tensor(list(BACKGROUNDS.values()))[background]
        colours = (colours + (torch.rand(n, 3, generator=generator) - 0.5) * 0.08).clamp(0, 1)
        picture = (layer[:, :3] + colours[:, :, None, None] * (1 - layer[:, 3:])).clamp(0, 1)
        out = torch.empty_like(picture)
        for index, name in enumerate(self.styles):
            rows = (styles == index).nonzero()[:, 0]
            if len(rows):
                out[rows] = STYLES[name](picture[rows], generator)
        return out

    def caption(self, subject: int, style: int, background: int | None, generator: Generator) -> str:
        """One of several templates, without punctuation."""
        u = torch.rand(5, generator=generator).tolist()
        row, style_name = self.subjects[subject], self.styles[style]
        name = row.synonyms[int(u[0] * len(row.synonyms))] if row.synonyms and u[1] < SYNONYM_USED else row.name
        if style_name == "emoji" and u[2] < STYLE_UNNAMED:
            text = name if u[3] < 0.7 else f"{article(name)} {name}"
        elif u[3] < 0.5:
            text = f"{name} {style_name} style"
        elif u[3] < 0.8:
            text = f"{article(name)} {name} in the style of {style_name}"
        else:
            text = f"{style_name} picture of {article(name)} {name}"
        if background is not None and style_name not in COLOURLESS and u[4] < BACKGROUND_NAMED:
            text += f" on a {list(BACKGROUNDS)[background]} background"
        return text

    def sample(self, n: int, generator: Generator) -> Batch:
        """`n` captioned pictures of trained pairs: styles uniform, subjects uniform within a style."""
        trained = ~self.heldout
        styles = torch.randint(len(self.styles), (n,), generator=generator)
        subjects = torch.multinomial(trained.T[styles].float(), 1, generator=generator)[:, 0]
        background = torch.randint(len(BACKGROUNDS), (n,), generator=generator)
        pixels = self.render(subjects, styles, generator, background)
        rows = zip(subjects.tolist(), styles.tolist(), background.tolist(), strict=True)
        return Batch(pixels, subjects, styles, [self.caption(s, t, b, generator) for s, t, b in rows])


def article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def prompt(subject: str, style: str = "emoji") -> str:
    """The plain prompt that evaluation and probes ask with."""
    return subject if style == "emoji" else f"{subject} {style} style"
