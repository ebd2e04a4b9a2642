"""Train the emoji world's judge: `python -m edgesafe.emoji.judge_training --minutes 12`.

It learns from renders of all pairs (as drawn, or mildly worse), VAE reconstructions, and broken pictures (`broken.py`),
whose subject is "none". Loss: cross-entropy of the subject + 0.5 cross-entropy of the style, label smoothing 0.05. Writes
`judge.safetensors` (fp16) and `judge.json`, its own errors on fresh pictures, which every report prints beside its claims.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Generator, Tensor

from .. import checkpoint
from ..metrics.wilson import Rate
from . import autoencoder
from .broken import BROKEN, LATENT_BROKEN, NO_STYLE, Labelled, broken, join, latent_broken, mild, renders, through_vae
from .budget import Budget, faster_dtype
from .judge import EMBEDDING, FACTS, WEIGHTS, Classes, Judge, load
from .world import World

BATCH, PEAK_RATE, SMOOTHING, STYLE_WEIGHT = 128, 2e-3, 0.05, 0.5
REPLAYS = 6  # how often a bank is seen, mirrored at random, before the next is drawn
SHARES = {"render": 0.45, "vae": 0.30, "broken": 0.25}  # of the bank
LATENT_NOISE = 0.2  # at most, of the latents' deviation, in reconstructions that keep their class
SEED, TEST_SEED = 3, 2 * 10**6


def bank(world: World, vae: AutoencoderKL, n: int, generator: Generator) -> Labelled:
    """`n` pictures of all three kinds; half of the renders and reconstructions mildly worse."""
    drawn = renders(world, int(n * SHARES["render"]), generator)
    rebuilt = renders(world, int(n * SHARES["vae"]), generator)
    rebuilt = Labelled(through_vae(vae, rebuilt.pixels, generator, LATENT_NOISE), rebuilt.subjects, rebuilt.styles)
    clear = join([drawn, rebuilt])
    worse = torch.rand(len(clear.pixels), generator=generator) < 0.5
    clear.pixels[worse] = mild(clear.pixels[worse], generator)
    each = -(-int(n * SHARES["broken"]) // (len(BROKEN) + len(LATENT_BROKEN)))
    parts = [broken(kind, world, each, generator) for kind in BROKEN]
    parts += [latent_broken(kind, vae, world, each, generator) for kind in LATENT_BROKEN]
    return join([clear, *parts])


def loss(judge: Judge, pixels: Tensor, subjects: Tensor, styles: Tensor) -> Tensor:
    """Each a mean over the pictures that have such a label; 0 for the styles of a batch without any."""
    subject, style, _ = judge(pixels)
    of_style = F.cross_entropy(style, styles, ignore_index=NO_STYLE, label_smoothing=SMOOTHING, reduction="sum")
    count = (styles != NO_STYLE).sum().clamp_min(1)
    return F.cross_entropy(subject, subjects, label_smoothing=SMOOTHING) + STYLE_WEIGHT * of_style / count


def measure(judge: Judge, world: World, vae: AutoencoderKL, count: int = 1024) -> dict[str, dict]:
    """Rates on fresh pictures: trained and held-out pairs as drawn, mildly worse and through the VAE; broken pictures, kind by kind."""
    generator = Generator().manual_seed(TEST_SEED)
    figures: dict[str, dict] = {}
    for name, pairs in {"trained": world.pairs(heldout=False), "heldout": world.pairs(heldout=True)}.items():
        pairs = pairs.repeat(-(-count // len(pairs)), 1)[:count]
        drawn = world.render(pairs[:, 0], pairs[:, 1], generator)
        rebuilt = through_vae(vae, drawn, generator)
        for what, pixels in {"renders": drawn, "mildly worse": mild(drawn, generator), "reconstructions": rebuilt}.items():
            scores = judge.score(pixels)
            figures[f"{name} {what}: subject right"] = Rate.of(scores.subject == pairs[:, 0]).to_dict()
            figures[f"{name} {what}: style right"] = Rate.of(scores.style == pairs[:, 1]).to_dict()
            figures[f"{name} {what}: called none"] = Rate.of(scores.none).to_dict()
    each = max(1, count // 8)
    parts = {kind: broken(kind, world, each, generator) for kind in BROKEN}
    parts |= {kind: latent_broken(kind, vae, world, each, generator) for kind in LATENT_BROKEN}
    for kind, part in parts.items():
        figures[f"broken, {kind}: called none"] = Rate.of(judge.score(part.pixels).none).to_dict()
    return figures


def train(world: World, vae: AutoencoderKL, folder: Path, minutes: float, size: int, seed: int = SEED) -> tuple[Judge, int]:
    """Train (or go on training) in `folder`; returns the judge and its steps."""
    torch.manual_seed(seed)
    judge = Judge(Classes(tuple(s.name for s in world.subjects), world.styles))
    optimizer = torch.optim.AdamW(judge.parameters(), PEAK_RATE, weight_decay=0.02, fused=True)
    budget, step, path = Budget(minutes), 0, folder / "judge.safetensors"
    if path.exists():
        groups, meta = checkpoint.load(path)
        judge.load_state_dict(groups["judge"])
        checkpoint.restore_optimizer(optimizer, groups.get("optimizer", {}))
        budget, step = Budget(minutes, meta["spent_s"]), meta["step"]

    def keep() -> None:
        groups = {"judge": judge.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
        checkpoint.save(path, groups, {"step": step, "spent_s": budget.spent_s})

    with Progress() as bar:
        task = bar.add_task("judge", total=1.0)
        while budget.spent_s < 60 * minutes:
            generator = Generator().manual_seed(seed * 10**6 + step)
            data = bank(world, vae, size, generator)
            budget.start()
            for rows in [rows for _ in range(REPLAYS) for rows in torch.randperm(len(data.pixels), generator=generator).split(BATCH)]:
                progress = budget.tick()
                for group in optimizer.param_groups:
                    group["lr"] = budget.rate(step, PEAK_RATE, warmup=200)
                mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
                pixels = torch.where(mirrored, data.pixels[rows].flip(3), data.pixels[rows])
                pixels = pixels.contiguous(memory_format=torch.channels_last)  # faster on CPUs
                value = loss(judge.train(), pixels, data.subjects[rows], data.styles[rows])
                value.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                bar.update(task, completed=progress, description=f"judge step {step} loss {value.detach():.3f}")
                if progress >= 1:
                    break
            keep()
            print(f"judge step {step} {budget.spent_s / 60:.1f} min, loss {value.detach():.3f}", flush=True)
    return judge.eval().requires_grad_(False), step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="training time over all sessions, without drawing the banks")
    parser.add_argument("--bank", type=int, default=12_000, help="pictures drawn at a time")
    packaged, trained = WEIGHTS.with_name("teacher") / "vae", Path("work/teacher/pipeline/vae")
    parser.add_argument("--vae", type=Path, default=packaged if packaged.is_dir() else trained, help="the teacher's")
    parser.add_argument("--out", type=Path, default=Path("work/judge"))
    args = parser.parse_args()
    if not args.vae.is_dir():
        parser.error(f"--vae {args.vae}: no such folder; `python -m edgesafe.emoji.teacher` makes one")
    world = World()
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32).eval().requires_grad_(False)
    if vae.config.latent_channels != autoencoder.LATENT_CHANNELS:
        parser.error(f"--vae {args.vae}: {vae.config.latent_channels} latent channels, the emoji world's has {autoencoder.LATENT_CHANNELS}")
    pixels = world.sample(32, Generator().manual_seed(0)).pixels
    copies = {dtype: copy.deepcopy(vae).to(dtype or torch.float32) for dtype in (None, torch.bfloat16)}

    def rebuild(dtype: torch.dtype | None) -> None:
        through_vae(copies[dtype], pixels, Generator())

    fast = copies[faster_dtype(rebuild)]
    print(f"VAE in {fast.dtype} for the banks", flush=True)
    judge, steps = train(world, fast, args.out, args.minutes, args.bank)
    weights = {name: value.half() if value.is_floating_point() else value for name, value in judge.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, WEIGHTS)
    WEIGHTS.chmod(0o644)  # save_file lets nobody else read
    facts = {
        "subjects": judge.classes.subjects,
        "styles": judge.classes.styles,
        "widths": judge.widths,
        "embedding": EMBEDDING,
        "parameters": sum(p.numel() for p in judge.parameters()),
        "training": {"steps": steps, "batch": BATCH, "minutes": args.minutes, "seed": SEED},
        "pairs_seen": "all, the held-out ones too; every picture measured here was drawn afresh",
        "test_seed": TEST_SEED,
    }
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")
    figures = measure(load(), world, vae)  # as it was written, in fp16
    FACTS.write_text(json.dumps(facts | {"errors": figures}, indent=1) + "\n")
    for name, figure in figures.items():
        print(f"{name}: {Rate(figure['numerator'], figure['denominator'])}")


if __name__ == "__main__":
    main()
