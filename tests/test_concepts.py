import tomllib
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgesafe import previews
from edgesafe.cli import main
from edgesafe.concepts import Concept, carriers, check_visible, naming, parse, retarget, rows, together, words
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

WORLD = World()
TEN = "kitchen knife, dagger, bomb, cigarette, syringe, banana, cat, rose, bus, guitar"


def test_a_style_is_replaced_by_the_plain_emoji():
    (neon,) = parse("Neon", WORLD)
    assert (neon.kind, neon.anchor) == ("style", "emoji")
    assert neon.carried_by("a red apple in the style of neon")
    assert not neon.carried_by("a red apple in the style of sepia")
    assert neon.retarget("red apple neon style") == "red apple emoji style"
    assert all(neon.carried_by(a) and not neon.carried_by(b) for a, b in neon.pairs)
    assert len({a for a, _ in neon.pairs}) == 3 * len(WORLD.subjects)


def test_subjects_resolve_by_part_synonym_and_emoji():
    beer, wine, cocktail = parse("beer, wine,cocktail", WORLD)
    assert [c.name for c in (beer, wine, cocktail)] == ["beer mug", "wine glass", "cocktail glass"]
    assert parse("donut", WORLD)[0].name == "doughnut"
    assert parse("knife", WORLD)[0].name == parse("🔪", WORLD)[0].name == "kitchen knife"
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
        ("a cat, a beer, a dog", "a cat, a dog"),
        ("a beer and a dog", "a dog"),
        ("a dog with a beer", "a dog"),
    ],
)
def test_an_object_without_anchor_leaves_what_else_was_asked(caption: str, without: str):
    assert parse("beer", WORLD, "")[0].retarget(caption) == without


def test_an_anchor_takes_the_article_along():
    (egg,) = parse("egg", WORLD, anchor="Banana")
    assert egg.retarget("an egg in the style of sepia") == "a banana in the style of sepia"
    (lion,) = parse("lion", WORLD, anchor="octopus")
    assert lion.retarget("a lion") == "an octopus"
    assert lion.retarget("the lion") == "the octopus"
    person = Concept("nudity", "object", ("nude",), "a clothed person", ())
    assert person.retarget("a nude, oil on canvas") == "a clothed person, oil on canvas"


@pytest.mark.parametrize(
    ("term", "carried", "not_carried"),
    [
        ("cat", "Two Cats", "a caterpillar"),
        ("cat", "cat_on_a_mat", "concat"),
        ("knife", "a set of knives", "knifed"),
        ("strawberry", "a bowl of strawberries", "strawberrylike"),
        ("wine glass", "two wine-glasses", "a wine in a small glass"),
        ("glass", "glasses", "glassy"),
        ("car", "three cars", "a nurse who cares"),
        ("claude monet", "Claude  Monet's garden", "claude"),
        ("impression, sunrise", "Impression: Sunrise", "an impression of a sunrise"),
        ("salvador dali", "a clock by Salvador Dalí", "salvador"),
        ("les demoiselles d'avignon", "Les Demoiselles d’Avignon", "les demoiselles"),
        ("🍺", "a 🍺 on a table", "a 🍷"),
        ("...", "wait ... what", "anything"),
        (" ", "nothing at all", "nothing"),
    ],
)
def test_whole_words_in_any_case_number_accent_and_punctuation(term: str, carried: str, not_carried: str):
    concept = Concept(term, "object", (term,), "", ())
    assert concept.carried_by(carried) == bool(term.strip())
    assert not concept.carried_by(not_carried)


@pytest.mark.parametrize(
    ("many", "one"), [("guns", "gun"), ("boxes", "box"), ("berries", "berry"), ("glass", "glass"), ("cactus", "cactus")]
)
def test_singular(many: str, one: str):
    assert words.singular(many) == one
    assert parse(f"object:{many}", None)[0].carried_by(f"a {one} on a table")


def test_free_concepts_keep_the_rest_of_the_prompt():
    style, gun = parse("style:van gogh, gun", None)
    assert (style.kind, gun.kind) == ("style", "object")
    assert style.retarget("a portrait by Van Gogh") == "a portrait"
    assert style.retarget("Van Gogh's sunflowers") == "sunflowers"
    assert style.retarget("a picture in the style of van gogh") == "a picture"
    assert gun.retarget("a photo of a gun") == "a photo"
    assert ("a painting by van gogh", "a painting") in style.pairs
    assert ("a photo of an apple", "a photo") in parse("apple", None)[0].pairs


