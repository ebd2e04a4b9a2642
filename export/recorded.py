"""A saved Core ML UNet, whole or in chunks, run by edgesafe.mil on what was recorded from torch, with some weights replaced."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgesafe import mil
from edgesafe.families import StableDiffusionXL

from .parity import compare

CHUNKS = ("UnetChunk1.mlpackage", "UnetChunk2.mlpackage")
Call = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # (sample, timestep, *conditions as in families.py), (prediction,)
Rows = tuple[Tensor, ...]  # (N, c, h, w), (N,), (N, S, C), other conditions (N, ...), and last what torch gave (N, c, h, w)


class Recorded:
    def __init__(self, package: Path, calls: Sequence[Call], every: bool) -> None:
        """`package`: the one whose weights are replaced; the other chunk lies beside it. Not `every`: one call of rows from several."""
        names = CHUNKS if package.name in CHUNKS else (package.name,)
        self.programs, self.own = [mil.load(package.parent / name) for name in names], names.index(package.name)
        sizes = [_bytes(package.parent / name) for name in names]
        self.pieces, self.share, self.calls = len(names), sizes[self.own] / sum(sizes), 0
        self.batch = self.programs[0].inputs["sample"].shape[0]
        rows = [(x, t.float().expand(len(x)), *given, made) for (x, t, *given), (made,) in calls]
        self._rows: list[Rows] = rows if every else [_spread(rows, self.batch)]
        self._reference = [self._run(row, {}, half=False) for row in self._rows]

    def error(self, values: Mapping[str, Tensor]) -> float:
        """Mean over the rows' groups of the mean squared change of the output, as a share of its largest square."""
        made = zip(self._reference, self._rows, strict=True)
        shares = [(self._run(rows, values, half=False) - full).square().mean() / full.square().max() for full, rows in made]
        return float(torch.stack(shares).mean())

    def psnr(self, values: Mapping[str, Tensor]) -> float:
        """The worst call's PSNR in dB against torch, in simulated fp16, as at the end of an export."""
        return min(compare("unet", rows[-1], self._run(rows, values, half=True))[0] for rows in self._rows)

    def _run(self, rows: Rows, values: Mapping[str, Tensor], half: bool) -> Tensor:
        sample, times, states, *added, _ = rows
        fill = torch.arange(-(-len(sample) // self.batch) * self.batch) % len(sample)  # the last call is filled up with copies
        made = []
        for at in fill.split(self.batch):
            known = {"sample": sample[at], "timestep": times[at], "encoder_hidden_states": states[at].transpose(1, 2).unsqueeze(2)}
            known |= {name: column[at] for name, column in zip(StableDiffusionXL.added, added, strict=False)}
            for place, program in enumerate(self.programs):
                own = program.replaced(values) if values and place == self.own else program
                known |= own(half=half, **{name: known[name] for name in program.inputs})
            made.append(known["noise_pred"])
            self.calls += 1
        return torch.cat(made)[: len(sample)]


def _spread(rows: Sequence[Rows], batch: int) -> Rows:
    """`batch` rows, from the first recorded call to the last, a different picture each."""
    places = [(round(i * (len(rows) - 1) / max(batch - 1, 1)), i) for i in range(batch)]
    return tuple(torch.stack([rows[call][column][i % len(rows[call][column])] for call, i in places]) for column in range(len(rows[0])))


def _bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
