"""What `edgesafe export` was asked for."""

from dataclasses import dataclass
from pathlib import Path

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from . import compression
from .compression import Compression

PRECISIONS = ("fp32", "fp16")
DEPLOYMENTS = ("iOS16", "iOS17", "iOS18")
ATTENTIONS = ("original", "split-einsum")
GATE_DB = 35.0


@dataclass(frozen=True)
class ExportConfig:
    source: str | None = None  # run, pipeline folder, "emoji:teacher" or hub id; the newest finished run
    target: str = "onnx"
    precision: str | None = None  # of weights and arithmetic; the target's default
    out: Path | None = None  # beside the run, or under runs/
    force: bool = False  # replace `out`
    batch: int | None = None  # Core ML: the UNet's fixed batch, 1 or 2; 2 draws with guidance in one call
    height: int | None = None  # pixels; the model's own size
    width: int | None = None
    deployment: str | None = None  # Core ML: the oldest system that must run it
    vae_encoder: bool = False  # Core ML: write VAEEncoder too, which drawing from text does not need
    chunked: bool = False  # Core ML: the UNet as UnetChunk1 and UnetChunk2, each small enough for an iPhone's memory
    attention: str = "original"  # Core ML: "split-einsum" is Apple's form for the Neural Engine of older systems
    static: bool = False  # ONNX: fixed batch, height and width
    palettize: int | None = None  # bits; see compression.py for these four
    quantize: str | None = None
    mixed: str | None = None
    keep_erased: bool = True
    own_scheduler: bool = False  # Core ML: the app samples with its own scheduler, so the prediction type may be one that Apple's lack
    parity_steps: int = 25  # DDIM steps of the recorded trajectories
    gate_db: float = GATE_DB  # lowest parity of any part
    allow_loss: str | None = None  # the reason for which an export below the gate is kept all the same

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--deployment", self.deployment, DEPLOYMENTS),
            ("--attention", self.attention, ATTENTIONS),
        ):
            if value is not None and value not in known:
                raise EdgeSafeError(f"{flag} {value!r} is not known; known: {', '.join(known)}")
        for flag, pixels in (("--height", self.height), ("--width", self.width)):
            if pixels is not None and pixels < 1:
                raise EdgeSafeError(f"{flag} {pixels}: give a number of pixels, 1 or more")
        if self.batch not in (None, 1, 2):
            raise EdgeSafeError(f"--batch {self.batch}: the UNet takes 2 pictures at once (with and without the prompt) or 1")
        if self.allow_loss is not None and not self.allow_loss.strip():
            raise EdgeSafeError("--allow-loss needs the reason, in words: it is written into the manifest")
        if not 1 <= self.parity_steps <= 1000:
            raise EdgeSafeError(f"--parity-steps {self.parity_steps}: give 1 to 1000; more than 25 adds nothing but time")
        self.compression()

    def compression(self) -> Compression | None:
        return compression.asked(self.palettize, self.quantize, self.mixed, self.keep_erased)

    def precision_of(self, default: str) -> str:
        return self.precision or default

    def size(self, model: TextToImage) -> tuple[int, int]:
        """(height, width) in pixels. Raises: EdgeSafeError for a size that the VAE cannot give."""
        sizes = self.height or model.picture_size, self.width or model.picture_size
        for flag, pixels in zip(("--height", "--width"), sizes, strict=True):
            if pixels % model.vae_factor:
                need = f"a multiple of {model.vae_factor}, the pixels that this model's VAE draws for one latent"
                raise EdgeSafeError(f"{flag} {pixels} is not {need}")
        return sizes