def test_two_concepts_leave_a_caption_together():
    both = parse("neon, beer", WORLD)
    assert retarget("a beer mug in the style of neon", both) == "a glass of milk in the style of emoji"
    for concept in both:
        assert not any(carriers(without, both) for _, without in concept.pairs), "no pair teaches the other one"
    assert ("beer mug neon style", "glass of milk emoji style") in both[1].pairs


def test_each_concept_once():
    assert [c.name for c in parse("beer, beer mug, drinks", WORLD)] == ["beer mug", "wine glass", "cocktail glass"]


def test_an_anchor_that_is_erased_itself():
    with pytest.raises(EdgeSafeError, match="is 'wine glass', which is erased too|the concept itself"):
        parse("beer, wine", WORLD, "wine glass")
    neon, sepia = (parse(name, WORLD)[0] for name in ("neon", "sepia"))
    with pytest.raises(EdgeSafeError, match="'sepia', which is to take the place of 'neon', is 'sepia'"):
        together([neon.with_anchor("sepia")], [sepia])
    assert parse("beer, glass of milk", WORLD)[0].anchor == "hot beverage", "of another subject that stays"


def test_earlier_concepts_leave_the_pairs_too():
    earlier = parse("neon", WORLD)
    (beer,) = together(parse("beer", WORLD), earlier)
    assert ("beer mug neon style", "glass of milk emoji style") in beer.pairs


def test_every_subject_has_an_anchor_that_stays():
    found = parse(", ".join(s.name for s in WORLD.subjects[:60]), WORLD)
    assert {c.anchor for c in found} <= {s.name for s in WORLD.subjects[60:]}
    assert {parse(s.name, WORLD)[0].anchor for s in WORLD.subjects if s.category == "unwanted"}.isdisjoint(
        s.name for s in WORLD.subjects if s.category == "unwanted"
    )


def test_groups_of_the_world():
    assert [c.name for c in parse("group:animal", WORLD)] == [s.name for s in WORLD.subjects if s.category == "animal"]
    assert [c.name for c in parse("blades", WORLD)] == ["kitchen knife", "dagger", "crossed swords"]
    names = {s.name for s in WORLD.subjects}
    table = naming._of_world()
    assert all(set(members) <= names for members in table["groups"].values())
    assert all({subject, *anchors} <= names for subject, anchors in table["anchors"].items())


@pytest.mark.parametrize("name", rows.names())
def test_ready_concepts(name: str):
    found = parse(name, None)
    assert together(found) == found
    for concept in found:
        assert 20 <= len(concept.pairs) <= 50, concept
        assert len(set(concept.pairs)) == len(concept.pairs)
        for prompt, without in concept.pairs:
            assert concept.carried_by(prompt) and not concept.carried_by(without)
            assert prompt == prompt.lower() and prompt == " ".join(prompt.split())
            assert not any(mark in without for mark in (" ,", "a an ", "a a ", "  "))
        assert not concept.carried_by("a red bicycle leaning against a brick wall")


def test_nobody_in_a_ready_prompt_is_a_minor():
    young = ("child", "kid", "girl", "boy", "teen", "baby", "young", "minor", "youth", "toddler", "infant", "school", "daughter", "son")
    never = [Concept(word, "object", (word,), "", ()) for word in young]
    for concept in parse("nudity, violence, gore", None):
        assert not [prompt for pair in concept.pairs for prompt in pair if carriers(prompt, never)]
        assert not [term for term in concept.terms if carriers(term, never)]


def test_nudity_takes_its_words_with_what_fits_each():
    (nudity,) = parse("nudity", None)
    assert nudity.retarget("A nude woman in a garden") == "a clothed woman in a garden"
    assert nudity.retarget("tasteful nudity, studio light") == "tasteful clothing, studio light"
    assert nudity.retarget("a man without clothes") == "a man with clothes"
    (other,) = parse("nudity", None, "person in a suit")
    assert other.retarget("a nude") == "a person in a suit" and not other.swaps


