"""CSD, contrastive style descriptors (Somepalli et al. 2024, arXiv 2404.01292): is the picture in the style of these reference pictures?

    style(x) = v(x) S / |v(x) S|,     score(x) = max over references r of style(x) . style(r)  (or their mean);   shown where >= threshold

v: the class token of CLIP ViT-L/14 after its last norm (W,), fine-tuned for style; S: `last_layer_style` (W, D). Weights: the published
state dict as safetensors, in OpenAI's names (`backbone.conv1.weight`, ...); sizes are read from its shapes.

Threshold: given, or from the references against pictures in other styles: the value with the best mean of the two rates, references
scored against the other references (leave one out), halfway to the next score. Those two rates are its own figures, and flatter it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgesafe.artifact import Manifest
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from ..leakage import Cell, Reading
from . import known, weights
from .detector import Detector, Seen

if TYPE_CHECKING:  # see clip.py
    from transformers import CLIPVisionConfig, CLIPVisionModel

BATCH = 16
HEAD = 64  # channels of an attention head, in every CLIP
NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # OpenAI's names -> those of transformers


class CSD(Detector):
    name = "csd"
    options: ClassVar[Mapping[str, str]] = {
        "model": "CSD's state dict as safetensors: a file, a folder, or a hub id",
        "references": "a folder of pictures in the style; of several erased styles, one with a folder named like each",
        "others": "a folder of pictures in other styles, which the threshold is found against",
        "threshold": "the similarity from which on the style counts as shown, -1 to 1, in place of others",
        "by": "max (the nearest reference, the default) or mean (of all references)",
        "known": "a folder of known pictures with metadata.jsonl, for its own error",
    }

    @classmethod
    def why_not(cls, manifest: Manifest | None, concepts: Sequence[Concept], settings: Mapping[str, str]) -> str | None:
        if not any(concept.kind == "style" for concept in concepts):
            return "it knows styles only, and none was erased"
        missing = [f"{key} ({cls.options[key]})" for key in ("model", "references") if key not in settings]
        return f"it needs the settings {' and '.join(missing)}" if missing else None

    @classmethod
    def open(cls, concepts: Sequence[Concept], settings: Mapping[str, str]) -> "CSD":
        if reason := cls.why_not(None, concepts, settings):
            raise EdgeSafeError(f"csd: {reason}")
        by = settings.get("by", "max")
        if by not in ("max", "mean"):
            raise EdgeSafeError(f"csd: setting by = {by!r}: max or mean is needed")
        file = weights.safetensors(weights.find(settings["model"], ("model.safetensors",), "csd"), "csd")
        detector = cls(StyleNet.read(file), weights.sha256(file), by)
        folder = Path(settings["references"]).expanduser()
        styles = [concept for concept in concepts if concept.kind == "style"]
        for concept in styles:
            place = folder / concept.name if (folder / concept.name).is_dir() else folder
            if place is folder and len(styles) > 1:
                raise EdgeSafeError(f"csd: {folder / concept.name}: no such folder; several styles were erased, and each needs its own")
            detector.references[concept.name] = detector.net.styles(known.pictures(place, "csd"))
        detector.calibrate(settings)
        detector.own_figures += known.figures(detector, settings.get("known"), concepts)
        return detector

    def __init__(self, net: "StyleNet", digest: str, by: str = "max") -> None:
        self.net, self.digest, self.by = net, digest, by
        self.references: dict[str, Tensor] = {}  # style -> (R, D)
        self.thresholds: dict[str, float] = {}
        self.origin = ""  # of the thresholds, in words
        self.own_figures: list[dict[str, Any]] = []

    def calibrate(self, settings: Mapping[str, str]) -> None:
        if "threshold" in settings:
            threshold = weights.number(settings, "threshold", 0, -1, 1, "csd")
            self.thresholds, self.origin = dict.fromkeys(self.references, threshold), "given"
            return
        if "others" not in settings:
            raise EdgeSafeError(f"csd: it needs the setting others ({self.options['others']}) or threshold ({self.options['threshold']})")
        others = self.net.styles(known.pictures(Path(settings["others"]).expanduser(), "csd"))
        self.origin = "the references against pictures in other styles"
        for name, references in self.references.items():
            if len(references) < 2:
                raise EdgeSafeError(f"csd: {name}: two references are needed to find a threshold, or give one with the setting threshold")
            inside = similarity(references, references, self.by, leave_out=True)
            outside = similarity(others, references, self.by)
            threshold = self.thresholds[name] = round(divide(inside, outside), 4)
            found, quiet = (inside >= threshold).sum(), (outside < threshold).sum()
            where = "while finding the threshold"
            self.own_figures += [
                {"name": f"{name} references found among each other, {where}", "numerator": int(found), "denominator": len(inside)},
                {"name": f"pictures in other styles than {name} left alone, {where}", "numerator": int(quiet), "denominator": len(outside)},
            ]

    def facts(self) -> dict[str, Any]:
        counts = ", ".join(f"{name}: {len(r)} references, threshold {self.thresholds[name]:.4f}" for name, r in self.references.items())
        how = "to the nearest reference" if self.by == "max" else "to the references, on average"
        what = f"CSD: cosine of style descriptors {how}; {counts}; thresholds: {self.origin}. It cannot tell subjects or broken pictures"
        values = set(self.thresholds.values())
        facts = {"name": self.name, "sha256": self.digest, "what": what, "threshold": values.pop() if len(values) == 1 else None}
        return facts | {"labels": list(self.references), "own_figures": self.own_figures}

    def knows(self, concept: Concept) -> bool:
        return concept.name in self.references

    def see(self, pictures: np.ndarray, cell: Cell, concepts: Sequence[Concept]) -> Seen:
        styles = self.net.styles(list(pictures))
        names = [concept.name for concept in concepts if self.knows(concept)]
        scores = {name: similarity(styles, self.references[name], self.by).tolist() for name in names}
        readings = []
        for i in range(len(pictures)):
            row = {name: round(scores[name][i], 4) for name in names}  # what is written is what counts
            shown = frozenset(name for name in names if row[name] >= self.thresholds[name])
            readings.append(Reading(", ".join(f"{name} {score:.2f}" for name, score in row.items()), row, shown))
        return Seen(tuple(readings), styles)


class StyleNet(torch.nn.Module):
    """Pictures -> style descriptors (N, D) of length 1."""

    def __init__(self, backbone: "CLIPVisionModel", projection: Tensor) -> None:
        from transformers import CLIPImageProcessor

        super().__init__()
        self.backbone, self.projection = backbone, projection
        side = backbone.config.image_size
        self.processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    @classmethod
    def read(cls, file: Path) -> "StyleNet":
        from transformers import CLIPVisionModel

        try:
            state = {name.removeprefix("module.").removeprefix("model."): value.float() for name, value in load_file(file).items()}
            projection = state["last_layer_style"]
            visual = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
            config, converted = configuration(visual), convert(visual)
        except (SafetensorError, KeyError) as error:
            needed = "a CSD state dict with last_layer_style and backbone.* in OpenAI's names"
            raise EdgeSafeError(f"csd: {file}: not {needed} ({error})") from error
        backbone = CLIPVisionModel(config)
        missing, unknown = backbone.load_state_dict(converted, strict=False)
        missing = [name for name in missing if not name.endswith("position_ids")]
        if missing or unknown:
            raise EdgeSafeError(f"csd: {file}: not CLIP's vision transformer: missing {missing[:3]}, unknown {unknown[:3]}")
        return cls(backbone.eval().requires_grad_(False), projection)

    @torch.no_grad()
    def styles(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """uint8 (H, W, 3) each, of any size -> (N, D)."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            part = list(pictures[start : start + BATCH])
            pixels = self.processor(part, input_data_format="channels_last", return_tensors="pt").pixel_values
            parts.append(self.backbone(pixel_values=pixels).pooler_output @ self.projection)
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)


