"""coreml: draws with a Core ML export. On macOS Core ML itself runs it; elsewhere edgesafe.mil evaluates the same files with torch.

The evaluated files show what an app would draw, not how fast: off macOS nothing of this runtime is timed. The UNet takes the fixed batch
of the export, so longer batches are cut and shorter ones filled up.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError
from edgesafe.families import ZERO_EMPTY, Conditions

from .runtime import Runtime

PARTS = ("TextEncoder", "VAEDecoder")
WHOLE, CHUNKS = ("Unet",), ("UnetChunk1", "UnetChunk2")
FACTS = ("batch", "height", "width", "scaling_factor", "scheduler")
PADS = "<|endoftext|>", "!"  # as Apple's Swift package does, where the export names none


class CoreMLRuntime(Runtime):
    name = "coreml"
    packages = ("coremltools", "torch", "diffusers", "transformers")
    untimed = (
        None if sys.platform == "darwin" else "Core ML runs on macOS only; its files are evaluated with torch here, which tells no times"
    )

    @classmethod
    def why_not(cls, source: str | Path) -> str | None:
        folder = Path(source)
        unet = CHUNKS if (folder / f"{CHUNKS[0]}.mlpackage").is_dir() else WHOLE
        missing = [f"{part}.mlpackage" for part in (*PARTS, *unet) if not (folder / f"{part}.mlpackage").is_dir()]
        missing += [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        return f"{source} is no Core ML export (no {', '.join(missing)})" if missing else None

    @classmethod
    def open(cls, source: str | Path, threads: int | None = None) -> "CoreMLRuntime":
        return cls(Path(source), threads)

    def __init__(self, folder: Path, threads: int | None) -> None:
        from transformers import CLIPTokenizer

        from edgesafe.mil.parts import CoreMLParts

        if threads:
            torch.set_num_threads(threads)
        facts = _facts(folder)
        self.parts = CoreMLParts(folder, facts["batch"], run="predict" if sys.platform == "darwin" else "evaluate")
        self.scheduler_config, self.scaling_factor = facts["scheduler"], facts["scaling_factor"]
        self.latent_shape = self.parts.latent_shape
        self.family, self.zero_empty = self.parts.family, facts.get(ZERO_EMPTY, False)
        self.size = facts["height"], facts["width"]
        files, pads = (str(folder / "vocab.json"), str(folder / "merges.txt")), facts.get("pad_tokens", PADS)
        self.tokenizers = [CLIPTokenizer(*files, pad_token=pad, model_max_length=self.parts.tokens) for pad in pads]
        self.tokenizer = self.tokenizers[0]

    @classmethod
    def import_libraries(cls) -> None:
        from diffusers import DDIMScheduler  # noqa: F401
        from transformers import CLIPTokenizer  # noqa: F401

        import edgesafe.mil.parts  # noqa: F401

    def encode(self, prompts: Sequence[str]) -> Conditions:
        encoded = []
        for name, tokenizer in zip(self.family.tokenizers, self.tokenizers, strict=False):
            ids = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
            encoded.append(getattr(self.parts, name)(ids))
        return self.family.conditions(encoded, prompts, self.size, self.zero_empty)

    def unet_call(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self.parts.unet(sample, timestep, *given)

    def decode(self, latents: Tensor) -> Tensor:
        return self.parts.vae_decoder(latents / self.scaling_factor)


def _facts(folder: Path) -> dict[str, Any]:
    """What the packages do not say, from the manifest's `target`."""
    from edgesafe import artifact

    facts = artifact.read(folder, verify=False).target or {}
    if missing := [name for name in FACTS if name not in facts]:
        raise EdgeSafeError(f"{folder / artifact.MANIFEST}: its target does not say {', '.join(missing)}. Export the model again")
    return facts
