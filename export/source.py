"""What is exported: a finished run, a pipeline folder, a packaged model or a hub id; and what its manifest says of where it came from."""

import re
from dataclasses import dataclass
from pathlib import Path

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

    def place(self, target: str, precision: str) -> Path:
        """runs/X -> runs/X-onnx-fp16; a model goes to runs/ by its name."""
        path = Path(self.label)
        if self.run:
            return path.with_name(f"{path.resolve().name}-{target}-{precision}")
        name = re.sub(r"[^A-Za-z0-9.]+", "-", path.resolve().name if path.is_dir() else self.label).strip("-")
        return Path("runs") / f"{name}-{target}-{precision}"


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
