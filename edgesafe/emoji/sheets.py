"""Contact sheets: a labelled grid to look at, and numbered pictures without labels, with a key apart, to check the judge by eye."""

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from ..artifact import sha256
from ..errors import EdgeSafeError
from ..model import TextToImage
from . import judge as judging
from .judge import Judge
from .world import SIZE, World

FIRST_SEED = 10**6  # of the numbered pictures, none of which the evaluation draws
HELDOUT_EACH = 3  # every third numbered picture is of a held-out pair
ZOOM, COLUMNS, A_SHEET, CAPTION = 2, 8, 40, 16  # the last in px
TILE = SIZE * ZOOM
NONE = "none"


def weights_sha256(net: TextToImage) -> str | None:
    """Of the UNet's weight file, where it is one file."""
    return sha256(net.weights_file) if net.weights_file else None


def shown_pairs(world: World, subjects: int) -> Tensor:
    """(n * T, 2): subjects from all over the world, each in every style."""
    chosen = torch.linspace(0, len(world.subjects) - 1, min(subjects, len(world.subjects))).round().long()
    return torch.cartesian_prod(chosen, torch.arange(len(world.styles)))


def mixed_pairs(world: World, n: int) -> Tensor:
    """(n, 2) trained and held-out pairs, in an order that tells nothing."""
    if n < 1:
        raise EdgeSafeError(f"--contact {n}: at least 1 picture is needed")
    generator = Generator().manual_seed(FIRST_SEED)
    parts = []
    for pairs, count in ((world.pairs(heldout=True), n // HELDOUT_EACH), (world.pairs(heldout=False), n - n // HELDOUT_EACH)):
        parts.append(pairs[torch.randperm(len(pairs), generator=generator)].repeat(-(-count // len(pairs)), 1)[:count])
    return torch.cat(parts)[torch.randperm(n, generator=generator)]


def _image(picture: Tensor) -> Image.Image:
    """(3, 64, 64) in [0, 1], enlarged without smoothing."""
    small = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().contiguous().numpy())
    return small.resize((TILE, TILE), Image.Resampling.NEAREST)


def grid(world: World, pairs: Tensor, pictures: Tensor) -> Image.Image:
    """Subjects down, styles across; pairs (N, 2) as `shown_pairs` orders them, held-out ones marked with an asterisk."""
    columns, gap = len(world.styles), 4
    step, font = TILE + CAPTION + gap, ImageFont.load_default(11)
    sheet = Image.new("RGB", (columns * (TILE + gap), len(pairs) // columns * step), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (s, t) in enumerate(pairs.tolist()):
        x, y = i % columns * (TILE + gap), i // columns * step
        sheet.paste(_image(pictures[i]), (x, y))
        pen.text((x + 2, y + TILE + 1), f"{world.subjects[s].name}, {world.styles[t]}{' *' if world.heldout[s, t] else ''}", "black", font)
    return sheet


def _corner(i: int) -> tuple[int, int]:
    """Of the i-th picture of a numbered sheet, in px."""
    return i % COLUMNS * (TILE + 8), i // COLUMNS * (TILE + CAPTION)


def _sheets(n: int) -> list[range]:
    """The rows of n pictures that each sheet holds."""
    return [range(start, min(start + A_SHEET, n)) for start in range(0, n, A_SHEET)]


def _sheet_path(folder: Path, index: int) -> Path:
    return folder / f"sheet_{index + 1}.png"


def check_free(folder: Path) -> None:
    if (folder / "key.json").exists():
        raise EdgeSafeError(f"{folder}: holds a key.json, whose labels new pictures would make void. Give another --out")


def write(folder: Path, world: World, judge: Judge, net: TextToImage, pairs: Tensor, pictures: Tensor) -> None:
    """Numbered sheets and `key.json`: what was asked, pairs (N, 2), and what the judge says."""
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    font = ImageFont.load_default(13)
    for index, rows in enumerate(_sheets(len(pairs))):
        columns, lines = min(COLUMNS, len(rows)), -(-len(rows) // COLUMNS)
        sheet = Image.new("RGB", (columns * (TILE + 8), lines * (TILE + CAPTION)), "white")
        for i, row in enumerate(rows):
            x, y = _corner(i)
            sheet.paste(_image(pictures[row]), (x, y))
            ImageDraw.Draw(sheet).text((x + TILE // 2, y + TILE), str(row + 1), "black", font, anchor="ma")
        sheet.save(_sheet_path(folder, index), optimize=True)
    asked = [
        {"number": i + 1, "subject": world.subjects[s].name, "style": world.styles[t], "heldout": bool(world.heldout[s, t])}
        for i, (s, t) in enumerate(pairs.tolist())
    ]
    said = answers(world, judge, read_sheets(folder, len(pairs)))
    key = {"model": net.source, "model_sha256": weights_sha256(net), "first_seed": FIRST_SEED, "judge_sha256": judging.sha256()}
    (folder / "key.json").write_text(json.dumps(key | {"asked": asked, "judge": said}, indent=1) + "\n")


def answers(world: World, judge: Judge, pictures: Tensor) -> list[dict[str, str]]:
    names, scores = [*(s.name for s in world.subjects), NONE], judge.score(pictures)
    rows = zip(scores.subject.tolist(), scores.style.tolist(), strict=True)
    return [{"subject": names[s], "style": world.styles[t]} for s, t in rows]


def read_sheets(folder: Path, n: int) -> Tensor:
    """(n, 3, 64, 64): the pictures as the sheets hold them, in 8 bits."""
    pictures = []
    for index, rows in enumerate(_sheets(n)):
        path = _sheet_path(folder, index)
        if not path.is_file():
            raise EdgeSafeError(f"{path}: missing. The judge is not the one of key.json, so it must see the sheets again")
        with Image.open(path) as image:
            sheet = torch.tensor(bytearray(image.convert("RGB").tobytes())).view(image.height, image.width, 3) / 255
        for i in range(len(rows)):
            x, y = _corner(i)
            pictures.append(sheet[y : y + TILE : ZOOM, x : x + TILE : ZOOM].permute(2, 0, 1))
    return torch.stack(pictures)
