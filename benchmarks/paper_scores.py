"""The paper's columns on the emoji world, from what its judge sees; each figure with the draws of a bootstrap over prompts.

    alignment      mean of the judge's probability of the concept's class (of any class of a group)          the paper's CLIP
    similarity     s = mean cos(e_i, d_i), e_i the judge's embedding of the row's i-th picture, d_i of the distilled model's of the same
                   prompt and seed                                                                            the paper's CSD
    normalised     (s - s_anchor) / (s_distilled - s_anchor), s_anchor of the distilled model's pictures of the anchor's prompts, same
                   seeds; s_distilled is 1. 0: as unlike the concept as its anchor is; 1: nothing was erased
    to renders     the same with d_i real renders of what was asked, where the distilled model is not compared with itself
    CP             share of prompts at which the concept's probability is lower than in the distilled model's picture
    removed        of the pictures in which the distilled model shows the concept, those that show it no more and are not broken
    kept           pictures, not broken, with the subject and the style that were asked for
    FID, KID       between embeddings of kept prompts' pictures and renders of the same subjects and styles

N pictures (clusters: their prompts), embeddings (N, D), draws (R,). A prompt is drawn a Poisson number of times, the same for every row
and every topic: differences and ratios of figures are paired, and topics that keep the same prompts do not count as independent. FID is
biased upward, and more so in a resample, in which prompts repeat: its draws are scaled to have the estimate as their median (R = 200).
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from edgesafe.concepts import Concept
from edgesafe.emoji.judge import Judge
from edgesafe.emoji.world import World
from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import cubic, kernel_distance

from .leakage import Question
from .paper_plan import ACCURACY_LIMIT, BROKEN_LIMIT, FID_LIMIT, PENALTY

DRAWS, FID_DRAWS = 2000, 200
RENDERS = 4  # of each prompt
KEPT = ("neighbours", "transfer", "rest")  # sets of prompts without the concept


@dataclass(frozen=True)
class Seen:
    """What the judge sees in N pictures of N questions."""

    embedding: Tensor  # (N, D)
    concept: Tensor  # (N,) probability of the concept's class
    asked: Tensor  # (N,) probability of the subject times that of the style
    shown: Tensor  # (N,) bool: the concept's class is the likeliest
    subject: Tensor  # (N,) bool: the one asked for
    style: Tensor  # (N,) bool
    broken: Tensor  # (N,) bool

    @property
    def right(self) -> Tensor:
        return self.subject & self.style & ~self.broken

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def joined(cls, parts: Sequence["Seen"]) -> "Seen":
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def see(judge: Judge, pictures: np.ndarray, questions: Sequence[Question], concepts: Sequence[Concept]) -> Seen:
    """pictures uint8 (N, H, W, 3)"""
    scores = judge.score(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    subjects, styles = judge.classes.subjects, judge.classes.styles
    subject, style = (
        torch.tensor([names.index(getattr(q, what)) for q in questions], dtype=torch.long)
        for names, what in ((subjects, "subject"), (styles, "style"))
    )
    of_style = concepts[0].kind == "style"
    known, probabilities = (styles, scores.style_probs) if of_style else (subjects, scores.subject_probs)
    columns = torch.tensor([known.index(concept.name) for concept in concepts])
    likeliest = scores.style if of_style else scores.subject
    rows = torch.arange(len(questions))
    return Seen(
        scores.embedding,
        probabilities[:, columns].sum(1),
        scores.subject_probs[rows, subject] * scores.style_probs[rows, style],
        torch.isin(likeliest, columns),
        scores.subject == subject,
        scores.style == style,
        scores.none,
    )


def renders(judge: Judge, world: World, questions: Sequence[Question], seed: int = 0) -> Tensor:
    """(RENDERS, N, D): embeddings of real pictures of what was asked."""
    subjects, styles = [s.name for s in world.subjects], list(world.styles)
    pairs = torch.tensor([[subjects.index(q.subject), styles.index(q.style)] for q in questions])
    draws = Generator().manual_seed(seed)
    return torch.stack([judge.score(world.render(pairs[:, 0], pairs[:, 1], draws)).embedding for _ in range(RENDERS)])


@dataclass(frozen=True)
class Figure:
    """An estimate and its bootstrap draws; `hits` of `total` where it is a share of pictures."""

    value: float
    draws: np.ndarray  # (R,)
    hits: int | None = None
    total: int | None = None

    @property
    def interval(self) -> tuple[float, float]:
        if not np.isfinite(self.draws).any():
            return math.nan, math.nan
        low, high = np.nanquantile(self.draws, (0.025, 0.975))
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        def number(x: float) -> float | None:
            return round(x, 4) if math.isfinite(x) else None

        low, high = self.interval
        return {"value": number(self.value), "low95": number(low), "high95": number(high), "hits": self.hits, "of": self.total}


def combine(rule: Callable[..., Any], *figures: Figure) -> Figure:
    """A figure made of others, draw by draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return Figure(float(rule(*(np.float64(f.value) for f in figures))), rule(*(f.draws for f in figures)))


