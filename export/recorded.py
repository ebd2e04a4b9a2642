"""A saved Core ML UNet run by edgesafe.mil on what was recorded from torch, with some weights replaced."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgesafe import mil
from edgesafe.families import StableDiffusionXL

from .parity import compare

PROBES = 4  # batches
Call = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # (sample, timestep, *conditions as in families.py), (prediction,)
Rows = tuple[Tensor, ...]  # (N, c, h, w), (N,), (N, S, C), other conditions (N, ...), and last what torch gave (N, c, h, w)


class Recorded:
    def __init__(self, package: Path, calls: Sequence[Call], every: bool) -> None:
        """`error` takes PROBES batches of rows from all recorded calls, `psnr` every call; not `every`: both take one batch."""
        self.program, self.calls = mil.load(package), 0
        self.batch = self.program.inputs["sample"].shape[0]
        rows = [(x, t.float().expand(len(x)), *given, made) for (x, t, *given), (made,) in calls]
        spread = [_spread(rows, self.batch, i) for i in range(PROBES if every else 1)]
        self._rows: list[Rows] = rows if every else spread
        self._probes = [(probe, self._run(probe, {}, half=False)) for probe in spread]

    def error(self, values: Mapping[str, Tensor]) -> float:
        """Mean over rows of the mean squared change of the output, as a share of its largest square."""
        shares = []
        for probe, full in self._probes:
            change = (self._run(probe, values, half=False) - full).square().flatten(1).mean(1)
            shares.append(change / full.square().flatten(1).amax(1))
        return float(torch.cat(shares).mean())

    def psnr(self, values: Mapping[str, Tensor]) -> float:
        """The worst call's PSNR in dB against torch, in simulated fp16, as at the end of an export."""
        return min(compare("unet", rows[-1], self._run(rows, values, half=True))[0] for rows in self._rows)

    def _run(self, rows: Rows, values: Mapping[str, Tensor], half: bool) -> Tensor:
        sample, times, states, *added, _ = rows
        program = self.program.replaced(values) if values else self.program
        fill = torch.arange(-(-len(sample) // self.batch) * self.batch) % len(sample)  # the last call is filled up with copies
        made = []
        for at in fill.split(self.batch):
            text = states[at].transpose(1, 2).unsqueeze(2)  # (B, C, 1, S)
            more = {name: column[at] for name, column in zip(StableDiffusionXL.added, added, strict=False)}
            made.append(program(half=half, sample=sample[at], timestep=times[at], encoder_hidden_states=text, **more)["noise_pred"])
            self.calls += 1
        return torch.cat(made)[: len(sample)]


def _spread(rows: Sequence[Rows], batch: int, first: int) -> Rows:
    """`batch` rows, from the first recorded call to the last, a different picture each, beginning with picture `first`."""
    places = [(round(i * (len(rows) - 1) / max(batch - 1, 1)), i + first) for i in range(batch)]
    return tuple(torch.stack([rows[call][column][i % len(rows[call][column])] for call, i in places]) for column in range(len(rows[0])))
