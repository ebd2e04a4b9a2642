"""The survival study's models and files: runs, blends of a run with its control, and their exports, each made once and kept.

An export is made by `edgesafe export` in a process of its own, as a user would; one that the parity gate refuses is allowed, for how it
leaks is what is asked here. Folders are named by hashes of what went into them, so that another run, or another share, is another folder.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgesafe import artifact, fingerprint, model
from edgesafe.artifact import Step
from edgesafe.errors import EdgeSafeError

from . import sources
from .sources import Source
from .survival_plan import FORMS, MODELS, Blend, Trained

REASON = "survival study"
EDGESAFE = (sys.executable, "-c", "from edgesafe.cli import main; main()")
PACKAGES = ("torch", "diffusers", "onnx", "onnxruntime", "openvino", "coremltools")
VALUES = 16  # of a 4-bit palette
FLOOR = 2048  # elements; smaller weights are not put on a palette, nor are the ends, as in exports
ENDS = re.compile(r"(^|\.)(conv_in|conv_out|time_embedding|position_embedding)\.")
GRID, TURNS = 256, 100  # quantiles to start Lloyd's algorithm from, and its turns


@dataclass(frozen=True)
class Models:
    runs: Path
    work: Path
    threads: int
    parity_steps: int = 25  # of the check at the end of each export

    def place(self, key: str) -> Path:
        """The run, or the blend, which is made where it is missing. Raises: EdgeSafeError for a run that is not there."""
        row = MODELS[key]
        return self._trained(row) if isinstance(row, Trained) else self._blend(key, row)

    def digest(self, key: str, form: str) -> str:
        """Of all that goes into the files, without making them."""
        return digest([self._identity(key), FORMS[form].options, artifact.versions(*PACKAGES)])

    def export(self, key: str, form: str) -> Source:
        """The model in that form, made where it is missing; the run itself for a form without options."""
        options, place = FORMS[form].options, self.place(key)
        if options is None:
            return sources.describe(place)
        return self._exported(str(place), self._name(key, form), options)

    def exported(self, key: str, form: str) -> bool:
        return FORMS[form].options is None or (self.work / "exports" / self._name(key, form) / artifact.MANIFEST).is_file()

    def _name(self, key: str, form: str) -> str:
        return f"{key}-{form}-{self.digest(key, form)}"

    def control(self, key: str) -> tuple[Source, Source]:
        """The un-erased model: its weights, and its files in the base's form."""
        named = self._unerased(key)
        return sources.describe(named), self._exported(named, self.control_name(key), FORMS["fp32"].options or ())

    def control_name(self, key: str) -> str:
        """Of its files' folder in exports/."""
        named = self._unerased(key)
        facts = [_tree(named), FORMS["fp32"].options, artifact.versions(*PACKAGES)]
        return f"control-{Path(named).name.replace(':', '-')}-{digest(facts)}"

    def _unerased(self, key: str) -> str:
        return artifact.read(self.place(key), verify=False).control

    def _trained(self, row: Trained) -> Path:
        folder = self.runs / row.folder
        if not (folder / artifact.MANIFEST).is_file():
            found = "a run that did not finish" if folder.is_dir() else "no such run"
            make = f"edgesafe train {row.train} --out {folder}"
            raise EdgeSafeError(f"{folder}: {found}, so “{row.label}” cannot be measured. Make it: {make}")
        if not artifact.read(folder, verify=False).concepts:
            raise EdgeSafeError(f"{folder}: nothing was erased from it. Name an erased run's folder instead, or train it: {row.train}")
        return folder

    def _identity(self, key: str) -> list[Any]:
        row = MODELS[key]
        if isinstance(row, Trained):
            return [artifact.sha256(self._trained(row) / artifact.MANIFEST)]
        named = artifact.read(self.place(row.of), verify=False).control
        return [*self._identity(row.of), _tree(named), row.share, row.narrow]

    def _blend(self, key: str, row: Blend) -> Path:
        folder = self.work / "models" / f"{key}-{digest(self._identity(key))}"
        with claim(folder.with_suffix(".lock")):
            if not (folder / artifact.MANIFEST).is_file():
                run = self.place(row.of)
                named = artifact.read(run, verify=False).control
                control = str(self._narrowed(named)) if row.narrow else named
                with artifact.staged(folder) as part:
                    blend(run, control, row, part)
        return folder

    def _narrowed(self, named: str) -> Path:
        """The control with each large weight of UNet and text encoder on 16 values."""
        folder = self.work / "models" / f"narrow-{Path(named).name.replace(':', '-')}-{digest(_tree(named))}"
        with claim(folder.with_suffix(".lock")):
            if not (folder / "model_index.json").is_file():
                loaded = model.load(named)
                for part in ("unet", "text_encoder"):
                    for weight in _large(getattr(loaded, part)):
                        weight.copy_(on_palette(weight, VALUES))
                with artifact.staged(folder) as part_folder:
                    model.save(loaded, part_folder)
        return folder

    def _exported(self, place: str, name: str, options: tuple[str, ...]) -> Source:
        folder = self.work / "exports" / name
        checked = ("--parity-steps", str(self.parity_steps))
        with claim(folder.with_suffix(".lock")):
            if not (folder / artifact.MANIFEST).is_file():
                self._run("export", place, *options, *checked, "--out", str(folder), "--allow-loss", REASON)
        return _by_content(sources.describe(folder))

    def _run(self, *words: str) -> None:
        command(words, self.threads)


