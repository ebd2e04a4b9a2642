"""`--mixed`: a width for each of the UNet's layers, from what narrowing it does to the UNet's output.

    e_l(w) = mean |U(x; W_l at w bits) - U(x)|^2 / max |U(x)|^2      one layer narrowed at a time, x from recorded trajectories
    min  sum_l e_l(w_l) + m sum_l bytes_l(w_l)                       errors of different layers taken as independent, so that squares add

As m falls, one layer after another gets wider, the one first that takes the most error away for its bytes: a path from the smallest UNet to
the one left as it is. For a size, the last that keeps to it. For a PSNR, the first whose UNet, with all layers narrowed at once, reaches
it: found by bisection from where the sum foretells it, in TRIES runs. A layer (or group) is run once, at its narrowest width, by
edgesafe.mil; at the other widths, and among the layers of a group, e_l is in proportion to the squared rounding error of the weights. Up to
SMALL weights a layer is a group, run on four batches of rows from the first recorded call to the last, and the PSNR is of every call;
above, GROUPS of neighbours and one batch for both, so that an SD-1.5-sized UNet is called 2 + GROUPS + TRIES times.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from .job import Job
from .mlpackage import Package
from .palettes import FULL, WIDTHS, narrow
from .recorded import Recorded

METHOD = "palettize"
SMALL, GROUPS, TRIES = 100_000_000, 48, 8
RECORDS = 512  # bytes, about, that a narrow weight's further records and padding take
MIB = 2**20


@dataclass(frozen=True)
class Layer:
    name: str
    bytes: dict[int, float]  # by width
    error: dict[int, float]  # by width: squared, of the weights at first and of the output once that is measured; 0 at FULL

    def steps(self) -> Iterator[tuple[float, int]]:
        """(error taken away for each byte, wider width), from the narrowest width on along the lower hull: ever less."""
        width = min(self.bytes)
        while further := [other for other in self.bytes if self.bytes[other] > self.bytes[width] and other > width]:
            gains = {w: (self.error[width] - self.error[w]) / (self.bytes[w] - self.bytes[width]) for w in further}
            width = max(further, key=lambda w: (gains[w], w))
            yield gains[width], width


class Path:
    """The widths at each step, from every layer at its narrowest to every layer as it is, with their foretold error and their bytes."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        rows = [(gain, layer, width) for layer in layers for gain, width in layer.steps()]
        self._steps, self._first = sorted(rows, key=lambda row: -row[0]), {layer.name: min(layer.bytes) for layer in layers}
        now = dict(self._first)
        self.error, self.bytes = [sum(max(x.error.values()) for x in layers)], [sum(x.bytes[now[x.name]] for x in layers)]
        for _, layer, width in self._steps:
            self.error.append(self.error[-1] - layer.error[now[layer.name]] + layer.error[width])
            self.bytes.append(self.bytes[-1] - layer.bytes[now[layer.name]] + layer.bytes[width])
            now[layer.name] = width

    def __len__(self) -> int:
        return len(self.error)

    def __getitem__(self, place: int) -> dict[str, int]:
        return self._first | {layer.name: width for _, layer, width in self._steps[:place]}


