"""Benign fine-tuning: somebody trains the files a little further on pictures without the concept, and it may come back.

Suriyakumar et al., "Unstable Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models", arXiv 2410.08074. All weights of the
UNet, the ordinary denoising loss, no word and no picture of any erased concept:

    L = || goal - f(x_t, t, c) ||^2,   c empty for a tenth of the captions, as guidance needs it

AdamW at a constant 5e-5, between the 1e-5 usual for Stable Diffusion's 860 M weights and the 2e-4 that the embedded model's 6.5 M
were trained at, and batch 16: what a person would take who adapts a model of this size. Data: the emoji world for the embedded model;
for others `data`, a folder or captions, or else the anchors' prompts drawn by the model itself. The result is a model folder that torch
draws with, in fp32: what an int8 file loses by rounding, its owner has lost before tuning it.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from edgesafe import checkpoint, model
from edgesafe.concepts import Concept, carriers
from edgesafe.data import Pictures, encode_pixels, generator, read_captions, read_metadata, read_picture
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

from .. import sources
from ..leakage import Cell
from ..sources import Source
from . import concept_pictures, learned
from .probe import Probe, Target, there

KEEP_EVERY = 50  # steps


@dataclass(frozen=True)
class FineTune(Probe):
    steps: int = 100
    rate: float = 5e-5  # AdamW's, constant after warm-up
    warmup: int = 10  # steps
    decay: float = 1e-2  # AdamW's
    batch: int = 16
    pictures: int = 512  # at most
    empty_captions: float = 0.1  # share
    data: str = ""  # "": as the model suggests; "emoji", a folder with metadata.jsonl or a .txt file of captions

    name: ClassVar[str] = "fine-tune"
    attacker: ClassVar[str] = "files"
    needs: ClassVar[frozenset[str]] = frozenset({"twin"})
    control_asked: ClassVar[str] = "plain"  # the un-erased model needs no tuning to draw the concept
    what: ClassVar[str] = "the plain prompts, after a short training of the torch weights on data without the concept"
    source_of_method: ClassVar[str] = "Suriyakumar et al., arXiv 2410.08074"

    def model(self, target: Target, cell: Cell) -> tuple[Source, str]:
        folder = learned.place(self, target, f"fine-tuned-{self.steps}-steps")
        if not folder.is_dir():
            self._tune(target, folder)
        return sources.describe(folder), "torch"

    def found(self, target: Target, cell: Cell) -> str:
        """One sentence on what was done."""
        return f"{self.steps} steps of AdamW at {self.rate:g}, batch {self.batch}, on pictures without any erased concept"

    def _tune(self, target: Target, folder: Path) -> None:
        net = model.load(there(target.twin).place)
        pictures = self.gather(target, net)
        saved = folder.with_name(folder.name + ".safetensors")
        said = f"{self.name}: step {{}} of {self.steps}"
        self.tune(net, pictures, target.seed, saved, lambda step: target.progress(said.format(step)))
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        model.save(net, part, torch.float32)
        part.rename(folder)
        saved.unlink(missing_ok=True)

    def tune(self, net: TextToImage, pictures: Pictures, seed: int, saved: Path, progress: Callable[[int], None]) -> None:
        """Move net.unet; `saved` keeps weights and optimizer on the way, for a stopped run. A step's draws come from its number."""
        unet = net.unet.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(unet.parameters(), self.rate, weight_decay=self.decay)
        done = _restore(unet, optimizer, saved)
        error, last, texts = concept_pictures.noise_error(net), len(model.alphas_cumprod(net)), {}
        for step in range(done, self.steps):
            progress(step)
            draws = generator(seed, self.name, step)
            batch = pictures.draw(torch.randint(len(pictures.captions), (self.batch,), generator=draws), draws)
            emptied = torch.rand(self.batch, generator=draws) < self.empty_captions
            asked = ["" if drop else caption for drop, caption in zip(emptied.tolist(), batch.captions, strict=True)]
            for caption in asked:
                if caption not in texts:
                    texts[caption] = model.conditions(net, [caption])
            given = tuple(torch.cat(column) for column in zip(*(texts[caption] for caption in asked), strict=True))
            timesteps = torch.randint(last, (self.batch,), generator=draws)
            noise = torch.randn(batch.latents.shape, generator=draws)
            optimizer.param_groups[0]["lr"] = self.rate * min(1, (step + 1) / max(1, self.warmup))
            optimizer.zero_grad(set_to_none=True)
            error(batch.latents, given, timesteps, noise).mean().backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % KEEP_EVERY == 0 and step + 1 < self.steps:
                groups = {"unet": unet.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
                checkpoint.save(saved, groups, {"step": step + 1})
        unet.eval().requires_grad_(False)

    def gather(self, target: Target, net: TextToImage) -> Pictures:
        """Encoded pictures whose captions carry no erased concept."""
        twin, scale = there(target.twin), net.vae.config.scaling_factor
        data = self.data or ("emoji" if _embedded(twin) or _embedded(target.source) else "")
        target.progress(f"{self.name}: gathering pictures without the concept")
        if data == "emoji":
            return of_world(target.concepts, net, self.pictures, target.seed)
        if data and Path(data).expanduser().is_dir():
            rows = clean_rows(read_metadata(Path(data).expanduser()), target.concepts, data)[: self.pictures]
            mean, std = encode_pixels(net, torch.stack([read_picture(path, net.picture_size) for path, _ in rows]))
            return Pictures(mean, std, [caption for _, caption in rows], scale)
        if data and not Path(data).expanduser().is_file():
            raise EdgeSafeError(f"fine-tune.data {data!r}: needs 'emoji', a folder with metadata.jsonl or a .txt file of captions")
        asked = read_captions(Path(data).expanduser()) if data else [a for c in target.concepts for _, a in c.pairs]
        captions = [caption for _, caption in clean_rows([(Path(), c) for c in dict.fromkeys(asked) if c], target.concepts, data)]
        captions = [captions[i % len(captions)] for i in range(min(self.pictures, 4 * len(captions)))]
        seeds = range(target.seed + 10**6, target.seed + 10**6 + len(captions))  # away from the questions' seeds
        mean, std = encode_pixels(net, concept_pictures.drawn(twin, captions, list(seeds), target.drawing, target.threads))
        return Pictures(mean, std * 0, captions, scale)


def of_world(concepts: Sequence[Concept], net: TextToImage, count: int, seed: int) -> Pictures:
    """`count` pictures of the emoji world that show none of the concepts, whatever their captions call them."""
    world, draws = World(), generator(seed, "fine-tune")
    erased, names = {c.name for c in concepts}, [s.name for s in world.subjects]
    parts: list[Tensor] = []
    captions: list[str] = []
    while len(captions) < count:
        drawn = world.sample(64, draws)
        shown = zip(drawn.captions, drawn.subjects.tolist(), drawn.styles.tolist(), strict=True)
        rows = [i for i, (text, s, t) in enumerate(shown) if not carriers(text, concepts) and not erased & {names[s], world.styles[t]}]
        parts.append(drawn.pixels[rows])
        captions += [drawn.captions[i] for i in rows]
        if not captions:
            raise EdgeSafeError("fine-tune: every picture of the emoji world shows an erased concept, nothing benign is left")
    mean, std = encode_pixels(net, torch.cat(parts)[:count])
    return Pictures(mean, std, captions[:count], net.vae.config.scaling_factor)


def clean_rows(rows: Sequence[tuple[Path, str]], concepts: Sequence[Concept], data: str) -> list[tuple[Path, str]]:
    clean = [row for row in rows if not carriers(row[1], concepts)]
    if not clean:
        named = f"fine-tune.data {data}" if data else "fine-tune: the anchors' prompts"
        raise EdgeSafeError(f"{named}: every caption carries an erased concept. Name data without it: fine-tune.data=FOLDER or FILE.txt")
    return clean


def _embedded(source: Source) -> bool:
    named = source.manifest.base_model.get("id") if source.manifest else source.place
    return str(named).startswith("emoji:")


def _restore(unet: torch.nn.Module, optimizer: torch.optim.Optimizer, saved: Path) -> int:
    """The steps that were done before."""
    if not saved.is_file():
        return 0
    groups, facts = checkpoint.load(saved)
    unet.load_state_dict(groups["unet"])
    checkpoint.restore_optimizer(optimizer, groups["optimizer"])
    return facts["step"]
