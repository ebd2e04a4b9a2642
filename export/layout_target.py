"""What ONNX and OpenVINO exports have in common as targets: they are written in the diffusers layout (layout.py)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import layout
from .compression import Compression
from .config import ExportConfig
from .layout import Sizes

NARROWED = {"int8": ("text_encoder", "text_encoder_2", "unet", "vae_decoder"), "int4": ("text_encoder", "text_encoder_2", "unet")}


@dataclass(frozen=True)
class LayoutTarget:
    precision: str  # "fp32" | "fp16"
    sizes: Sizes
    compression: Compression | None
    gate_db: float  # what a compressed part has to reach; layers stay wide until it does
    encoders: tuple[str, ...]  # the text encoders

    kind: ClassVar[str]  # as in "an ONNX export"
    default_precision: ClassVar[str] = "fp32"

    @classmethod
    def plan(cls, config: ExportConfig, model: TextToImage) -> Self:
        refuse(config, cls.kind)
        precision = precision_of(config, cls.default_precision)
        sizes = sizes_of(config, model, cls.kind)
        return cls(precision, sizes, config.compression(), config.gate_db, tuple(model.family.tokenizers))

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.encoders, "unet", "vae_encoder", "vae_decoder")

    @property
    def narrowed(self) -> tuple[str, ...]:
        """The VAE has next to no linear layers, so 4 bits leave it alone."""
        return tuple(name for name in self.parts if self.compression and name in NARROWED[self.compression.name])

    @property
    def height(self) -> int:
        return self.sizes.height

    @property
    def width(self) -> int:
        return self.sizes.width

    def notes(self, model: TextToImage) -> tuple[str, ...]:
        return ()

    def wider(self, compression: Compression) -> tuple[Compression, ...]:
        return (replace(compression, bits=8),) if compression.bits == 4 else ()

    def files(self, part: str) -> str:
        return part


def refuse(config: ExportConfig, kind: str) -> None:
    """Raises: EdgeSafeError for options that only a Core ML export has."""
    for flag, given, why in (
        ("--batch", config.batch is not None and not config.static, f"an {kind} export takes any batch"),
        ("--deployment", config.deployment is not None, f"an {kind} export runs wherever its runtime does"),
        ("--chunked", config.chunked, f"an {kind} export's UNet is one file"),
        ("--attention", config.attention != "original", f"an {kind} export has one form of attention"),
        ("--own-scheduler", config.own_scheduler, f"an {kind} export leaves the scheduler to whoever runs it"),
        ("--vae-encoder", config.vae_encoder, f"an {kind} export always has the VAE's encoder"),
        ("--palettize", config.palettize is not None, "give --quantize int8 or int4 instead"),
        ("--mixed", config.mixed is not None, "give --quantize int8 instead, which keeps sensitive layers wide by measurement"),
    ):
        if given:
            raise EdgeSafeError(f"{flag} is for --target coreml: {why}. Leave it out")


def sizes_of(config: ExportConfig, model: TextToImage, kind: str) -> Sizes:
    """Raises: EdgeSafeError for sizes that the files could not draw."""
    height, width = config.size(model)
    step = layout.step(model)
    for flag, pixels in (("--height", height), ("--width", width)):
        if pixels % step and not config.static:
            raise EdgeSafeError(f"{flag} {pixels}: an {kind} export of this model draws multiples of {step} pixels (VAE x UNet levels)")
    return Sizes(height, width, config.static, config.batch or 2)


def precision_of(config: ExportConfig, default: str) -> str:
    asked, compression = config.precision_of(default), config.compression()
    if compression and asked == "fp16":
        raise EdgeSafeError(f"--precision fp16 with --quantize {compression.name}: give one of them; what is not narrowed stays fp32")
    return asked
