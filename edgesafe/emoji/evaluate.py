"""How good are the judge, the VAE and a model of the emoji world? `python -m edgesafe.emoji.evaluate [--model emoji:teacher]`.

Fixed seeds; every rate with its numerator, denominator and 95 % Wilson interval. Writes `evaluate.json`, `generated.png` and
`renders.png`. `--contact 120` and `--agreement labels.csv` check the judge by eye instead (`sheets.py`, `agreement.py`).
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor

from .. import model, sampling
from ..errors import EdgeSafeError
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import kernel_distance
from ..metrics.wilson import Rate
from ..model import TextToImage
from . import agreement, autoencoder, scorecard, sheets
from . import judge as judging
from .judge import Judge
from .world import SIZE, World, prompt

SEED = 3 * 10**6  # of renders and of the order of pairs; the VAE and the judge report on 1 and 2 million
RENDERS, VAE_RENDERS, BATCH = 1024, 256, 32
SHEET_SUBJECTS = 12


@dataclass(frozen=True)
class Evaluation:
    model: str = "emoji:teacher"
    pictures: int = 512  # of trained pairs; half as many of held-out pairs
    guidance: float = sampling.DEFAULT_GUIDANCE
    out: Path = Path("work/evaluate")

    def __post_init__(self) -> None:
        if self.pictures < 4:
            raise EdgeSafeError(f"--pictures {self.pictures}: at least 4 are needed")


def load_judge() -> Judge:
    if not judging.WEIGHTS.is_file() or not judging.FACTS.is_file():
        raise EdgeSafeError(f"no judge at {judging.WEIGHTS}: train it with python -m edgesafe.emoji.judge_training")
    return judging.load()


def load_model(source: str) -> TextToImage:
    net = model.load(source)
    if net.picture_size != SIZE:
        raise EdgeSafeError(f"--model {source}: it draws {net.picture_size} px, the judge sees {SIZE} px pictures of the emoji world")
    return net


def world_of(judge: Judge) -> World:
    """The world that the judge was trained in."""
    world = World(len(judge.classes.subjects), judge.classes.styles)
    if tuple(s.name for s in world.subjects) != judge.classes.subjects:
        raise EdgeSafeError("the judge's subjects are not the atlas's: train it again with python -m edgesafe.emoji.judge_training")
    return world


def evenly(pairs: Tensor, n: int) -> Tensor:
    """(n, 2): the pairs (P, 2) in a fixed random order, again and again, so that their counts differ by one at most."""
    order = torch.randperm(len(pairs), generator=Generator().manual_seed(SEED))
    return pairs[order].repeat(-(-n // len(pairs)), 1)[:n]


def prompts(world: World, pairs: Tensor) -> list[str]:
    return [prompt(world.subjects[s].name, world.styles[t]) for s, t in pairs.tolist()]


@torch.no_grad()
def draw(net: TextToImage, asked: list[str], seeds: list[int], guidance: float = sampling.DEFAULT_GUIDANCE) -> Tensor:
    """(N, 3, 64, 64) in [0, 1]: 25 DDIM steps with classifier-free guidance, each picture from its own seed."""
    empty, parts = model.encode(net, [""]), []
    for start in track(range(0, len(asked), BATCH), f"drawing {len(asked)} pictures", console=Console(stderr=True)):
        rows = slice(start, start + BATCH)
        z = sampling.sample(
            lambda x, t, states: net.unet(x, t, states).sample,
            model.encode(net, asked[rows]),
            empty,
            sampling.starting_latents(seeds[rows], net.latent_shape),
            sampling.scheduler("ddim", net.scheduler_config),
            guidance=guidance,
        )
        parts.append((net.vae.decode(z / net.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


def rates(judge: Judge, pixels: Tensor, pairs: Tensor) -> dict[str, dict]:
    """The judge's verdicts on pictures (N, 3, 64, 64) of the pairs (N, 2) that were asked for."""
    scores = judge.score(pixels)
    subject, style = scores.subject == pairs[:, 0], scores.style == pairs[:, 1]
    masks = {"subject right": subject, "style right": style, "both right": subject & style, "called none": scores.none}
    return {name: Rate.of(mask).to_dict() for name, mask in masks.items()}


