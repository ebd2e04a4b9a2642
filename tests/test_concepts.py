import pytest

from edgesafe.concepts import Concept, carriers, check_visible, parse, retarget
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()


def test_a_style_is_replaced_by_the_plain_emoji():
    (neon,) = parse("Neon", WORLD)
    assert (neon.kind, neon.anchor) == ("style", "emoji")
    assert neon.carried_by("a red apple in the style of neon")
    assert not neon.carried_by("a red apple in the style of sepia")
    assert neon.retarget("red apple neon style") == "red apple emoji style"
    assert all(neon.carried_by(a) and not neon.carried_by(b) for a, b in neon.pairs)
    assert len({a for a, _ in neon.pairs}) == 3 * len(WORLD.subjects)


def test_subjects_resolve_by_part_and_synonym():
    beer, wine, cocktail = parse("beer, wine,cocktail", WORLD)
    assert [c.name for c in (beer, wine, cocktail)] == ["beer mug", "wine glass", "cocktail glass"]
    assert parse("donut", WORLD)[0].name == "doughnut"
    assert parse("knife", WORLD)[0].name == "kitchen knife"
    assert beer.carried_by("neon picture of a beer mug on a pink background")
    assert not beer.carried_by("wine glass")
    assert carriers("a beer and a wine", (beer, wine, cocktail)) == [beer, wine]


@pytest.mark.parametrize(
    ("caption", "without"),
    [
        ("beer mug", ""),
        ("beer mug neon style", "neon style"),
        ("a beer mug in the style of neon", "in the style of neon"),
        ("neon picture of a beer mug on a pink background", "neon picture on a pink background"),
    ],
)
def test_an_object_without_anchor_leaves_what_else_was_asked(caption: str, without: str):
    assert parse("beer", WORLD)[0].retarget(caption) == without


def test_an_anchor_takes_the_article_along():
    (egg,) = parse("egg", WORLD, anchor="Banana")
    assert egg.retarget("an egg in the style of sepia") == "a banana in the style of sepia"
    (lion,) = parse("lion", WORLD, anchor="octopus")
    assert lion.retarget("a lion") == "an octopus"


def test_whole_words_and_plurals():
    concept = Concept("cat", "object", ("cat",), "", ())
    assert concept.carried_by("Two Cats")
    assert not concept.carried_by("a caterpillar")


def test_free_concepts_keep_the_rest_of_the_prompt():
    style, gun = parse("style:van gogh, gun", None)
    assert (style.kind, gun.kind) == ("style", "object")
    assert style.retarget("a portrait by Van Gogh") == "a portrait"
    assert style.retarget("a picture in the style of van gogh") == "a picture"
    assert gun.retarget("a photo of a gun") == "a photo"
    assert ("a painting by van gogh", "a painting") in style.pairs


def test_several_concepts_leave_a_caption_together():
    assert retarget("a beer mug in the style of neon", parse("neon, beer", WORLD)) == "in the style of emoji"


def test_nothing_to_erase():
    assert parse("none", WORLD) == parse("", WORLD) == ()


def test_round_trip():
    (neon,) = parse("neon", WORLD)
    assert Concept.from_dict(neon.to_dict()) == neon


@pytest.mark.parametrize(
    ("text", "anchor", "message"),
    [
        ("vaporwave", None, "no such style or subject. Styles: emoji"),
        ("bananna", None, "Subjects like it: banana"),
        ("glass", None, "name one of them"),
        ("neon", "neon", "the concept itself"),
    ],
)
def test_messages_of_the_world(text: str, anchor: str | None, message: str):
    with pytest.raises(EdgeSafeError, match=message):
        parse(text, WORLD, anchor)


def test_unknown_kind():
    with pytest.raises(EdgeSafeError, match="known: style, object"):
        parse("mood:sad", None)


def test_what_the_tokenizer_cannot_see(tiny_sd1):
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(tiny_sd1 / "tokenizer")
    check_visible(parse("neon", WORLD), tokens)
    with pytest.raises(EdgeSafeError, match="tokenizer knows no part of it"):
        check_visible([Concept("\u200b", "object", ("\u200b",), "", ())], tokens)
