"""CLIP zero-shot, on a tiny CLIP of random weights, against transformers' own softmax over two prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgesafe.benchmarks import questions
from edgesafe.benchmarks.detectors.clip import CLIP, asked
from edgesafe.benchmarks.leakage import OUTCOMES, Cell, Question, kept, leakage
from edgesafe.concepts import Concept, parse
from edgesafe.errors import EdgeSafeError

PAIR = (("a neon cat", "a cat"),)
NEON = Concept("neon", "style", ("neon",), "", PAIR)
PLAIN = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 3))  # each picture's own colour, under noise
PICTURES = np.clip(PLAIN + np.random.default_rng(1).integers(-40, 40, (40, 24, 20, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of transformers. Do not write to it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    from edgesafe.emoji import tokenizer

    place = tmp_path_factory.mktemp("clip")
    tokens = tokenizer.build(place)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(vocab_size=len(tokens), max_position_embeddings=tokens.model_max_length, **sizes, **ids)
    vision = CLIPVisionConfig(image_size=16, patch_size=4, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
        for module in model.modules():  # wider than CLIP's own start, so that pictures and texts differ
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                torch.nn.init.normal_(module.weight, std=0.4)
    model.save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def detector(folder: Path) -> CLIP:
    return CLIP.open((NEON,), {"model": str(folder)})


def theirs(detector: CLIP, texts: list[str]) -> torch.Tensor:
    """(N, len(texts)) logits by transformers' whole forward pass, one text at a time so that nothing is padded."""
    pixels = torch.stack([preprocessed(picture) for picture in PICTURES])
    columns = []
    for text in texts:
        with torch.no_grad():
            columns.append(detector.model(**detector.tokenizer(text, return_tensors="pt"), pixel_values=pixels).logits_per_image[:, 0])
    return torch.stack(columns, 1)


def preprocessed(picture: np.ndarray) -> torch.Tensor:
    """By hand: the short side to 16 px, the middle square, CLIP's mean and deviation."""
    image = Image.fromarray(picture)
    scale = 16 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 16) // 2, (image.height - 16) // 2
    pixels = torch.tensor(np.array(image.crop((left, top, left + 16, top + 16)))).permute(2, 0, 1) / 255
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def cell(concept: Concept | None = NEON, prompt: str = "a neon cat", anchor: str = "a cat") -> Cell:
    role = "erased" if concept else "rest"
    return Cell(role, concept, tuple(Question(prompt, i, anchor=anchor) for i in range(len(PICTURES))))


def test_shares_are_the_softmax_over_concept_and_anchor(detector: CLIP) -> None:
    seen = detector.see(PICTURES, cell(), (NEON,))
    logits = theirs(detector, ["a neon cat", "a cat"])
    assert [r.scores["neon"] for r in seen.readings] == pytest.approx(logits.softmax(1)[:, 0].tolist(), abs=1e-4)
    cosines = 100 * logits[:, 0] / detector.model.logit_scale.exp()
    assert [r.scores["neon, clip score"] for r in seen.readings] == pytest.approx(cosines.tolist(), abs=0.01)
    shown = ["neon" in r.shown for r in seen.readings]
    assert shown == [r.scores["neon"] >= 0.5 for r in seen.readings]
    assert 0 < sum(shown) < len(shown)
    assert seen.embedding.shape == (40, 16)


def test_the_threshold_divides(folder: Path) -> None:
    strict = CLIP.open((NEON,), {"model": str(folder), "threshold": "0.9"})
    assert all(bool(r.shown) == (r.scores["neon"] >= 0.9) for r in strict.see(PICTURES, cell(), (NEON,)).readings)
    assert strict.facts()["threshold"] == 0.9


