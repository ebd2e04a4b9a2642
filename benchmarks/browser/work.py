"""What a browser is given to do with an export: parts to time, by the desktop's protocol, and pictures to draw."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgesafe.errors import EdgeSafeError

from .. import latency
from ..audit import Audit
from ..cells import attempt
from ..exhibit import MIB, Exhibit
from ..gallery import Drawing, Order
from ..leakage import Question
from ..probes import PROBES, Probe

BACKENDS = ("webgpu", "wasm")
ROOM_MIB = 3500  # of a model's files: WebAssembly ends at 4 GiB
NEEDED = (
    *(f"{part}/{file}" for part in ("text_encoder", "unet", "vae_decoder") for file in ("model.onnx", "config.json")),
    *("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"),
)


@dataclass(frozen=True)
class Part:
    """As `latency.warm` times it."""

    part: str
    runs: int
    warm_up: int
    limit_ms: float


PARTS = tuple(
    Part(part, latency.PICTURES if part == "picture" else latency.CALLS, warm_up, 1e3 * latency.LIMIT_S)
    for part, warm_up in (("picture", 2), ("unet_call", 5), ("text_encoder", 3), ("vae_decoder", 3))
)


@dataclass(frozen=True)
class Work:
    export: str  # its name
    manifest_sha256: str
    width: int  # px of a picture
    height: int
    size_mib: float  # to download
    drawing: Drawing
    questions: tuple[Question, ...]  # each prompt and seed once
    parts: tuple[Part, ...] = PARTS
    threads: int | None = None  # of WASM; None: as the engine chooses
    backend: str | None = None  # None: WebGPU where there is one
    turns: int = 0  # blocks of UNet calls that alternate with this computer's; nothing else is done then

    @property
    def settings(self) -> dict[str, Any]:
        return {"steps": self.drawing.steps, "guidance": self.drawing.guidance, "sampler": self.drawing.sampler}

    def offer(self) -> dict[str, Any]:
        """For the page, before it begins."""
        facts = {name: getattr(self, name) for name in ("export", "width", "height", "size_mib", "threads", "backend", "turns", "settings")}
        cold = {"prompt": latency.PROMPT, "seed": latency.SEED}
        return facts | {"parts": [asdict(part) for part in self.parts], "pictures": len(self.questions), "cold": cold}


def key(question: Question) -> str:
    return hashlib.sha256(json.dumps([question.prompt, question.seed]).encode()).hexdigest()[:24]


def check(found: Exhibit) -> None:
    """Raises: EdgeSafeError for what a browser cannot run, before any work."""
    source, manifest = found.source, found.source.manifest
    if manifest is None or manifest.kind != "export":
        what = f"a {manifest.kind}" if manifest else "a model folder"
        raise EdgeSafeError(f"{source.place} is {what}, and a browser runs exports. Make one: edgesafe export {source.place} --target onnx")
    target = (manifest.target or {}).get("name")
    if target != "onnx":
        again = "Export the run again: edgesafe export --target onnx"
        raise EdgeSafeError(f"{source.place}: its target is {target}, and a browser runs ONNX. {again}")
    if missing := [name for name in NEEDED if name not in manifest.files]:
        raise EdgeSafeError(f"{source.place}: no {missing[0]} in it, which the page needs. Export the run again with this EdgeSafe")
    size = sum(facts["size"] for facts in manifest.files.values()) / MIB
    if size > ROOM_MIB:
        smaller = "Export fewer bits: edgesafe export --quantize int8"
        raise EdgeSafeError(f"{source.place}: {size:.0f} MiB, and a browser's WebAssembly can hold about {ROOM_MIB}. {smaller}")


def check_probes(probes: Iterable[Probe]) -> None:
    """A browser draws what prompts give; other loops and worked-on weights stay with `edgesafe audit`."""
    able = [name for name, cls in PROBES.items() if cls.draw is Probe.draw and cls.model is Probe.model]
    if wrong := [probe.name for probe in probes if probe.name not in able]:
        raise EdgeSafeError(f"--probes {', '.join(wrong)}: not with --device web, which draws from prompts alone; known: {', '.join(able)}")


def orders(audit: Audit) -> list[Order]:
    """Of the export. A probe that cannot ask is left to the audit, which meets the same failure and shows it."""
    found = [attempt(lambda probe=probe, cell=cell: {"order": audit.order(probe, cell)}) for probe, cell in audit.asked()]  # type: ignore[misc]
    return [row["order"] for row in found if row["status"] == "measured"]


def questions(asked: Iterable[Order]) -> tuple[Question, ...]:
    return tuple({(q.prompt, q.seed): q for order in asked for q in order.cell.questions}.values())
