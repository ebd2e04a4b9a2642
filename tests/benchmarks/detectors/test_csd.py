"""CSD on small random weights in OpenAI's names, against a vision transformer written out by hand; and its threshold."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from edgesafe.benchmarks.detectors.csd import CSD, StyleNet, divide, similarity
from edgesafe.benchmarks.leakage import Cell, Question
from edgesafe.concepts import parse
from edgesafe.errors import EdgeSafeError

WIDTH, LAYERS, PATCH, GRID, OUT = 128, 3, 4, 5, 24
CONCEPTS = parse("style:van gogh", None)


def weights() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        return around + torch.randn(shape, generator=g) * 0.2

    state = {
        "last_layer_style": draw(WIDTH, OUT),
        "last_layer_content": draw(WIDTH, OUT),
        "backbone.class_embedding": draw(WIDTH),
        "backbone.positional_embedding": draw(GRID**2 + 1, WIDTH),
        "backbone.conv1.weight": draw(WIDTH, 3, PATCH, PATCH),
    }
    for name in ("ln_pre", "ln_post", *(f"transformer.resblocks.{i}.ln_{n}" for i in range(LAYERS) for n in (1, 2))):
        state |= {f"backbone.{name}.weight": draw(WIDTH, around=1.0), f"backbone.{name}.bias": draw(WIDTH)}
    for i in range(LAYERS):
        block = f"backbone.transformer.resblocks.{i}"
        state |= {f"{block}.attn.in_proj_weight": draw(3 * WIDTH, WIDTH), f"{block}.attn.in_proj_bias": draw(3 * WIDTH)}
        for name, rows, columns in (("attn.out_proj", WIDTH, WIDTH), ("mlp.c_fc", 4 * WIDTH, WIDTH), ("mlp.c_proj", WIDTH, 4 * WIDTH)):
            state |= {f"{block}.{name}.weight": draw(rows, columns), f"{block}.{name}.bias": draw(rows)}
    return state


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """OpenAI's VisionTransformer with torch's own multi-head attention, then the style projection."""
    part = {name.removeprefix("backbone."): value for name, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), part[f"{name}.weight"], part[f"{name}.bias"])

    x = F.conv2d(pixels, part["conv1.weight"], stride=PATCH).flatten(2).mT
    x = torch.cat([part["class_embedding"].expand(len(x), 1, -1), x], 1) + part["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(LAYERS):
        block = f"transformer.resblocks.{i}"
        attention = torch.nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        attention.load_state_dict({name.removeprefix(f"{block}.attn."): v for name, v in part.items() if name.startswith(f"{block}.attn.")})
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        hidden = F.linear(norm(x, f"{block}.ln_2"), part[f"{block}.mlp.c_fc.weight"], part[f"{block}.mlp.c_fc.bias"])
        x = x + F.linear(hidden * torch.sigmoid(1.702 * hidden), part[f"{block}.mlp.c_proj.weight"], part[f"{block}.mlp.c_proj.bias"])
    styles = norm(x[:, 0], "ln_post") @ state["last_layer_style"]
    return (styles / styles.norm(dim=1, keepdim=True)).detach()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csd") / "csd.safetensors"
    save_file(weights(), path)
    return path


def paint(style: str, seed: int, side: int = 20) -> np.ndarray:
    """Fine stripes, or flat warm colours."""
    draw = np.random.default_rng(seed)
    if style == "stripes":
        return np.where((np.arange(side)[:, None, None] + draw.integers(0, 9)) % 2, 250, draw.integers(0, 60, 3)) + np.zeros(
            (side, side, 3)
        )
    return np.array([230, 150, 40]) + draw.integers(-15, 15, (side, side, 3))


def save(folder: Path, style: str, seeds: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(paint(style, seed).astype(np.uint8)).save(folder / f"{style}-{seed}.png")
    return folder


@pytest.fixture
def settings(file: Path, tmp_path: Path) -> dict[str, str]:
    references, others = save(tmp_path / "references", "stripes", range(5)), save(tmp_path / "others", "flat", range(6))
    return {"model": str(file), "references": str(references), "others": str(others)}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_descriptors_against_a_transformer_written_out(prefix: str, tmp_path: Path) -> None:
    save_file({prefix + name: value for name, value in weights().items()}, tmp_path / "csd.safetensors")
    pictures = np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    mean, std = (torch.tensor(row)[:, None, None] for row in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]))
    pixels = (torch.tensor(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    found = StyleNet.read(tmp_path / "csd.safetensors").styles(list(pictures))
    assert torch.allclose(found, reference(weights(), pixels), atol=1e-5)
    assert found.shape == (3, OUT)


def test_similarity_by_hand() -> None:
    styles = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert similarity(styles, references, "max").tolist() == pytest.approx([1, 0.8])
    assert similarity(styles, references, "mean").tolist() == pytest.approx([0.5, 0.7])
    assert similarity(references, references, "max", leave_out=True).tolist() == [0, 0]
    three = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert similarity(three, three, "mean", leave_out=True).tolist() == pytest.approx([0.3, 0.7, 0.4])


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_is_no_worse_than_any_other(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    inside, outside = torch.randn(12, generator=g) + 0.8, torch.randn(30, generator=g)

    def mean_rate(cut: float) -> float:
        return float((inside >= cut).float().mean() + (outside < cut).float().mean())

    found = mean_rate(divide(inside, outside))
    assert all(mean_rate(cut) <= found + 1e-6 for cut in torch.linspace(-4, 5, 500).tolist())


def test_separate_scores_are_divided_halfway() -> None:
    assert divide(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.4])) == pytest.approx(0.6)


def test_a_style_is_found_again(settings: dict[str, str]) -> None:
    detector = CSD.open(CONCEPTS, settings)
    pictures = np.stack([paint(style, 50 + i) for i, style in enumerate(["stripes", "flat"] * 3)]).astype(np.uint8)
    seen = detector.see(pictures, Cell("erased", CONCEPTS[0], (Question("", 0),) * 6), CONCEPTS)
    assert [bool(r.shown) for r in seen.readings] == [True, False] * 3
    facts = detector.facts()
    assert all(bool(r.shown) == (r.scores["van gogh"] >= facts["threshold"]) for r in seen.readings)
    assert [(row["numerator"], row["denominator"]) for row in facts["own_figures"]] == [(5, 5), (6, 6)]
    assert all("while finding the threshold" in row["name"] for row in facts["own_figures"])


def test_a_given_threshold_needs_no_others(settings: dict[str, str]) -> None:
    del settings["others"]
    detector = CSD.open(CONCEPTS, settings | {"threshold": "0.75", "by": "mean"})
    assert detector.facts()["threshold"] == 0.75
    assert detector.facts()["own_figures"] == []
    with pytest.raises(EdgeSafeError, match="csd: it needs the setting others .* or threshold"):
        CSD.open(CONCEPTS, settings)


def test_several_styles_need_a_folder_each(settings: dict[str, str], tmp_path: Path) -> None:
    both = parse("style:van gogh, style:monet", None)
    with pytest.raises(EdgeSafeError, match="van gogh: no such folder; several styles were erased"):
        CSD.open(both, settings)
    for name in ("van gogh", "monet"):
        save(tmp_path / "references" / name, "stripes" if name == "monet" else "flat", range(3))
    assert CSD.open(both, settings | {"threshold": "0"}).facts()["labels"] == ["van gogh", "monet"]


def test_what_is_refused(settings: dict[str, str], tmp_path: Path) -> None:
    assert CSD.why_not(None, parse("gun", None), settings) == "it knows styles only, and none was erased"
    with pytest.raises(EdgeSafeError, match="csd: it needs the settings model .* and references"):
        CSD.open(CONCEPTS, {})
    with pytest.raises(EdgeSafeError, match="by = 'least': max or mean is needed"):
        CSD.open(CONCEPTS, settings | {"by": "least"})
    with pytest.raises(EdgeSafeError, match="empty: no pictures in it"):
        CSD.open(CONCEPTS, settings | {"references": str(tmp_path / "empty")})
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EdgeSafeError, match=r"other.safetensors: not a CSD state dict .*last_layer_style"):
        CSD.open(CONCEPTS, settings | {"model": str(tmp_path / "other.safetensors")})
    state = weights()
    del state["backbone.ln_post.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(EdgeSafeError, match=r"missing \['vision_model.post_layernorm.bias'\]"):
        CSD.open(CONCEPTS, settings | {"model": str(tmp_path / "part.safetensors")})
    (tmp_path / "csd.pth").write_bytes(b"")
    with pytest.raises(EdgeSafeError, match="one .safetensors file is needed; it holds csd.pth, and a pickle"):
        CSD.open(CONCEPTS, settings | {"model": str(tmp_path / "csd.pth")})