def test_prompts_of_a_concept_are_averaged(detector: CLIP) -> None:
    both = Concept("neon", "style", ("neon",), "", (*PAIR, ("a neon shark", "a shark")))
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        states = [
            unit(detector.model.get_text_features(**detector.tokenizer(t, return_tensors="pt")))[0] for t in ("a neon cat", "a neon shark")
        ]
        pixels = unit(detector.model.get_image_features(pixel_values=torch.stack([preprocessed(p) for p in PICTURES])))
    expected = 100 * pixels @ unit(states[0] + states[1], dim=0)
    found = [r.scores["neon, clip score"] for r in detector.see(PICTURES, cell(), (both,)).readings]
    assert found == pytest.approx(expected.tolist(), abs=0.01)


@pytest.mark.parametrize(("concept", "wanted"), [(NEON, "a cat"), (None, "a neon cat")])
def test_right_is_nearest_to_what_was_asked(detector: CLIP, concept: Concept | None, wanted: str) -> None:
    logits = theirs(detector, [wanted, *questions.builtin()["captions"]])
    expected = (logits[:, 0] > logits[:, 1:].amax(1)).tolist()
    assert [r.right for r in detector.see(PICTURES, cell(concept), (NEON,)).readings] == expected
    assert expected.count(False) > 0


def test_a_caption_does_not_compete_with_itself(detector: CLIP) -> None:
    captions = questions.builtin()["captions"]
    logits = theirs(detector, captions)
    expected = (logits[:, 0] > logits[:, 1:].amax(1)).tolist()
    assert [r.right for r in detector.see(PICTURES, cell(None, captions[0], ""), (NEON,)).readings] == expected


def test_what_was_asked() -> None:
    erased, rest = Cell("erased", NEON, ()), Cell("rest", None, ())
    assert asked(Question("n3on cat", 0, plain="a neon cat", anchor="a cat"), erased) == "a cat"
    assert asked(Question("cat, n3on", 0, plain="a cat in the style of neon"), erased) == "a cat"
    assert asked(Question("neon", 0), erased) == ""
    assert asked(Question("a lake", 0), rest) == "a lake"


def test_nothing_else_asked_cannot_be_right_or_wrong(detector: CLIP) -> None:
    assert {r.right for r in detector.see(PICTURES, cell(prompt="neon", anchor=""), (NEON,)).readings} == {None}


def test_its_readings_can_be_counted(detector: CLIP) -> None:
    readings = detector.see(PICTURES, cell(), (NEON,)).readings
    found = leakage(cell(), readings)
    assert found["leaked"]["numerator"] == sum(r.scores["neon"] >= 0.5 for r in readings)
    assert sum(found[name]["numerator"] for name in OUTCOMES) == len(PICTURES)
    assert found["none"]["denominator"] == 0, "it cannot tell broken pictures"
    rest = cell(None, "a lake", "")
    share = kept(rest.questions, detector.see(PICTURES, rest, (NEON,)).readings)
    assert share["right"]["denominator"] == len(PICTURES)
    assert share["none"] is share["subject_right"] is None


def test_facts_name_the_weights(detector: CLIP, folder: Path) -> None:
    from edgesafe import artifact

    facts = detector.facts()
    assert facts["sha256"] == artifact.sha256(folder / "model.safetensors")
    assert facts["own_figures"] == []


def test_what_is_refused(tmp_path: Path) -> None:
    concepts = parse("gun", None)
    with pytest.raises(EdgeSafeError, match="clip: no CLIP was given. It needs the setting model"):
        CLIP.open(concepts, {})
    with pytest.raises(EdgeSafeError, match="absent: no such file or folder, and not a Hugging Face id"):
        CLIP.open(concepts, {"model": str(tmp_path / "absent")})
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EdgeSafeError, match="it holds pytorch_model.bin, and a pickle can run code"):
        CLIP.open(concepts, {"model": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EdgeSafeError, match="not readable as a CLIP of transformers"):
        CLIP.open(concepts, {"model": str(tmp_path)})
    with pytest.raises(EdgeSafeError, match="the Hugging Face hub did not give it"):
        CLIP.open(concepts, {"model": "nobody/nothing-at-all"})
