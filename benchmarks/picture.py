"""`edgesafe generate`: one prompt, one picture or a grid of seeds, in one file that says how it was made."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from rich.console import Console
from rich.progress import Progress

from edgesafe import artifact, sampling
from edgesafe.errors import EdgeSafeError

from . import runtimes, sources

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class PictureConfig:
    prompt: str
    source: str | None = None  # None: the newest finished run or export that can be run here
    out: Path | None = None  # None: named by prompt and seed, in the working folder
    seed: int = 0  # of the first picture
    count: int = 1  # pictures, from seeds seed, seed + 1, ...
    steps: int = sampling.DEFAULT_STEPS
    guidance: float = sampling.DEFAULT_GUIDANCE
    sampler: str = sampling.DEFAULT_SAMPLER
    runtime: str | None = None  # None: the first that can
    threads: int | None = None  # None: as the runtime chooses
    force: bool = False

    def __post_init__(self) -> None:
        if self.picture.suffix.lower() not in FORMATS:
            raise EdgeSafeError(f"-o {self.picture}: unknown picture format {self.picture.suffix!r}; known: {', '.join(FORMATS)}")
        if self.picture.exists() and not self.force:
            raise EdgeSafeError(f"{self.picture} exists. Give another -o, or --force to replace it")
        if self.runtime:
            runtimes.check(self.runtime)
        sampling.scheduler(self.sampler, {})

    @property
    def picture(self) -> Path:
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:60] or "empty"
        return self.out or Path(f"{words}-{self.seed}.png")


def run(config: PictureConfig, console: Console | None = None, root: Path = Path("runs")) -> Path:
    """Returns the picture's path."""
    console = console or Console(stderr=True)
    place, passed = (config.source, []) if config.source else sources.newest(("run", "export"), root)
    source = sources.describe(place)
    for line in passed:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    model = runtimes.load(source.place, config.runtime, config.threads)
    console.print(f"{source.place} ({source.target}) on {model.name}", highlight=False, markup=False, soft_wrap=True)
    if cut := model.words_cut(config.prompt):
        told = f"The prompt is longer than the {model.tokenizer.model_max_length} tokens that the model reads. It does not see: “{cut}”"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("drawing", total=config.count)
        pictures = model.generate(
            [config.prompt] * config.count,
            [config.seed + i for i in range(config.count)],
            steps=config.steps,
            guidance=config.guidance,
            sampler=config.sampler,
            progress=lambda done: bar.update(task, completed=done),
        )
    how = f"{config.sampler}, {config.steps} steps, guidance {config.guidance:g}, {model.name}"
    made = f"{source.name}; {config.prompt}; seed {config.seed}; {how}"
    with artifact.NamingFullDisk(config.picture):
        _save(sheet(pictures), config.picture, made)
    return config.picture


def sheet(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> one picture, as square as N allows, white where there is none."""
    n, h, w, _ = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, h, w, 3), 255, np.uint8)
    cells[:n] = pictures
    return cells.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)


def _save(picture: np.ndarray, path: Path, made: str) -> None:
    kind, facts = FORMATS[path.suffix.lower()], PngImagePlugin.PngInfo()
    facts.add_text("edgesafe", made)
    with artifact.replacing(path) as part:
        Image.fromarray(picture).save(part, kind, **({"pnginfo": facts} if kind == "PNG" else {}))