def average(figures: Sequence[Figure]) -> Figure:
    """Over topics, each with the same weight; counts are added."""
    found = combine(lambda *columns: sum(columns) / len(columns), *figures)
    counted = all(f.hits is not None for f in figures)
    return Figure(found.value, found.draws, *((sum(f.hits for f in figures), sum(f.total for f in figures)) if counted else ()))  # type: ignore[misc]


def resamples(clusters: Sequence[str]) -> np.ndarray:
    """(R, N): how often each picture is drawn, whole clusters at a time: Poisson bootstrap, from a seed of the cluster's own."""
    return np.stack([_times(cluster) for cluster in clusters], 1)


@cache
def _times(cluster: str) -> np.ndarray:
    """(R,)"""
    return np.random.default_rng(zlib.crc32(cluster.encode())).poisson(1.0, DRAWS).astype(float)


def share(flags: Tensor, times: np.ndarray, among: Tensor | None = None) -> Figure:
    """Mean of values (N,), or of those where `among` is true."""
    values, mask = flags.double().numpy(), np.ones(len(flags)) if among is None else among.double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        value, draws = np.float64(values @ mask) / mask.sum(), times @ (values * mask) / (times @ mask)
    counts = (int(values @ mask), int(mask.sum())) if flags.dtype == torch.bool else ()
    return Figure(float(value), draws, *counts)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, D) twice -> (..., N)"""
    return torch.cosine_similarity(a, b, dim=-1)


def normalised(similarity: Figure, distilled: Figure, anchor: Figure) -> Figure:
    """(s - s_anchor) / (s_distilled - s_anchor)"""
    return combine(lambda s, d, a: (s - a) / (d - a), similarity, distilled, anchor)


def centred(value: float, draws: np.ndarray) -> Figure:
    """Draws of a positive, biased estimate, scaled to have it as their median."""
    found = draws[np.isfinite(draws)]
    middle = float(np.median(found)) if len(found) else 0.0
    return Figure(value, draws * value / middle if middle else draws)


def fid(row: Tensor, real: Tensor, times: np.ndarray) -> Figure:
    """Of embeddings (N, D) and those of renders (M, D)."""
    found = []
    for counts in times[:FID_DRAWS]:
        rows = torch.from_numpy(np.repeat(np.arange(len(row)), counts.astype(int)))
        found.append(frechet_distance(row[rows], real) if len(rows) > 1 else math.nan)
    return centred(frechet_distance(row, real), np.array(found))


def kid(row: Tensor, real: Tensor, times: np.ndarray) -> Figure:
    """As `fid`; pairs of a picture with its own copy in a resample are left out, so that its draws are unbiased too."""
    a, b = row.double(), real.double()
    within, across = cubic(a, a).numpy(), cubic(a, b).mean(1).numpy()
    constant = kernel_distance(a, b) - _mmd(np.ones((1, len(a))), within, across)[0]
    return Figure(kernel_distance(a, b), constant + _mmd(times, within, across))


def _mmd(times: np.ndarray, within: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The two terms of KID that depend on the row: times (R, N), kernels (N, N), (N,) -> (R,)"""
    n, squares = times.sum(1), times**2
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of one picture has no pairs
        return ((times @ within * times).sum(1) - squares @ np.diag(within)) / (n**2 - squares.sum(1)) - 2 * times @ across / n


