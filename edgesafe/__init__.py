"""EdgeSafe: erase concepts from a text-to-image model, shrink it, export it, and measure what the exported files still show.

Names are handed on lazily, so that `import edgesafe` costs nothing and commands import only what they use.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Concept": "edgesafe.concepts",
    "EdgeSafeError": "edgesafe.errors",
    "Manifest": "edgesafe.artifact",
    "ModelMixin": "diffusers",  # DiffusionPipeline.from_pretrained asks edgesafe for it, to know how PrunedUNet2DConditionModel is loaded
    "PrunedUNet2DConditionModel": "edgesafe.pruned_unet",
    "TextToImage": "edgesafe.model",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("edgesafe")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgesafe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, "__version__"])
