"""Draw `atlas.png` and `atlas.json` from the Noto Color Emoji font and Unicode CLDR: `python -m edgesafe.emoji.build_atlas`.

Needs two Debian packages, fonts-noto-color-emoji and unicode-cldr-core; nobody else needs them, for the result is committed.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .subjects import CORE, EXTRA, rows

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
CLDR = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
TILE, COLUMNS, STRIKE = 64, 16, 109  # px, tiles a row, the font's only bitmap size
HERE = Path(__file__).parent
NAMES = {  # plainer than CLDR's
    "🐱": "cat", "🐶": "dog", "🐷": "pig", "🐭": "mouse", "🐰": "rabbit", "🐯": "tiger", "🐮": "cow", "🐵": "monkey", "🐇": "hare",
    "🐳": "whale", "☕": "hot beverage", "🍦": "soft ice cream", "☂": "umbrella",
}  # fmt: skip
VAGUE = set(  # words that name many things, or nothing that can be drawn
    "food fruit drink animal face plant vehicle tool weapon bar object red green blue yellow fight comic game ball flower tree sweet "
    "dessert meat vegetable pretty shot sick lock password space sea resort wise shedding electric video cooking slice spouting sun "
    "medicine smoking rain leo steaming idea hot four cup light of with straw soft birthday clock crossed pointed young".split()
)


def draw(char: str) -> Image.Image:
    """One emoji, cropped to its ink and centred in a transparent tile."""
    font = ImageFont.truetype(str(FONT), STRIKE)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), char, font=font, embedded_color=True)
    ink = canvas.crop(canvas.getbbox())
    scale = (TILE - 4) / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    tile = Image.new("RGBA", (TILE, TILE))
    tile.paste(ink, ((TILE - ink.width) // 2, (TILE - ink.height) // 2))
    return tile


def annotations() -> tuple[dict[str, str], dict[str, list[str]]]:
    """CLDR's short name and keywords for each character, in `[a-z ]` only."""
    names, keywords = {}, {}
    for node in ET.parse(CLDR).getroot().iter("annotation"):
        text = (node.text or "").lower()
        if node.get("type") == "tts":
            names[node.get("cp")] = " ".join(re.sub("[^a-z ]", " ", text).split())
        else:
            keywords[node.get("cp")] = [word.strip() for word in text.split("|")]
    return names, keywords


def main() -> None:
    core, every = rows(CORE), rows(CORE) + rows(EXTRA)
    assert len({char for char, _ in every}) == len(every)
    cldr_names, keywords = annotations()
    names = {char: NAMES.get(char, cldr_names[char]) for char, _ in every}
    used = Counter(word for char, _ in every for word in set(keywords[char]))
    atlas = Image.new("RGBA", (COLUMNS * TILE, -(-len(every) // COLUMNS) * TILE))
    subjects = []
    for index, (char, category) in enumerate(every):
        atlas.paste(draw(char), (index % COLUMNS * TILE, index // COLUMNS * TILE))
        own = set(names[char].split())
        others = {word for other, name in names.items() if other != char for word in name.split()}
        # A synonym must be plain words, point to this subject alone, and not be part of another subject's name.
        trained = [word for word in keywords[char] if re.fullmatch("[a-z]+( [a-z]+)?", word) and used[word] == 1
                   and not set(word.split()) & (own | others | VAGUE)]
        partial = [word for word in names[char].split() if len(own) > 1 and word not in others | VAGUE]
        subjects.append({"name": names[char], "emoji": char, "category": category, "core": index < len(core),
                         "synonyms": trained[:2], "heldout_synonyms": (partial[:1] + trained[2:])[:2]})
    atlas.save(HERE / "atlas.png", optimize=True)
    facts = {"tile": TILE, "columns": COLUMNS, "subjects": subjects}
    (HERE / "atlas.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(every)} subjects, {len(core)} core, {(HERE / 'atlas.png').stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