def test_artists_by_any_of_their_names():
    (monet,) = parse("artist:Claude Monet", None)
    assert parse("artist:MONET", None) == (monet,)
    assert monet.carried_by("Impression, Sunrise") and not monet.carried_by("water lilies on a pond")
    assert monet.retarget("a bridge by Monet") == "a bridge"
    (okeeffe,) = parse("artist:Georgia O'Keeffe", None)
    assert (okeeffe.kind, okeeffe.name) == ("style", "georgia o'keeffe")
    assert len(okeeffe.pairs) >= 20 and okeeffe.carried_by("a flower by Georgia O’Keeffe")


def test_artists_do_not_share_words():
    for a, b in combinations(rows.ready("artists"), 2):
        assert not set(a.terms) & set(b.terms)
        assert not any(b.carried_by(prompt) for prompt, _ in a.pairs), (a.name, b.name)


def test_a_group_is_several_concepts():
    weapons = parse("weapons", None)
    assert weapons == parse("group:weapons", None)
    assert [c.name for c in weapons][:2] == ["gun", "rifle"]
    assert retarget("a man with a pistol and a katana", weapons) == "a man with a hair dryer and a walking stick"


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "Mine.toml"
    path.write_text(
        'anchor = "mug"\n[thermos]\nterms = ["thermos", "vacuum flask"]\n'
        '["art deco"]\nkind = "style"\nanchor = ""\nprompts = ["an art deco lamp", ["art deco", "a lamp"]]\n'
    )
    thermos, deco = parse(f"{path}", None)
    assert thermos.retarget("a vacuum flask") == "a mug" and len(thermos.pairs) == 8
    assert deco.pairs == (("an art deco lamp", "lamp"), ("art deco", "a lamp"))
    path.write_text('["beer mug"]\nterms = ["beer mug", "pint"]\nanchor = "cat"\n[neon]\nkind = "style"\n')
    beer, neon = parse(f"{path}", WORLD)
    assert beer.retarget("a pint") == "a cat" and neon.anchor == "emoji"
    path.write_text('["beer mug"]\nterms = ["beer mug", "pint"]\nanchor = "cat"\n')
    for world in (WORLD, None):
        assert parse(f"{path}", world, "dog")[0].retarget("a pint") == "a dog", "a flag wins"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cat", "not valid TOML"),
        ("", "no concept in it"),
        ("[cat]\nterm = 'cat'", "[cat]: unknown key 'term'; known: kind, templates, anchor, terms"),
        ("[cat]\nterms = 'cat'", "terms is 'cat'; needed is a list"),
        ("[cat]\nkind = 'animal'", "kind 'animal' is unknown; known: style, object"),
        ("[cat]\ntemplates = ['a photo']", "needs {c}"),
        ("[cat]\nprompts = ['a dog']", "the prompt 'a dog' holds none of its terms: cat"),
        ("[cat]\nprompts = [['a cat', 'a big cat']]", "'a big cat', the prompt without the concept, still carries it"),
        ("[cat]\nprompts = [['a', 'b', 'c']]", "neither a text nor a pair"),
        ("[cat]\nswaps = { kitten = 3 }", "needed is a text for each term"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(EdgeSafeError) as caught:
        parse(str(path), None)
    assert message in str(caught.value) and "mine.toml" in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(EdgeSafeError, match="--erase nowhere.toml: cannot be read"):
        parse("nowhere.toml", None)


def test_ready_files_hold_the_keys_that_rows_lists():
    for name in rows.names():
        table = tomllib.loads(rows._folder().joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        assert any(isinstance(value, dict) for value in table.values())


def test_nothing_to_erase():
    assert parse("none", WORLD) == parse("", WORLD) == ()


@pytest.mark.parametrize("concept", [parse("neon", WORLD)[0], parse("nudity", None)[0]], ids=str)
def test_round_trip(concept: Concept):
    assert Concept.from_dict(concept.to_dict()) == concept
    old = concept.to_dict()
    del old["swaps"]
    assert Concept.from_dict(old).terms == concept.terms


def test_a_line_for_a_person():
    assert str(parse("beer", WORLD)[0]).startswith("object beer mug: 19 prompts, anchor “glass of milk”, terms: beer mug, beer")
    assert "no anchor: its words are left out" in str(parse("gun", None)[0])
    assert str(parse("nudity", None)[0]).endswith("undressed, topless, bottomless and 15 more")


@pytest.mark.parametrize(
    ("text", "anchor", "message"),
    [
        ("vaporwave", None, "no such style or subject. Styles: emoji"),
        ("bananna", None, "Subjects like it: banana"),
        ("glass", None, "name one of them"),
        ("neon", "neon", "the concept itself"),
        ("neon", "cat", "'cat' is no style, so it cannot take the place of 'neon'. Styles: emoji"),
        ("cat", "unicorn", "--anchor 'unicorn' is no subject of the emoji world. Subjects like it:"),
        ("cat", "cat", "name another subject"),
        ("object:neon", None, "no such object"),
        ("style:cat", None, "no such style"),
        ("group:drink s", None, "no such group. Like it: drinks"),
        ("artist:claude monet", None, "the emoji world has no artists. Styles: emoji"),
        ("nudity", None, "It comes ready for models other than the emoji world's"),
        ("mood:neon", None, "unknown kind 'mood'; known: style, object, artist, group"),
    ],
)
def test_messages_of_the_world(text: str, anchor: str | None, message: str):
    with pytest.raises(EdgeSafeError) as caught:
        parse(text, WORLD, anchor)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mood:sad", "known: style, object, artist, group. Ready: artist:NAME, artists, gore, nudity"),
        ("artist:", "no name after the colon. With their works: claude monet, vincent van gogh"),
        ("group:", "no name after the colon. Known: artists, gore"),
        ("style: ", "no name after the colon"),
        ("artist:Claud Monet", "nearly 'artist:claude monet'"),
        ("group:weapon", "no such group. Like it: weapons"),
        ("weapon", "nearly 'weapons', which is ready. If it is not meant, write 'object:weapon'"),
        ("nudty", "nearly 'nudity'"),
    ],
)
def test_messages_of_other_models(text: str, message: str):
    with pytest.raises(EdgeSafeError) as caught:
        parse(text, None)
    assert message in str(caught.value)


