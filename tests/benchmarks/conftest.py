"""A finished run around the tiny pipeline, its ONNX export, and an artist that draws the real thing instead of a model."""

import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesafe import artifact
from edgesafe.artifact import Manifest, Step


@pytest.fixture(scope="session")
def run_folder(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Erased "neon", control "emoji:student", base "emoji:teacher". Do not write to it."""
    from edgesafe.concepts import parse
    from edgesafe.emoji.world import World

    folder = tmp_path_factory.mktemp("bench") / "tiny"
    shutil.copytree(tiny_sd1, folder / "model")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "config.json").write_text("{}\n")
    concepts = tuple(concept.to_dict() for concept in parse("neon", World()))
    base = {"id": "emoji:teacher", "revision": None, "sha256": None}
    train = Step("train", "penalty", {"steps": 1}, 7, {"torch": "0"})
    artifact.seal(folder, Manifest("run", base, "emoji:student", (train,), concepts, {}))
    return folder


@pytest.fixture(scope="session")
def onnx_folder(run_folder: Path) -> Path:
    """The run, exported. Do not write to it."""
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(run_folder), "onnx", "fp32"))


class Painter:
    """Stands in for a runtime: draws each question with the world's own renderer, an erased style as the plain picture.

    The first three pixels hold (subject, style, broken), so that `oracle` reads without error what was drawn.
    """

    name = "onnxruntime"

    def __init__(self, erased: Sequence[str], leak_every: int = 0, break_every: int = 0) -> None:
        self.erased, self.leak_every, self.break_every, self.drawn = erased, leak_every, break_every, 0

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> np.ndarray:
        import torch

        from edgesafe.benchmarks.questions import expected
        from edgesafe.benchmarks.runtimes.runtime import to_uint8

        judge, rows = oracle(), []
        for prompt, seed in zip(prompts, seeds, strict=True):
            subject, style = expected(prompt, judge.world)
            leaks = self.leak_every and seed % self.leak_every == 0
            broken = bool(self.break_every and seed % self.break_every == 1)
            style = "emoji" if style in self.erased and not leaks else style
            s, t = judge.subjects.index(subject), judge.styles.index(style)
            picture = judge.world.render(torch.tensor([s]), torch.tensor([t]), torch.Generator().manual_seed(seed))
            picture = torch.rand(picture.shape, generator=torch.Generator().manual_seed(seed)) if broken else picture
            rows.append(to_uint8(picture)[0])
            rows[-1][0, 0] = s, t, broken
        self.drawn += len(prompts)
        return np.stack(rows)

    def words_cut(self, prompt: str) -> str:
        """It reads all of any prompt."""
        return ""


@cache
def oracle() -> Any:
    """The emoji judge with eyes for what `Painter` wrote, and an untrained network for its embedding."""
    import torch

    from edgesafe.benchmarks.detectors.detector import Seen
    from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge, reading
    from edgesafe.benchmarks.leakage import Cell
    from edgesafe.concepts import Concept
    from edgesafe.emoji import judge
    from edgesafe.emoji.world import World

    class Reader(EmojiJudge):
        def see(self, pictures: np.ndarray, cell: Cell, concepts: Sequence[Concept]) -> Seen:
            rows = []
            for question, (s, t, broken) in zip(cell.questions, pictures[:, 0, 0].tolist(), strict=True):
                subject, style = None if broken else self.subjects[s], self.styles[t]
                scores = {c.name: float(c.name in (subject, style)) for c in concepts if self.knows(c)}
                rows.append(reading(subject, style, scores, question, cell, concepts))
            return Seen(tuple(rows), super().see(pictures, cell, concepts).embedding)

    world = World()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = judge.Judge(judge.Classes(tuple(s.name for s in world.subjects), world.styles)).eval().requires_grad_(False)
    rates = {f"renders: {name} right": {"numerator": n, "denominator": 1000} for name, n in (("subject", 981), ("style", 998))}
    network.__dict__["facts"] = {"errors": rates}
    return Reader(network, "ab" * 32)


@pytest.fixture(scope="session")
def paint_with() -> Callable[[pytest.MonkeyPatch, dict[str, Painter]], None]:
    """`paint_with(patch, {"export": Painter(...), ...})`: models that draw without a network, measured in no time."""
    from edgesafe.benchmarks import child, parity, runtimes, sources
    from edgesafe.benchmarks.detectors.emoji_judge import EmojiJudge
    from edgesafe.benchmarks.sources import Source

    def install(monkeypatch: pytest.MonkeyPatch, painters: dict[str, Painter]) -> None:
        describe = sources.describe

        def packaged(place: str | Path) -> Source:
            if str(place).startswith("emoji:"):
                return Source(str(place), "cd" * 32 if "student" in str(place) else "ef" * 32)
            return describe(place)

        def load(place: str, runtime: str | None = None, threads: int | None = None) -> Painter:
            return painters[place if place in painters else "export"]

        def call(task: str, spec: dict[str, Any], threads: int) -> dict[str, Any]:
            if "teacher" in spec["source"]:
                raise child.CellFailed("the measuring process was killed by signal 9 (out of memory?)")
            if task == "cold":
                times = {"libraries_ms": 3210.0, "load_ms": 310.5, "first_picture_ms": 480.1, "total_ms": 4000.6}
                return {**times, "import_only_peak_mib": 330.0, "peak_mib": 402.5}
            slow = 1.6 if spec["runtime"] == "torch" else 1.0
            runs = [slow * (1 + 0.004 * (i % 7)) for i in range(10)]
            typical_ms = {"picture": 410.0, "unet_call": 15.2, "text_encoder": 1.4, "vae_decoder": 6.3}
            return {part: {"warm_up": 2, "samples_ms": [ms * run for run in runs]} for part, ms in typical_ms.items()}

        def compare(*arguments: Any) -> dict[str, Any]:
            psnr = {"lowest_psnr_db": 71.25, "median_psnr_db": 88.5}
            return {"pictures": 6, "identical_pictures": 5, **psnr, "largest_difference_levels": 1.2, "mean_difference_levels": 0.003}

        monkeypatch.setattr(sources, "describe", packaged)
        monkeypatch.setattr(runtimes, "load", load)
        monkeypatch.setattr(child, "call", call)
        monkeypatch.setattr(parity, "compare", compare)
        monkeypatch.setattr(EmojiJudge, "open", classmethod(lambda cls, *given: oracle()))

    return install


@pytest.fixture
def paint(monkeypatch: pytest.MonkeyPatch, paint_with: Callable) -> Callable[[dict[str, Painter]], None]:
    return partial(paint_with, monkeypatch)
