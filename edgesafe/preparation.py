"""From settings to what training needs: models, data, concepts and both levels' losses, each checked before anything is written."""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from rich.console import Console
from rich.progress import track
from torch import nn

from . import artifact, model, presets, pruners
from .concepts import Concept, carriers, check_visible, parse, together
from .data import Keep, Show, Source, TextConditions, open_source
from .emoji.world import World
from .erasers import Edit, GradientEraser
from .erasers.parameters import select
from .erasers.pictures import EARLIER_SHARE, gather, prompts_only
from .errors import EdgeSafeError
from .model import TextToImage
from .presets import Settings
from .problem import DistilAndErase
from .processes import Processes
from .pruners import Calibration, Pruned, plan
from .pruners.width import cut

KEPT_UNITS = "kept_units.json"
KEPT_BATCHES = 8  # of captions that a closed-form eraser is to keep
NAMED_FAULTS = 20  # skipped pictures that the first lines name
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


@dataclass
class Setup:
    """What the settings name, loaded and checked; nothing is written before this exists."""

    settings: Settings
    teacher: TextToImage
    student: TextToImage
    features: dict[str, str]
    source: Source
    concepts: tuple[Concept, ...]  # all that the result is to lack: the earlier ones, then those that this run erases
    earlier: tuple[Concept, ...] = ()  # that the student came without

    @property
    def new(self) -> tuple[Concept, ...]:
        return self.concepts[len(self.earlier) :]


def set_up(settings: Settings, device: torch.device, console: Console | None = None) -> Setup:
    """On the console the plan of what is pruned, before it is. Raises: EdgeSafeError for whatever a user can get wrong."""
    teacher = model.load(settings.teacher_source)
    emoji = settings.data == "emoji" or teacher.source.startswith("emoji:")
    new = parse(settings.erase or "", World() if emoji else None, settings.anchor)
    earlier = _earlier(settings, new)
    new = together(new, earlier)
    check_visible(new, teacher.tokenizer)
    keep = Keep(settings.latent_cache, settings.latent_cache_gib)
    source = open_source(settings.data or "", teacher, settings.seed, settings.batch, settings.bank, settings.replays, keep)
    if settings.student:
        student = model.load(settings.student)
        features = _match(student, teacher, settings)
    elif _waits(settings):
        pruners.check_target(settings.pruner, teacher)
        student, features = replace(teacher), {}  # until `problem` has data for it
    else:
        if console is not None and settings.prune != "none":
            plan.show(console, teacher, settings.pruner.prune, settings.prune)
        pruned = settings.pruner.prune(teacher.unet)
        student, features = replace(teacher, unet=pruned.unet), pruned.features
    if isinstance(settings.eraser, GradientEraser):
        select(student.unet, settings.eraser.parameters)
    for net in (teacher, student):
        for module in net.modules().values():
            module.to(device)
    if settings.channels_last:
        nn.Module.to(teacher.unet, memory_format=torch.channels_last)
    if settings.precision == "bf16" and not _waits(settings):
        nn.Module.to(teacher.unet, torch.bfloat16)
    return Setup(settings, teacher, student, features, source, (*earlier, *new), earlier)


def _earlier(settings: Settings, new: Sequence[Concept]) -> tuple[Concept, ...]:
    """What was erased from the student before, as its manifest says, and is not erased again now."""
    before, again = _run_of(settings.student or settings.model), {(c.kind, c.name) for c in new}
    if before is None or settings.earlier == "ignore":
        return ()
    rows = {(row["kind"], row["name"]): Concept.from_dict(row) for row in before.concepts}
    return tuple(concept for key, concept in rows.items() if key not in again)


def _waits(settings: Settings) -> bool:
    """Whether the student is made only once there are data to look at."""
    return not settings.student and settings.pruner.calibrates


def _match(student: TextToImage, teacher: TextToImage, settings: Settings) -> dict[str, str]:
    """Feature-KD points of a given student, after checking that it can learn from this teacher."""
    for what, a, b in (
        ("pipeline", student.family.pipeline, teacher.family.pipeline),
        ("zeros for the empty prompt", student.zero_empty, teacher.zero_empty),
        ("picture size", student.picture_size, teacher.picture_size),
        ("prediction type", student.prediction_type, teacher.prediction_type),
        ("latent channels", student.unet.config.in_channels, teacher.unet.config.in_channels),
        ("text width", student.unet.config.cross_attention_dim, teacher.unet.config.cross_attention_dim),
    ):
        if a != b:
            raise EdgeSafeError(f"--student {student.source} has {what} {a}, --teacher {teacher.source} {b}: they must agree")
    probe = ["a picture of a red apple"]
    for a, b in zip(model.conditions(student, probe), model.conditions(teacher, probe), strict=True):
        if a.shape != b.shape or (a.float() - b.float()).norm() > 0.05 * b.float().norm():
            names = f"--student {student.source} and --teacher {teacher.source}"
            raise EdgeSafeError(f"{names} have different text encoders; give the teacher that the student was distilled from")
    features = pruners.matched_features(dict(student.unet.config), dict(teacher.unet.config))
    if settings.weights.feature and not features:
        raise EdgeSafeError(
            f"--student {student.source}: no known pruner ({', '.join(pruners.PRUNERS)}) makes its blocks from {teacher.source}, "
            "so their features cannot be compared. Do without: --set weights.feature=0"
        )
    return features


def compile_blocks(unet: nn.Module, backend: str = "inductor") -> None:
    """The blocks that repeat, each by itself, in place: quicker than a whole UNet, and features are still read between them."""
    for module in unet.modules():
        if isinstance(module, (BasicTransformerBlock, ResnetBlock2D)):
            module.compile(backend=backend)