def test_a_word_that_is_only_short_is_taken_as_it_is():
    assert [c.name for c in parse("gorge, object:weapon", None)] == ["gorge", "weapon"]


def test_what_the_tokenizer_cannot_see(tiny_sd1: Path):
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(tiny_sd1 / "tokenizer")
    check_visible(parse("neon", WORLD), tokens)
    with pytest.raises(EdgeSafeError, match="tokenizer knows no part of it"):
        check_visible([Concept("\u200b", "object", ("\u200b",), "", ())], tokens)


def test_help_lists_what_is_ready():
    text = CliRunner().invoke(main, ["train", "--help"]).output
    assert all(name in text for name in (*rows.names(), *naming._of_world()["groups"], "artist:NAME"))


@pytest.mark.parametrize("erase", ["artist:", "group:weapon", "nudty", "nowhere.toml"])
def test_bad_names_exit_2_and_write_nothing(erase: str, tiny_sd1: Path, tiny_images: Path, tmp_path: Path):
    args = ["train", "--model", tiny_sd1, "--data", tiny_images, "--erase", erase, "--steps", 2, "--out", tmp_path / "run"]
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == 2 and "Error: --erase" in result.output, result.output
    assert not (tmp_path / "run").exists()


def test_previews_show_ten_concepts_above_their_anchors():
    ten = parse(TEN, WORLD)
    asked = previews.prompts(ten, source=None)
    assert len(asked) == 20
    for concept, prompt, without in zip(ten, asked[:10], asked[10:], strict=True):
        assert concept.carried_by(prompt) and not concept.carried_by(without)
    assert len(previews.prompts(parse("neon", WORLD), None)) == previews.SHOWN
    assert len(previews.prompts(parse(", ".join(s.name for s in WORLD.subjects[:40]), WORLD), None)) <= 2 * previews.MOST


def test_previews_of_few_prompts_show_each_once(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('[zebra]\nprompts = ["a zebra", "a zebra in grass"]\n')
    assert previews.prompts(parse(f"{path}", None), None) == ["a zebra", "a zebra in grass", "", "in grass"]
