"""What the survival study looks at: which models, in which files, drawn how, asked how. One thing at a time differs from the base.

    base        fp32 ONNX, onnxruntime, 25 DDIM steps, the plain prompts
    precision   other files         runtime   other code         sampler   other steps         probe   other questions
    matrix      solver x bits x probe
    narrow      the un-erased model sat on 16 values a tensor before it was erased, and weakly: the case in which rounding is known to undo

A cell that belongs to several of these is measured once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

MOST = 60  # cells


@dataclass(frozen=True)
class Form:
    """How a model is written, and what draws with it."""

    label: str
    runtime: str
    options: tuple[str, ...] | None  # of `edgesafe export`; None: the run itself
    bits: str = ""  # in the figure


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    label: str
    folder: str  # under --runs
    train: str  # the options of `edgesafe train` that make it


@dataclass(frozen=True)
class Blend:
    """W = C + share (W_run - W_control), with C the control, or the control on 16 values a tensor."""

    label: str
    of: str  # a key of MODELS
    share: float
    narrow: bool = False


COREML = ("--target", "coreml")
FORMS = {
    "fp32": Form("fp32", "onnxruntime", ("--target", "onnx", "--precision", "fp32"), "fp32"),
    "fp16": Form("fp16", "onnxruntime", ("--target", "onnx", "--precision", "fp16")),
    "int8": Form("int8, activations too", "onnxruntime", ("--target", "onnx", "--quantize", "int8")),
    "int4": Form("int4 linear, int8 rest", "onnxruntime", ("--target", "onnx", "--quantize", "int4")),
    "openvino-int8": Form("OpenVINO int8", "openvino", ("--target", "openvino", "--quantize", "int8")),
    "8bit": Form("Core ML, 8-bit palettes", "coreml", (*COREML, "--palettize", "8")),
    "6bit": Form("Core ML, 6-bit palettes", "coreml", (*COREML, "--palettize", "6")),
    "4bit": Form("Core ML, 4-bit palettes", "coreml", (*COREML, "--palettize", "4"), "4 bits"),
    "mixed40dB": Form("Core ML, mixed 40 dB", "coreml", (*COREML, "--mixed", "40dB")),
    "torch": Form("torch, the run's own files", "torch", None),
    "openvino": Form("OpenVINO, fp32", "openvino", ("--target", "openvino", "--precision", "fp32")),
    "coreml": Form("Core ML, fp16", "coreml", (*COREML, "--precision", "fp16")),
    "6bit-off": Form("Core ML, 6-bit palettes, choice off", "coreml", (*COREML, "--palettize", "6", "--no-keep-erased")),
    "4bit-off": Form("Core ML, 4-bit palettes, choice off", "coreml", (*COREML, "--palettize", "4", "--no-keep-erased")),
}

NEON = "--erase neon --solver"
MODELS: dict[str, Trained | Blend] = {
    "penalty": Trained("penalty", "try2", f"{NEON} penalty"),
    "two-stage": Trained("two-stage", "neon-two-stage", f"{NEON} two-stage"),
    "alternate": Trained("alternate", "neon-alternate", f"{NEON} alternate"),
    "steps-60": Trained("penalty, 60 steps", "neon-60", f"{NEON} penalty --steps 60"),
    "steps-30": Trained("penalty, 30 steps", "neon-30", f"{NEON} penalty --steps 30"),
    "weak": Blend("penalty, 40 % of its change", "penalty", 0.4),
    "narrow": Blend("40 % of the change, on a 4-bit model", "penalty", 0.4, narrow=True),
    "narrow-all": Blend("all of the change, on a 4-bit model", "penalty", 1.0, narrow=True),
}
SWEPT = ("penalty", "weak")  # by one factor at a time
CROSSED = ("penalty", "two-stage", "alternate", "steps-30")  # by bits and probe


@dataclass(frozen=True)
class Row:
    """One cell: its pictures are drawn, judged and counted together."""

    model: str
    form: str = "fp32"
    sampler: str = "ddim"
    steps: int = 25
    probe: str = "plain"

    @property
    def id(self) -> str:
        return f"{self.model}_{self.form}_{self.sampler.replace('+', 'p')}-{self.steps}_{self.probe}"

    @property
    def label(self) -> str:
        """What sets it apart from its base."""
        base = self.base
        parts = [FORMS[self.form].label] if self.form != base.form else []
        parts += [f"{self.sampler.upper()}, {self.steps} steps"] if (self.sampler, self.steps) != (base.sampler, base.steps) else []
        parts += [self.probe] if self.probe != base.probe else []
        return "; ".join(parts) or f"base: {FORMS[self.form].label}"

    @property
    def base(self) -> "Row":
        """The same model, nothing changed. One on a 4-bit control is measured against its Core ML files in fp16, which hold it as it is."""
        blend = MODELS[self.model]
        return Row(self.model, "coreml" if isinstance(blend, Blend) and blend.narrow else "fp32")

    @property
    def partners(self) -> dict[str, "Row"]:
        """What it is compared with, picture by picture: the base; for a probe on narrow files, the same probe on wide ones."""
        found = {} if self == self.base else {"base": self.base}
        if self.form != self.base.form and self.probe != "plain":
            found["same probe, unrounded"] = replace(self, form=self.base.form)
        return found


def _changed(model: str, factor: str) -> Iterator[Row]:
    whole = model == "weak"  # the one with a leak to lose or to gain gets every level
    forms = {
        "precision": ("fp16", "int8", "int4", "openvino-int8", "8bit", "6bit", "4bit", "mixed40dB", "4bit-off")
        if whole
        else ("int8", "int4", "6bit", "4bit"),
        "runtime": (*(("torch",) if whole else ()), "openvino", "coreml"),
    }
    if factor in forms:
        yield from (Row(model, form) for form in forms[factor])
    elif factor == "sampler":
        yield from (Row(model, sampler=name, steps=steps) for name, steps in (("pndm", 50), ("dpm++", 20), ("ddim", 8)))
    elif factor == "probe":
        yield from (Row(model, probe=name) for name in ("paraphrase", "noise", "completion"))


FACTORS = ("precision", "runtime", "sampler", "probe")
VIEWS: dict[str, tuple[Row, ...]] = {
    "base": tuple(Row(model) for model in SWEPT),
    **{factor: tuple(row for model in SWEPT for row in _changed(model, factor)) for factor in FACTORS},
    "matrix": (
        *(Row(model, form, probe=probe) for model in CROSSED for form in ("fp32", "4bit") for probe in ("plain", "completion", "noise")),
        *(Row("steps-60", form) for form in ("fp32", "4bit")),
    ),
    "narrow": (
        Row("narrow", "coreml"),
        Row("narrow", "6bit-off"),
        Row("narrow", "4bit-off"),
        Row("narrow", "4bit"),
        Row("narrow-all", "coreml"),
        Row("narrow-all", "4bit-off"),
    ),
}


def rows() -> tuple[Row, ...]:
    """Every cell once, bases first."""
    found = dict.fromkeys(row for view in VIEWS.values() for row in view)
    bases = dict.fromkeys(row.base for row in found)
    return tuple({**bases, **found})
