"""All that a training run can be told, its presets, and how flags and a TOML file change them. Unknown keys fail by name."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import pruners
from .erasers import CLOSED_FORM, ERASERS, ESD, ClosedForm, Eraser, NoEdit
from .errors import EdgeSafeError
from .pruners.aptp import APTP
from .pruners.width import Width
from .solvers import SOLVERS, Distil, Penalty, Solver, TwoStage

CONCEPT_CAPTIONS = ("retarget", "mask", "keep")
EARLIER = ("keep-erased", "ignore")
PRECISIONS = ("fp32", "bf16")
SEEDS = 2**32  # each picture that a teacher draws has a seed of its own, made from it, of 64 bits


@dataclass(frozen=True)
class Weights:
    """L_ft = denoise L_Diff + output L_OutKD + feature L_FeatKD"""

    denoise: float = 1.0
    output: float = 2.0
    feature: float = 0.1
    min_snr_gamma: float = 5.0  # of the denoising loss; 0 weighs all timesteps alike

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) >= 0:
                raise EdgeSafeError(f"weights.{f.name} {getattr(self, f.name)}: needs 0 or more")
        if self.denoise == self.output == self.feature == 0:
            raise EdgeSafeError("weights: denoise, output and feature are all 0, so there is nothing to distil")


@dataclass(frozen=True)
class Settings:
    model: str | None = None  # id or path; pruned to make the student
    student: str | None = None  # a model that is pruned already, in place of `model`
    teacher: str | None = None  # of a `student`; the model itself otherwise
    data: str | None = None  # "emoji", an image folder, tar shards, "hf:owner/name", or captions.txt
    erase: str | None = None  # concepts, comma-separated; "none" to distil only
    anchor: str | None = None  # what takes the concept's place in a prompt
    prune: str = "bk-sdm-small"
    width: Width = field(default_factory=Width)  # how the pruner of that name works
    aptp: APTP = field(default_factory=APTP)
    solver: Solver = field(default_factory=Penalty)
    eraser: Eraser = field(default_factory=ESD)
    after: ClosedForm = field(default_factory=NoEdit)  # a closed-form eraser after the last iteration, on top of `eraser`
    weights: Weights = field(default_factory=Weights)
    concept_captions: str = "retarget"  # distilling on captions with the concept: "retarget" to the anchor, "mask", "keep" (teaches it)
    earlier: str = "keep-erased"  # concepts that were erased from the student before: "keep-erased", or "ignore" (distilling teaches them)
    empty_captions: float = 0.1  # share of captions emptied, for guidance
    steps: int = 20_000  # iterations, inner and outer
    batch: int = 64  # pictures of a distillation step, of all processes together
    erase_batch: int = 16
    rate: float = 5e-5  # inner, AdamW, peak
    erase_rate: float = 1e-5  # outer, AdamW, peak
    warmup: int = 100  # steps
    final_rate: float = 0.1  # share of the peak rates at the last step (cosine)
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    bank: int = 4096  # emoji pictures, or a stream's, held at once; pictures drawn for a caption list
    replays: int = 4  # how often an emoji picture is seen before the bank is drawn anew; 0: for ever
    concept_bank: int = 512  # pictures of the concept
    latent_cache: str | None = None  # folder that keeps encoded pictures, for several runs; the run's own checkpoint folder by default
    latent_cache_gib: float = 8.0  # most that is kept there; 0: nothing on disk
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    channels_last: bool = False  # the UNets' layout in memory; faster convolutions on GPUs with tensor cores
    compile: bool = False  # the UNets' repeated blocks, by torch.compile
    seed: int = 0
    checkpoint_every: int = 500  # steps
    preview_every: int = 1000  # steps

    def __post_init__(self) -> None:
        pruners.named(self.prune)
        if self.prune in METHODS:
            _ = getattr(self, self.prune).target  # no target, or two, is refused here
            if self.student:
                raise EdgeSafeError(f"--prune {self.prune}: --student is pruned already. To make it narrower, give it as --model")
        for name, known in (("concept_captions", CONCEPT_CAPTIONS), ("earlier", EARLIER), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise EdgeSafeError(f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}")
        for name in ("batch", "erase_batch", "bank", "concept_bank", "checkpoint_every", "preview_every"):
            if getattr(self, name) < 1:
                raise EdgeSafeError(f"{name} {getattr(self, name)}: needs 1 or more")
        for name in ("steps", "warmup", "replays", "weight_decay", "latent_cache_gib"):
            if not getattr(self, name) >= 0:
                raise EdgeSafeError(f"{name} {getattr(self, name)}: needs 0 or more")
        if not 0 <= self.seed < SEEDS:
            raise EdgeSafeError(f"seed {self.seed}: needs 0 to {SEEDS - 1}")
        for name in ("rate", "erase_rate", "clip"):
            if not getattr(self, name) > 0:
                raise EdgeSafeError(f"{name} {getattr(self, name)}: needs more than 0")
        for name in ("empty_captions", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgeSafeError(f"{name} {getattr(self, name)}: needs 0 to 1")
        alone = isinstance(self.solver, TwoStage) and self.solver.erase_share == 0
        closed = isinstance(self.eraser, ClosedForm)
        if closed and not (alone or isinstance(self.solver, Distil)):
            name = next(n for n, cls in CLOSED_FORM.items() if cls is type(self.eraser))
            raise EdgeSafeError(
                f"--eraser {name} has no gradient to train with: leave --solver out, or set it after the solver: --set after.name={name}"
            )
        if isinstance(self.solver, Distil) and self.erase is not None and not no_concept(self.erase) and not self.edits:
            raise EdgeSafeError("--solver distil erases nothing. Give --erase none, another solver, or a closed-form eraser: --eraser uce")
        if self.steps == 0 and not closed:
            raise EdgeSafeError("--steps 0: nothing would be trained. Only a closed-form eraser, such as --eraser uce, can do without")
        if alone and not closed:
            raise EdgeSafeError("solver.erase_share 0: the eraser trains, so it needs a share of the iterations, such as 0.25")
        if self.student and self.model:
            raise EdgeSafeError("--model is pruned to make the student, --student is one already: give --model, or --student and --teacher")
        if self.student and not self.teacher:
            raise EdgeSafeError("--student needs --teacher, the model to distil from")
        if self.teacher and not self.student:
            raise EdgeSafeError("--teacher needs --student; to prune the teacher itself, give it as --model")

    @property
    def edits(self) -> tuple[ClosedForm, ...]:
        """The closed-form erasers, in the order in which they work after the last iteration."""
        return tuple(e for e in (self.eraser, self.after) if isinstance(e, ClosedForm) and not isinstance(e, NoEdit))

    @property
    def pruner(self) -> pruners.Pruner:
        """The one that `prune` names, as its own table sets it, where it has one."""
        return getattr(self, self.prune) if self.prune in METHODS else pruners.named(self.prune)

    @property
    def teacher_source(self) -> str:
        return self.teacher or self.model or "emoji:teacher"


EMOJI = {"erase": "neon", "data": "emoji"}

# Laid over the defaults of Settings, which are the paper's, in this order: preset, --config, flags.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": EMOJI
    | {
        "student": "emoji:student", "teacher": "emoji:teacher", "prune": "none",
        "solver": {"name": "penalty", "lambda": 1.0, "inner_steps": 2}, "eraser": {"frozen": "student"},
        "steps": 300, "batch": 32, "erase_batch": 32, "rate": 2e-4, "erase_rate": 2.5e-4, "warmup": 10,
        "bank": 2048, "replays": 0, "checkpoint_every": 100, "preview_every": 150,
    },
    "full": EMOJI
    | {
        "model": "emoji:teacher",
        "solver": {"name": "penalty", "lambda": 1.0, "inner_steps": 4},
        "steps": 6000, "batch": 64, "erase_batch": 32, "rate": 6e-4, "erase_rate": 3e-4, "warmup": 100, "final_rate": 0.02,
        "checkpoint_every": 250, "preview_every": 1000,
    },
    "paper": {"eraser": {"target": "esd", "eta": 1.0, "pictures": "teacher", "anchor_share": 0.0}},
}  # fmt: skip

METHODS: dict[str, dict[str, type]] = {
    "solver": SOLVERS,
    "eraser": ERASERS | CLOSED_FORM,
    "after": {"none": NoEdit} | CLOSED_FORM,
    "weights": {"": Weights},  # "": needs no name
    "width": {"": Width},
    "aptp": {"": APTP},
}


def to_dict(settings: Settings) -> dict[str, Any]:
    """Plain values, methods as tables with their `name`: what --dry-run prints and the manifest holds."""

    def table(part: Any, methods: dict[str, type]) -> dict[str, Any]:
        name = next(n for n, cls in methods.items() if cls is type(part))
        return ({"name": name} if name else {}) | {f.name.rstrip("_"): getattr(part, f.name) for f in fields(part)}

    plain = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return plain | {key: table(plain[key], methods) for key, methods in METHODS.items()}


def from_dict(values: Mapping[str, Any]) -> Settings:
    """The inverse of `to_dict`."""
    built = dict(values)
    for key, methods in METHODS.items():
        table = dict(values[key])
        cls = methods[table.pop("name", "")]
        built[key] = cls(**{f.name: table[f.name.rstrip("_")] for f in fields(cls)})
    return Settings(**built)


def overlay(values: dict[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` (of `to_dict`) with `changes` laid over; naming another method in a table starts from that method's own defaults.

    Raises: EdgeSafeError for an unknown key, method, or a value of the wrong type, by name; `where` says who asked.
    """
    result = dict(values)
    for key, value in changes.items():
        if key not in result:
            raise EdgeSafeError(f"{where}: unknown key {key!r}; known: {', '.join(result)}")
        if key not in METHODS:
            result[key] = _typed(value, getattr(Settings, key), key, where)
            continue
        if not isinstance(value, Mapping):
            raise EdgeSafeError(f"{where}: {key!r} is a table, such as {key} = {{ name = ... }}")
        table = dict(result[key])
        if (name := value.get("name", table.get("name"))) != table.get("name"):
            if name not in METHODS[key]:
                raise EdgeSafeError(f"{where}: unknown {key} {name!r}; known: {', '.join(METHODS[key])}")
            method = METHODS[key][name]()
            table = {"name": name} | {f.name.rstrip("_"): getattr(method, f.name) for f in fields(method)}
        for inner, new in value.items():
            if inner not in table:
                raise EdgeSafeError(f"{where}: {key} {table.get('name', '')!r} has no {inner!r}; it has: {', '.join(table)}")
            table[inner] = _typed(new, table[inner], f"{key}.{inner}", where)
        result[key] = table
    return result


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeSafeError(f"--config {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EdgeSafeError(f"--config {path}: not valid TOML ({error})") from error


def resolve(preset: str | None, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Settings:
    """The settings of a preset with layers `(where, changes)` over it.

    Without a name the preset is "quick", or "paper" where a layer names a model of the user's own.
    """
    asked = {key: value for _, changes in layers for key, value in changes.items()}
    own = [asked[key] for key in ("model", "student", "teacher") if asked.get(key)]
    teacher = asked.get("teacher") or asked.get("model") or asked.get("student")  # of a student that is a run, its teacher's world counts
    emoji = not own or str(teacher).startswith("emoji:") or asked.get("data") == "emoji"
    name = preset or ("quick" if emoji else "paper")
    if name not in PRESETS:
        raise EdgeSafeError(f"--preset {name!r} is unknown; known: {', '.join(PRESETS)}")
    base = dict(PRESETS[name])
    if own:
        base = {key: value for key, value in base.items() if key not in ("model", "student", "teacher")}
        base["prune"] = "none" if asked.get("student") else "bk-sdm-small"
        if not emoji:
            base.pop("data", None)
            base.pop("erase", None)
    elif "prune" in asked:
        base = {key: value for key, value in base.items() if key not in ("student", "teacher")} | {"model": "emoji:teacher"}
    if "student" not in (base if not own else asked):  # one that was just cut has no answers to hold on to
        base["eraser"] = {key: value for key, value in base.get("eraser", {}).items() if key != "frozen"}
    values = overlay(to_dict(Settings()), base, f"preset {name}")
    for where, changes in layers:
        values = overlay(values, changes, where)
    if values["eraser"]["name"] in CLOSED_FORM and "solver" not in asked:
        values = overlay(values, {"solver": {"name": "two-stage", "erase_share": 0.0}}, f"--eraser {values['eraser']['name']}")
    if no_concept(values["erase"]):
        nothing = {"erase": "none", "solver": {"name": "distil"}, "eraser": {"name": "esd"}, "after": {"name": "none"}}
        values = overlay(values, nothing, "--erase none")
    settings = from_dict(values)
    if not settings.student and not settings.model:
        raise EdgeSafeError("--model is needed: 'emoji:teacher', a pipeline folder or a hub id (or --student with --teacher)")
    if settings.data is None:
        raise EdgeSafeError(f"--data is needed with {settings.teacher_source}: pictures with metadata.jsonl, tar shards, or captions.txt")
    if settings.erase is None:
        raise EdgeSafeError('--erase is needed: the concepts to take out, such as "van gogh", or "none" to distil only')
    return settings


def no_concept(erase: str | None) -> bool:
    """As `concepts.parse` reads it."""
    return erase is not None and [item for part in erase.split(",") if (item := part.strip().lower())] in ([], ["none"])


def _typed(value: Any, like: Any, key: str, where: str) -> Any:
    """`value`, if its type fits the default `like`."""
    fits = {float: (int, float), type(None): (str, type(None))}.get(type(like), (type(like),))
    if type(value) not in fits:
        wanted = "text" if like is None else {str: "text", int: "whole number", float: "number", bool: "true or false"}[type(like)]
        raise EdgeSafeError(f"{where}: {key} is {value!r}, needs a {wanted}")
    return float(value) if isinstance(like, float) else value