def command(words: Sequence[str], threads: int) -> None:
    """`edgesafe WORDS` in a process of its own. Raises: EdgeSafeError with the command's own last words."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    ended = subprocess.run([*EDGESAFE, *words], capture_output=True, text=True, env={**os.environ, **limits, "TERM": "dumb"})
    if ended.returncode:
        said = [line.strip() for line in ended.stderr.splitlines() if line.strip()] or [f"it ended with {ended.returncode}"]
        error = next((line for line in reversed(said) if line.startswith("Error: ")), said[-1])
        raise EdgeSafeError(f"edgesafe {' '.join(words[:2])}: {error.removeprefix('Error: ')}")


def blend(run: Path, control: str, row: Blend, folder: Path) -> None:
    """Write C + share (W_run - W_control) as a finished run whose control is C = `control`; in fp16, as every run."""
    manifest = artifact.read(run)
    erased, before = model.load(run), model.load(manifest.control)
    start = before if control == manifest.control else model.load(control)
    for name, part in erased.modules().items():
        old, new = before.modules()[name].state_dict(), start.modules()[name].state_dict()
        for key, weight in part.state_dict().items():
            if weight.is_floating_point():
                weight.copy_(new[key] + row.share * (weight - old[key]))
    model.save(erased, folder / "model")
    config = asdict(row) | {"run_manifest": artifact.sha256(run / artifact.MANIFEST)}
    step = Step("blend", "linear", config, None, artifact.versions("torch"))
    artifact.seal(folder, replace(manifest, control=control, steps=(*manifest.steps, step)))


def on_palette(weight: Tensor, values: int) -> Tensor:
    """Each weight at the nearest of `values` means, on fp16's grid: Lloyd's algorithm in one dimension.

    It starts where the means lie that are best for a smooth density p, as densely as p^(1/3) (Panter and Dite 1951).
    """
    ranked, order = weight.flatten().sort()
    x = ranked.double().numpy()
    sums = np.concatenate([[0.0], np.cumsum(x)])
    grid = np.quantile(x, np.linspace(0, 1, GRID + 1))
    share = np.cumsum(np.diff(grid, prepend=grid[0]) ** (2 / 3))  # of the integral of p^(1/3), with p = 1 / (GRID gap)
    means = np.interp((np.arange(values) + 0.5) / values, share / share[-1], grid)
    for _ in range(TURNS):
        edges = np.searchsorted(x, (means[1:] + means[:-1]) / 2)
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(x)]])
        counts = ends - starts
        means = np.where(counts > 0, (sums[ends] - sums[starts]) / np.maximum(counts, 1), means)
    rounded = np.repeat(means.astype(np.float16), counts)
    made = torch.empty_like(ranked)
    made[order] = torch.from_numpy(rounded).to(made.dtype)
    return made.reshape(weight.shape)


def weights_of(place: Path) -> int:
    """How many numbers a run's UNet has."""
    total = 0
    for path in sorted((place / "model" / "unet").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            total += sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
    return total


def facts_of(source: Source, weights: int) -> dict[str, Any]:
    """Size of the UNet's files, parity with torch, and what the erasure-aware choice of bits did."""
    sizes = sources.sizes(source)
    mib = sum(n for name, n in sizes.items() if name.lower().startswith("unet")) / 2**20
    manifest = source.manifest
    parity = (manifest.parity or {}) if manifest else {}
    compression = ((manifest.target or {}) if manifest else {}).get("compression") or {}
    kept = [row["erased"] for row in compression.get("parts", {}).values() if "erased" in row]
    return {
        "unet_mib": round(mib, 3),
        "bits_a_weight": round(mib * 2**23 / weights, 2),  # of the files, graph and tables included
        "unet_db": parity.get("components", {}).get("unet", {}).get("psnr_db"),
        "below_the_gate": "allowed_loss" in parity,
        "layers_kept_wider": sum(len(row["kept_wider"]) for row in kept) if kept else None,
        "least_left": min((row["least_left"] for row in kept if row["least_left"] is not None), default=None),
    }


@contextmanager
def claim(lock: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process may work on what the file stands for; others that ask wait, or get False. A kill frees it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _by_content(source: Source) -> Source:
    """Known by its files alone, so that two exports of the same bytes share their pictures. Core ML names its parts at random."""
    manifest = source.manifest
    if manifest is None:
        return source
    files = {name: row["sha256"] for name, row in manifest.files.items() if not name.endswith("/Manifest.json")}
    aside = ("compression", "made_from", fingerprint.KEY)
    target = {key: value for key, value in (manifest.target or {}).items() if key not in aside}
    return replace(source, sha256=hashlib.sha256(json.dumps([files, target], sort_keys=True).encode()).hexdigest())


def _large(module: nn.Module) -> Iterator[Tensor]:
    state = module.state_dict().items()
    yield from (weight for key, weight in state if weight.ndim > 1 and weight.numel() > FLOOR and not ENDS.search(key))


@cache
def _tree(named: str) -> str | None:
    return sources.describe(named).sha256


def digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
