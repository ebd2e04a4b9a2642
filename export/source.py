"""What is exported: a finished run, a pipeline folder, a packaged model or a hub id; and what its manifest says of where it came from."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesafe import artifact, model
from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage


@dataclass(frozen=True)
class Source:
    label: str  # as the user names it, or the newest run's path
    run: Manifest | None  # None for a model that is no run

    def manifest(self, loaded: TextToImage) -> Manifest:
        """The run's own, or for a model one without steps, whose control is the model itself."""
        if self.run:
            return self.run
        weights = loaded.weights_file
        base = {"id": self.label, "revision": loaded.revision, "sha256": artifact.sha256(weights) if weights else None}
        return Manifest("run", base, control=self.label, steps=(), concepts=(), files={})

    @property
    def prompts(self) -> tuple[str, ...]:
        """The first erased concept's first prompt and the same with its anchor; () where nothing was erased."""
        pairs = self.run.concepts[0]["pairs"] if self.run and self.run.concepts else []
        return tuple(prompt for prompt in pairs[0] if prompt) if pairs else ()

    def place(self, *form: str) -> Path:
        """runs/X -> runs/X-onnx-fp16; a model goes to runs/ by its name."""
        path = Path(self.label)
        if self.run:
            return path.with_name("-".join((path.resolve().name, *form)))
        name = re.sub(r"[^A-Za-z0-9.]+", "-", path.resolve().name if path.is_dir() else self.label).strip("-")
        return Path("runs") / "-".join((name, *form))

    def control(self) -> Callable[[], TextToImage] | None:
        """Loads the un-erased model that the run was made from; None where nothing was erased, or the model is not on this machine."""
        if not self.run or not self.run.concepts:
            return None
        try:
            folder = model.local(self.run.control)
        except EdgeSafeError:
            return None
        return lambda: model.load(folder)

    def record(self, loaded: TextToImage, out: Path) -> dict[str, Any]:
        """For the manifest: where the model is, as the user names it and as seen from the export, and what its weights are."""
        path = Path(self.label)
        beside = os.path.relpath(path.resolve(), Path(out).resolve()) if path.exists() else None
        return {"source": self.label, "beside": beside, "weights": weights(loaded)}


def weights(loaded: TextToImage) -> dict[str, list[str]]:
    """unet, vae and text_encoder -> the sha256 of each of its weight files, sorted."""
    files = {part: (loaded.folder / part).glob("*.safetensors") for part in loaded.modules()} if loaded.folder else {}
    return {part: sorted(map(artifact.sha256, paths)) for part, paths in files.items()}


def find(source: str | None) -> Source:
    """Raises: EdgeSafeError for what is not there, a run that did not finish or does not match its manifest, and an export."""
    label = str(artifact.newest("run")) if source is None else source
    path = Path(label)
    if not any((path / name).exists() for name in ("model", "metrics.jsonl", artifact.MANIFEST)):
        model.resolve(label)
        return Source(label, None)
    manifest = artifact.read(path)
    if manifest.kind != "run":
        kind = (manifest.target or {}).get("name")
        raise EdgeSafeError(f"{path}: this is an export already ({kind}). Give the run or the model it was made from")
    return Source(label, manifest)