def problem(setup: Setup, out: Path, accelerator: Accelerator, console: Console, processes: Processes | None = None) -> DistilAndErase:
    """Both levels' losses, with the pictures that they need drawn or read."""
    settings, folder = setup.settings, out / "checkpoint"
    held = _held_by_teacher(setup)
    _say(setup, held, console)
    show = bar(console)
    setup.source.prepare(folder, show)
    if skipped := getattr(setup.source, "skipped", []):
        named = skipped[:NAMED_FAULTS] + ["..."] * (len(skipped) > NAMED_FAULTS)
        console.print(f"{len(skipped)} pictures skipped:", *named, sep="\n  ", highlight=False, soft_wrap=True)
    texts = TextConditions(setup.teacher)
    if _waits(settings):
        pruned = _calibrated(setup, Calibration(setup.teacher, setup.source, texts, settings.seed, show, console), folder / KEPT_UNITS)
        setup.student, setup.features = replace(setup.teacher, unet=pruned.unet), pruned.features
        if settings.precision == "bf16":  # only now: the student's weights are to stay fp32
            nn.Module.to(setup.teacher.unet, torch.bfloat16)
    pictures, frozen = prompts_only(setup.teacher, setup.concepts), setup.teacher.unet
    if setup.new and isinstance(settings.eraser, GradientEraser):
        bank, seed = settings.concept_bank, settings.seed
        pictures = gather(settings.eraser, setup.source, setup.new, held, setup.teacher, bank, seed, folder, show)
        if settings.eraser.frozen == "student" and not held:  # what was erased from it cannot be pushed away from its own answers
            frozen = nn.Module.to(copy.deepcopy(setup.student.unet), setup.teacher.unet.dtype)
    if settings.compile:
        for unet in {id(u): u for u in (setup.teacher.unet, frozen)}.values():
            compile_blocks(unet)
    parts = (setup.features, setup.source, setup.concepts, pictures, texts)
    return DistilAndErase(settings, setup.teacher, frozen, *parts, accelerator.device, accelerator.autocast, processes or Processes())


def _calibrated(setup: Setup, calibration: Calibration, path: Path) -> Pruned:
    """The student of a pruner that looks at data; a resumed run cuts what `path` says, without looking again."""
    if path.is_file():
        return cut(setup.teacher.unet, {name: torch.tensor(units) for name, units in json.loads(path.read_text()).items()})
    pruned = setup.settings.pruner.prune(setup.teacher.unet, calibration)
    artifact.write_whole(path, json.dumps(pruned.kept))
    return pruned


def _held_by_teacher(setup: Setup) -> tuple[Concept, ...]:
    """The earlier concepts that the teacher still knows, and so would teach again."""
    taught = _run_of(setup.settings.teacher_source, verify=False)
    lacking = {(row["kind"], row["name"]) for row in taught.concepts} if taught else set()
    return tuple(c for c in setup.earlier if (c.kind, c.name) not in lacking)


def _say(setup: Setup, held: Sequence[Concept], console: Console) -> None:
    """A line a concept: what its name was taken for."""
    lines = [f"erase {concept}" for concept in setup.new]
    lines += [f"keep erased {concept}" for concept in setup.earlier]
    if setup.new and held and isinstance(setup.settings.eraser, GradientEraser):
        names = ", ".join(concept.name for concept in held)
        lines.append(f"{EARLIER_SHARE:.0%} of each erasing batch keeps {names} erased; the teacher answers for the eraser")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def bar(console: Console) -> Show:
    """A progress bar where a person looks on, nothing elsewhere."""

    def show(rows: Sequence, what: str) -> Iterable:
        return track(rows, what, console=console, transient=True, disable=not console.is_terminal)

    return show


def edit(setup: Setup, texts: TextConditions, unet: nn.Module, console: Console) -> dict[str, float]:
    """Run the settings' closed-form erasers on the network, in place; what they did, in numbers."""
    if not setup.concepts:
        return {}
    batches = (setup.source.batch(n).captions for n in range(KEPT_BATCHES))
    keep = dict.fromkeys(c for captions in batches for c in captions if not carriers(c, setup.concepts))
    work = Edit(unet, setup.teacher, setup.concepts, tuple(keep), texts, setup.settings.seed, bar(console))
    return {name: value for eraser in setup.settings.edits for name, value in eraser.edit(work).items()}


def manifest(setup: Setup) -> artifact.Manifest:
    """The chain of steps goes on from the student's own manifest, where it is a run."""
    s, weights = setup.settings, setup.teacher.weights_file
    before, config = _run_of(s.student or s.model, verify=False), presets.to_dict(s)
    names = dict.fromkeys(config[part]["name"] for part in ("solver", "eraser", "after"))
    method = "/".join(name for name in names if name != "none") if setup.new else "distil"
    step = artifact.Step("train", method, config, s.seed, artifact.versions(*PACKAGES))
    base = {"id": s.teacher_source, "revision": setup.teacher.revision, "sha256": artifact.sha256(weights) if weights else None}
    control = (before.control if before and before.concepts else s.student) or s.teacher_source
    rows = (*(before.concepts if before else ()), *(c.to_dict() for c in setup.new))
    concepts = tuple({(row["kind"], row["name"]): row for row in rows}.values())
    return artifact.Manifest("run", base, control, (before.steps if before else ()) + (step,), concepts, {})


def _run_of(source: str | None, verify: bool = True) -> artifact.Manifest | None:
    """The manifest of a run that is named by its folder, or by the model in it."""
    folder = Path(source).expanduser() if source else Path()
    folder = folder.parent if folder.name == "model" else folder
    return artifact.read(folder, verify) if source and (folder / artifact.MANIFEST).is_file() else None