def configuration(visual: Mapping[str, Tensor]) -> "CLIPVisionConfig":
    """From the shapes of OpenAI's vision transformer."""
    from transformers import CLIPVisionConfig

    width, _, patch, _ = visual["conv1.weight"].shape
    grid = round((len(visual["positional_embedding"]) - 1) ** 0.5)
    layers = len({name.split(".")[2] for name in visual if name.startswith("transformer.resblocks.")})
    hidden = len(visual["transformer.resblocks.0.mlp.c_fc.bias"])
    return CLIPVisionConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=width // HEAD,
        image_size=grid * patch, patch_size=patch, hidden_act="quick_gelu",
    )  # fmt: skip


def convert(visual: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names -> those of transformers' CLIPVisionModel; the joint (3W, W) projection becomes three. CLIP's `proj` is not used."""
    found = {}
    for name, value in visual.items():
        if name == "proj":
            continue
        prefix, rest = "vision_model.", name
        if name.startswith("transformer.resblocks."):
            _, _, index, rest = name.split(".", 3)
            prefix += f"encoder.layers.{index}."
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[f"{prefix}self_attn.{part}_proj.{kind}"] = rows
            continue
        for theirs, ours in NAMES.items():
            if rest == theirs or rest.startswith(f"{theirs}."):
                rest = ours + rest.removeprefix(theirs)
                break
        found[prefix + rest] = value
    return found


def similarity(styles: Tensor, references: Tensor, by: str, leave_out: bool = False) -> Tensor:
    """(N,); leave_out: `styles` are the references, and each is compared with the others only."""
    cosines = styles @ references.T  # (N, R)
    if leave_out:
        own = torch.eye(len(references), dtype=torch.bool)
        if by == "max":
            return cosines.masked_fill(own, -torch.inf).amax(1)
        return cosines.masked_fill(own, 0).sum(1) / (len(references) - 1)
    return cosines.amax(1) if by == "max" else cosines.mean(1)


def divide(inside: Tensor, outside: Tensor) -> float:
    """The threshold with the largest mean of (inside at or over it) and (outside under it), halfway between scores; lowest of equals."""
    values = torch.cat([inside, outside]).unique()
    cuts = torch.cat([values[:1], (values[1:] + values[:-1]) / 2])
    gains = [((inside >= cut).float().mean() + (outside < cut).float().mean()).item() for cut in cuts]
    return float(cuts[int(np.argmax(gains))])
