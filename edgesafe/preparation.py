"""From settings to what training needs: models, data, concepts and both levels' losses, each checked before anything is written."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track
from torch import nn

from . import artifact, model, presets, pruners
from .concepts import Concept, carriers, check_visible, parse
from .data import Show, Source, TextConditions, open_source
from .emoji.world import World
from .erasers import Edit, GradientEraser
from .erasers.parameters import select
from .erasers.pictures import gather, prompts_only
from .errors import EdgeSafeError
from .model import TextToImage
from .presets import Settings
from .problem import DistilAndErase

KEPT_BATCHES = 8  # of captions that a closed-form eraser is to keep
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


@dataclass
class Setup:
    """What the settings name, loaded and checked; nothing is written before this exists."""

    settings: Settings
    teacher: TextToImage
    student: TextToImage
    features: dict[str, str]
    source: Source
    concepts: tuple[Concept, ...]


def set_up(settings: Settings, device: torch.device) -> Setup:
    """Raises: EdgeSafeError for whatever a user can get wrong."""
    teacher = _trainable(model.load(settings.teacher_source), "--teacher")
    emoji = settings.data == "emoji" or teacher.source.startswith("emoji:")
    concepts = parse(settings.erase or "", World() if emoji else None, settings.anchor)
    check_visible(concepts, teacher.tokenizer)
    source = open_source(settings.data or "", teacher, settings.seed, settings.batch, settings.bank, settings.replays)
    if settings.student:
        student = _trainable(model.load(settings.student), "--student")
        features = _match(student, teacher, settings)
    else:
        pruned = pruners.named(settings.prune).prune(teacher.unet)
        student, features = replace(teacher, unet=pruned.unet), pruned.features
    if isinstance(settings.eraser, GradientEraser):
        select(student.unet, settings.eraser.parameters)
    for net in (teacher, student):
        for module in net.modules().values():
            module.to(device)
    if settings.precision == "bf16":
        nn.Module.to(teacher.unet, torch.bfloat16)
    return Setup(settings, teacher, student, features, source, concepts)


def _trainable(net: TextToImage, flag: str) -> TextToImage:
    if net.family.added:
        reads = f"its UNet reads {' and '.join(net.family.added)} beside the text, which the losses do not give"
        raise EdgeSafeError(f"{flag} {net.source}: a {net.family.pipeline}; {reads}. Give a Stable Diffusion 1 or 2 pipeline")
    return net


def _match(student: TextToImage, teacher: TextToImage, settings: Settings) -> dict[str, str]:
    """Feature-KD points of a given student, after checking that it can learn from this teacher."""
    for what, a, b in (
        ("prediction type", student.prediction_type, teacher.prediction_type),
        ("latent channels", student.unet.config.in_channels, teacher.unet.config.in_channels),
        ("text width", student.unet.config.cross_attention_dim, teacher.unet.config.cross_attention_dim),
    ):
        if a != b:
            raise EdgeSafeError(f"--student {student.source} has {what} {a}, --teacher {teacher.source} {b}: they must agree")
    probe = ["a picture of a red apple"]
    a, b = model.encode(student, probe).float(), model.encode(teacher, probe).float()
    if a.shape != b.shape or (a - b).norm() > 0.05 * b.norm():
        names = f"--student {student.source} and --teacher {teacher.source}"
        raise EdgeSafeError(f"{names} have different text encoders; give the teacher that the student was distilled from")
    features = pruners.matched_features(dict(student.unet.config), dict(teacher.unet.config))
    if settings.weights.feature and not features:
        raise EdgeSafeError(
            f"--student {student.source}: no known pruner ({', '.join(pruners.PRUNERS)}) makes its blocks from {teacher.source}, "
            "so their features cannot be compared. Do without: --set weights.feature=0"
        )
    return features


def problem(setup: Setup, out: Path, accelerator: Accelerator, console: Console) -> DistilAndErase:
    """Both levels' losses, with the pictures that they need drawn or read."""
    settings, folder = setup.settings, out / "checkpoint"

    show = _bar(console)
    setup.source.prepare(folder, show)
    if skipped := getattr(setup.source, "skipped", []):
        console.print(f"{len(skipped)} pictures skipped:", *skipped, sep="\n  ", highlight=False, soft_wrap=True)
    pictures, frozen = prompts_only(setup.teacher, setup.concepts), setup.teacher.unet
    if setup.concepts and isinstance(settings.eraser, GradientEraser):
        pictures = gather(settings.eraser, setup.source, setup.concepts, setup.teacher, settings.concept_bank, settings.seed, folder, show)
        if settings.eraser.frozen == "student":
            frozen = nn.Module.to(copy.deepcopy(setup.student.unet), setup.teacher.unet.dtype)
    texts = TextConditions(setup.teacher)
    parts = (setup.features, setup.source, setup.concepts, pictures, texts)
    return DistilAndErase(settings, setup.teacher, frozen, *parts, accelerator.device, accelerator.autocast)


def _bar(console: Console) -> Show:
    def show(rows: Sequence, what: str) -> Iterable:
        return track(rows, what, console=console, transient=True, disable=not console.is_terminal)

    return show


def edit(setup: Setup, texts: TextConditions, unet: nn.Module, console: Console) -> dict[str, float]:
    """Run the settings' closed-form erasers on the network, in place; what they did, in numbers."""
    if not setup.concepts:
        return {}
    batches = (setup.source.batch(n).captions for n in range(KEPT_BATCHES))
    keep = dict.fromkeys(c for captions in batches for c in captions if not carriers(c, setup.concepts))
    work = Edit(unet, setup.teacher, setup.concepts, tuple(keep), texts, setup.settings.seed, _bar(console))
    return {name: value for eraser in setup.settings.edits for name, value in eraser.edit(work).items()}


def manifest(setup: Setup) -> artifact.Manifest:
    """The chain of steps goes on from the student's own manifest, where it is a run."""
    s, weights = setup.settings, setup.teacher.weights_file
    before, config = _run_of(s.student), presets.to_dict(s)
    names = dict.fromkeys(config[part]["name"] for part in ("solver", "eraser", "after"))
    method = "/".join(name for name in names if name != "none") if setup.concepts else "distil"
    step = artifact.Step("train", method, config, s.seed, artifact.versions(*PACKAGES))
    base = {"id": s.teacher_source, "revision": setup.teacher.revision, "sha256": artifact.sha256(weights) if weights else None}
    control = (before.control if before and before.concepts else s.student) or s.teacher_source
    concepts = (before.concepts if before else ()) + tuple(c.to_dict() for c in setup.concepts)
    return artifact.Manifest("run", base, control, (before.steps if before else ()) + (step,), concepts, {})


def _run_of(source: str | None) -> artifact.Manifest | None:
    folder = Path(source) if source else None
    return artifact.read(folder) if folder and (folder / artifact.MANIFEST).is_file() else None