Sets = Mapping[str, Seen]  # set of prompts -> what was seen
Asked = Mapping[str, Sequence[Question]]


@dataclass(frozen=True)
class Yardstick:
    """What a row's pictures of one topic are measured by."""

    asked: Asked
    distilled: Sets  # also "anchor"
    real: Mapping[str, Tensor]  # set -> (RENDERS, N, D)

    def times(self, *sets: str) -> np.ndarray:
        return resamples([q.origin for name in sets for q in self.asked[name]])


def erased(yard: Yardstick, row: Seen) -> dict[str, Figure]:
    """The columns of the concept's own prompts."""
    times, before, anchor = yard.times("concept"), yard.distilled["concept"], yard.distilled["anchor"]
    s, s_anchor = (share(cosines(x.embedding, before.embedding), times) for x in (row, anchor))
    s_distilled = share(cosines(before.embedding, before.embedding), times)
    r, r_distilled, r_anchor = (
        share(cosines(x.embedding, yard.real["concept"]).mean(0), times) for x in (row, before, anchor)
    )
    return {
        "alignment": share(row.concept, times),
        "similarity": s,
        "similarity_normalised": normalised(s, s_distilled, s_anchor),
        "similarity_to_renders": r,
        "similarity_to_renders_normalised": normalised(r, r_distilled, r_anchor),
        "cp": share(row.concept < before.concept, times),
        "removed": share(~row.shown & ~row.broken, times, before.shown & ~before.broken),
        "broken": share(row.broken, times),
        "broken_more": share(row.broken.double() - before.broken.double(), times),
    }


def kept(yard: Yardstick, row: Sets, intervals: bool = True) -> dict[str, Figure]:
    """The columns of all other prompts; without `intervals` the slow one, FID, has one draw."""
    mine, theirs = (Seen.joined([sets[name] for name in KEPT]) for sets in (row, yard.distilled))
    times, beside, held = yard.times(*KEPT), yard.times("neighbours"), yard.times("transfer")
    transfer, before = row["transfer"], yard.distilled["transfer"]
    found = {
        "neighbours": share(row["neighbours"].right, beside),
        "broken_kept": share(mine.broken, times),
        "alignment_kept": share(mine.asked, times),
        "accuracy": share(mine.right, times),
        "accuracy_loss": share(theirs.right.double() - mine.right.double(), times),
        "transfer": share(transfer.right, held),
        "transfer_style": share(transfer.style & ~transfer.broken, held),
        "transfer_loss": share(before.right.double() - transfer.right.double(), held),
    }
    real = torch.cat([yard.real[name] for name in KEPT], 1).flatten(0, 1)
    return found | {"fid": fid(mine.embedding, real, times[: FID_DRAWS if intervals else 1]), "kid": kid(mine.embedding, real, times)}


Verdict = tuple[float, float, float, float]  # floor-normalised similarity, FID ratio, accuracy lost, more of the concept's pictures broken


def loss(similarity: float, fid_ratio: float, accuracy_loss: float, broken_more: float) -> tuple[bool, float, float]:
    """What the search minimises: similarity among candidates within all limits; else, after all of those, a penalised sum.

    max(0, similarity) + PENALTY (max(0, FID ratio - FID_LIMIT) + max(0, accuracy loss - ACCURACY_LIMIT) + max(0, broken - BROKEN_LIMIT))

    Under 0 a picture is less like the concept than its anchor is, which broken pictures are first of all; ties go by FID.
    """
    over = sum(max(0.0, x) for x in (fid_ratio - FID_LIMIT, accuracy_loss - ACCURACY_LIMIT, broken_more - BROKEN_LIMIT))
    return over > 0, max(0.0, similarity) + PENALTY * over, fid_ratio


def best(found: Mapping[str, Sequence[Verdict]], count: int) -> list[str]:
    """Successive halving: the `count` names whose means over topics have the lowest loss."""
    means = {name: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return sorted(means, key=lambda name: loss(*means[name]))[:count]