def twins(pairs: Tensor) -> Tensor:
    """(K, 2): the rows of the first two pictures of each pair that was asked for more than once."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, pair in enumerate(pairs.tolist()):
        rows.setdefault(tuple(pair), []).append(row)
    return torch.tensor([found[:2] for found in rows.values() if len(found) > 1], dtype=torch.long).view(-1, 2)


def spread(pixels: Tensor, embedding: Tensor, rows: Tensor) -> dict[str, Any]:
    """How far apart the two pictures of a caption are, rows (K, 2); and, for scale, pictures of different captions."""
    if len(rows) < 2:
        return {"captions": len(rows), "pixel_difference": None, "embedding_distance": None, "embedding_distance_of_other_captions": None}
    a, b = rows.T
    return {
        "captions": len(rows),
        "pixel_difference": round(float((pixels[a] - pixels[b]).abs().mean()), 4),  # of a range of 1
        "embedding_distance": round(float((embedding[a] - embedding[b]).norm(dim=1).mean()), 4),
        "embedding_distance_of_other_captions": round(float((embedding[a] - embedding[b.roll(1)]).norm(dim=1).mean()), 4),
    }


def by_style(world: World, judge: Judge, pixels: Tensor, pairs: Tensor) -> dict[str, dict]:
    return {name: rates(judge, pixels[rows], pairs[rows]) for t, name in enumerate(world.styles) if (rows := pairs[:, 1] == t).any()}


def worst_subjects(world: World, judge: Judge, pixels: Tensor, pairs: Tensor, n: int = 10) -> dict[str, dict]:
    """The subjects that are drawn wrong most often, and what the judge takes them for."""
    names, found = [*(s.name for s in world.subjects), sheets.NONE], judge.score(pixels).subject
    table: dict[str, dict] = {}
    for s in pairs[:, 0].unique().tolist():
        seen = found[pairs[:, 0] == s]
        mistaken = Counter(names[i] for i in seen.tolist() if i != s)
        table[names[s]] = Rate.of(seen == s).to_dict() | {"taken_for": dict(mistaken.most_common(3))}
    return dict(sorted(table.items(), key=lambda row: row[1]["rate"])[:n])


def evaluate(config: Evaluation, judge: Judge, net: TextToImage) -> dict[str, Any]:
    """Everything measured, ready for JSON; writes the two contact sheets."""
    world, generator = world_of(judge), Generator().manual_seed(SEED)
    trained, heldout = world.pairs(heldout=False), world.pairs(heldout=True)
    real, fresh = evenly(heldout, RENDERS), world.sample(VAE_RENDERS, generator).pixels
    groups = {"judge, renders of held-out pairs": rates(judge, world.render(real[:, 0], real[:, 1], generator), real)}

    asked = {"trained": evenly(trained, config.pictures), "held-out": evenly(heldout, config.pictures // 2)}
    counts, pairs = {name: len(rows) for name, rows in asked.items()}, torch.cat([*asked.values()])
    pixels = draw(net, prompts(world, pairs), list(range(len(pairs))), config.guidance)
    for (name, rows), pictures in zip(asked.items(), pixels.split([*counts.values()]), strict=True):
        groups[f"model, {name} pairs"] = rates(judge, pictures, rows)
    figures: dict[str, Any] = {f"{name}: {kind}": rate for name, row in groups.items() for kind, rate in row.items()}
    figures["VAE, fresh renders: PSNR in dB"] = round(autoencoder.psnr_db(net.vae, fresh * 2 - 1), 2)

    rendered, again = (world.render(pairs[:, 0], pairs[:, 1], generator) for _ in range(2))
    of_model, of_renders, reference = (judge.score(x).embedding for x in (pixels, rendered, again))
    shown = sheets.shown_pairs(world, SHEET_SUBJECTS)
    grids = {
        "generated": draw(net, prompts(world, shown), list(range(len(shown))), config.guidance),
        "renders": world.render(shown[:, 0], shown[:, 1], generator),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    for name, pictures in grids.items():
        sheets.grid(world, shown, pictures).save(config.out / f"{name}.png")
    return {
        "model": config.model,
        "model_sha256": sheets.weights_sha256(net),
        "judge_sha256": judging.sha256(),
        "world": {"subjects": len(world.subjects), "styles": world.styles, "trained_pairs": len(trained), "heldout_pairs": len(heldout)},
        "sampling": {"sampler": "ddim", "steps": sampling.DEFAULT_STEPS, "guidance": config.guidance, "first_seed": 0, "pictures": counts},
        "figures": figures,
        "verdicts": scorecard.verdicts(figures),
        "by_style": by_style(world, judge, pixels, pairs),
        "worst_subjects": worst_subjects(world, judge, pixels, pairs),
        "two_pictures_of_one_caption": {
            "generated": spread(pixels, of_model, twins(pairs)),
            "renders": spread(rendered, of_renders, twins(pairs)),
        },
        "distance_to_renders": {
            name: {"fid": round(frechet_distance(x, reference), 4), "kid": round(kernel_distance(x, reference), 4)}
            for name, x in {"generated": of_model, "other renders": of_renders}.items()
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Evaluation.model, help="emoji:teacher, emoji:student, a run or a pipeline folder")
    parser.add_argument("--pictures", type=int, default=Evaluation.pictures, help="of trained pairs; half as many of held-out pairs")
    parser.add_argument("--guidance", type=float, default=Evaluation.guidance)
    parser.add_argument("--out", type=Path, help="default work/evaluate, with --contact work/contact, with --agreement the CSV's folder")
    parser.add_argument("--contact", type=int, metavar="N", help="write N unlabelled pictures as numbered sheets, and key.json, instead")
    parser.add_argument(
        "--agreement", type=Path, metavar="CSV", help="compare labels of those sheets (number,subject,style) with the judge"
    )
    args = parser.parse_args(arguments)
    console = Console()
    try:
        judge = load_judge()
        world = world_of(judge)
        if args.agreement:
            agreement.show(agreement.compare(world, judge, args.agreement, args.out), console)
        elif args.contact is not None:
            out, asked = args.out or Path("work/contact"), sheets.mixed_pairs(world, args.contact)
            sheets.check_free(out)
            net, seeds = load_model(args.model), list(range(sheets.FIRST_SEED, sheets.FIRST_SEED + len(asked)))
            sheets.write(out, world, judge, net, asked, draw(net, prompts(world, asked), seeds, args.guidance))
            console.print(f"sheets and key: {out}")
        else:
            config = Evaluation(args.model, args.pictures, args.guidance, args.out or Evaluation.out)
            report = evaluate(config, judge, load_model(config.model))
            (config.out / "evaluate.json").write_text(json.dumps(report, indent=1) + "\n")
            scorecard.show(report, console)
            console.print(f"report and contact sheets: {config.out}")
    except EdgeSafeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