def choose(
    package: Package, floors: Mapping[str, int], goal: tuple[float, str], job: Job, advance: Callable[[float], None]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Widths by name, none below its floor, and the manifest's facts. Raises: EdgeSafeError for a goal that no widths reach."""
    names = [name for name in package.weights if floors[name] < FULL]
    small = sum(package.weights[name].size for name in names) <= SMALL
    unet = Recorded(package.path, job.recording.calls["unet"], every=small)
    groups = [[name] for name in names] if small else [list(part) for part in np.array_split(names, min(GROUPS, len(names)))]
    layers: list[Layer] = []
    for done, group in enumerate(groups):
        layers += _measured(package, group, floors, unet)
        advance(0.7 * (done + 1) / len(groups))
    kept = package.bytes - sum(package.weights[name].bytes for name in names)
    amount, unit = goal
    path, tries = Path(layers), 1
    if unit == "MiB":
        widths = path[_within(path, amount * MIB - kept, kept)]
        found = unet.psnr(_dense(package, widths, {}))
    else:
        widths, found, tries = _reaching(path, package, unet, amount, advance)
    facts = {
        "goal": f"{amount:g}{unit}",
        "psnr_db": round(found, 2),
        "groups": len(groups),
        "unet_calls": unet.calls,
        "tries": tries,
        "sensitivity": {layer.name: {str(width): float(f"{error:.3g}") for width, error in layer.error.items()} for layer in layers},
    }
    return {**floors, **widths}, facts


def _measured(package: Package, group: Sequence[str], floors: Mapping[str, int], unet: Recorded) -> list[Layer]:
    """The group's layers with the error of the output: one run of the UNet."""
    layers, narrowest = [], {}
    for name in group:
        weight, values = package.weights[name], package.array(package.weights[name])
        sizes, errors = {FULL: float(weight.bytes)}, {FULL: 0.0}
        for width in sorted((width for width in WIDTHS[METHOD] if width >= floors[name]), reverse=True):
            form = narrow(values, width, METHOD, package.newest)
            dense = form.dense()
            sizes[width], errors[width] = (
                form.bytes + RECORDS,
                float(np.square(dense.astype(np.float32) - values, dtype=np.float32).sum(dtype=float)),
            )
            narrowest[name] = torch.from_numpy(dense)
        layers.append(Layer(name, sizes, errors))
    gain = unet.error(narrowest) / max(sum(max(layer.error.values()) for layer in layers), 1e-30)
    return [replace(layer, error={width: gain * error for width, error in layer.error.items()}) for layer in layers]


def _within(path: Path, limit: float, kept: float) -> int:
    """The last place whose layers take at most `limit` bytes. `kept`: bytes of the file that stay."""
    if path.bytes[0] > limit:
        smallest, asked = ((size + kept) / MIB for size in (path.bytes[0], limit))
        raise EdgeSafeError(
            f"--mixed {asked:.2f}MiB: with every layer as narrow as it may be, this file takes {smallest:.2f} MiB, "
            f"{kept / MIB:.2f} of which stay as they are. Ask for more"
        )
    return max(place for place, size in enumerate(path.bytes) if size <= limit)


def _reaching(
    path: Path, package: Package, unet: Recorded, goal_db: float, advance: Callable[[float], None]
) -> tuple[dict[str, int], float, int]:
    """(widths, their PSNR, runs): the first place found whose PSNR, with all layers narrowed at once, is at least `goal_db`."""
    low, high, found, tries = -1, len(path) - 1, unet.psnr({}), 0  # places: one that fails, one that passes
    if found < goal_db:
        raise EdgeSafeError(f"--mixed {goal_db:g}dB: with no layer narrowed at all the UNet reaches {found:.1f} dB. Ask for less")
    allowed, cache = 10 ** (-goal_db / 10), {}
    while high - low > 1 and tries < TRIES:
        place = next(place for place, error in enumerate(path.error) if error <= allowed or place == len(path) - 1)
        if not low < place < high or tries > TRIES // 2:
            place = (low + high) // 2
        psnr_db, tries = unet.psnr(_dense(package, path[place], cache)), tries + 1
        low, high, found = (low, place, psnr_db) if psnr_db >= goal_db else (place, high, found)
        allowed = path.error[place] * 10 ** ((psnr_db - goal_db) / 10)
        advance(0.7 + 0.3 * tries / TRIES)
    return path[high], found, tries


def _dense(package: Package, widths: Mapping[str, int], cache: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """Each narrowed weight as a device computes with it; `cache` is filled."""
    for name, width in widths.items():
        if width < FULL and (name, width) not in cache:
            values = package.array(package.weights[name])
            cache[name, width] = torch.from_numpy(narrow(values, width, METHOD, package.newest).dense())
    return {name: cache[name, width] for name, width in widths.items() if width < FULL}
