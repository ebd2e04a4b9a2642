"""`--mixed`: a width for each of the UNet's layers, from what narrowing it does to the UNet's output.

    e_l(w) = mean |U(x; W_l at w bits) - U(x)|^2 / max |U(x)|^2     one layer narrowed at a time, x from the recorded trajectories
    min  sum_l e_l(w_l) + m sum_l bytes_l(w_l)                       errors of different layers taken as independent, so that squares add

For a size, m is the smallest that keeps to it. For a PSNR, the allowed sum is corrected by what the UNet makes with all layers narrowed
at once, TRIES times at most; the smallest that passed is taken. A layer (or group) is run once, at its narrowest width, by edgesafe.mil;
at the other widths, and among the layers of a group, e_l is in proportion to the squared rounding error of the weights. Up to SMALL
weights a layer is a group and every recorded call is compared; above, GROUPS of neighbours and one call of mixed rows, so that an
SD-1.5-sized UNet is called 2 + GROUPS + TRIES times.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
MIB = 2**20


@dataclass(frozen=True)
class Layer:
    name: str
    bytes: dict[int, float]  # by width
    error: dict[int, float]  # by width: squared, of the weights at first and of the output once that is measured; 0 at FULL

    def best(self, multiplier: float) -> int:
        return min(self.bytes, key=lambda width: (self.error[width] + multiplier * self.bytes[width], width))


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
    if unit == "MiB":
        widths = _within(layers, amount * MIB * unet.share - kept, goal, kept / MIB)
        found, tries = unet.psnr(_dense(package, widths, {})), 1
    else:
        widths, found, tries = _reaching(layers, package, unet, amount + 10 * math.log10(unet.pieces), advance)
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
            sizes[width], errors[width] = form.bytes, float(np.square(dense.astype(np.float32) - values, dtype=np.float32).sum(dtype=float))
            narrowest[name] = torch.from_numpy(dense)
        layers.append(Layer(name, sizes, errors))
    gain = unet.error(narrowest) / max(sum(max(layer.error.values()) for layer in layers), 1e-30)
    return [replace(layer, error={width: gain * error for width, error in layer.error.items()}) for layer in layers]


def _within(layers: Sequence[Layer], limit: float, goal: tuple[float, str], kept_mib: float) -> dict[str, int]:
    """The least error whose layers take at most `limit` bytes."""
    least = sum(min(layer.bytes.values()) for layer in layers)
    if least > limit:
        smallest = least / MIB + kept_mib
        raise EdgeSafeError(
            f"--mixed {goal[0]:g}{goal[1]}: with every layer as narrow as it may be, this file takes {smallest:.2f} MiB "
            f"({kept_mib:.2f} of them stay as they are), and {limit / MIB + kept_mib:.2f} are asked for. Ask for more"
        )
    return _lagrange(layers, lambda found: sum(layer.bytes[found[layer.name]] for layer in layers) <= limit, narrow_passes=True)


def _reaching(
    layers: Sequence[Layer], package: Package, unet: Recorded, goal_db: float, advance: Callable[[float], None]
) -> tuple[dict[str, int], float, int]:
    """(widths, their PSNR, runs): the smallest found whose PSNR, with all layers narrowed at once, is at least `goal_db`."""
    full = {layer.name: FULL for layer in layers}
    best, found_db, cache = full, unet.psnr({}), {}
    if found_db < goal_db:
        raise EdgeSafeError(f"--mixed {goal_db:g}dB: with no layer narrowed at all the UNet reaches {found_db:.1f} dB. Ask for less")
    allowed, low, high, tries = 10 ** (-goal_db / 10), 0.0, math.inf, 0  # allowed sum of errors: `low` passes, `high` fails
    for tries in range(1, TRIES + 1):
        widths = _lagrange(layers, lambda found: sum(layer.error[found[layer.name]] for layer in layers) <= allowed, narrow_passes=False)  # noqa: B023
        psnr_db = unet.psnr(_dense(package, widths, cache))
        advance(0.7 + 0.3 * tries / TRIES)
        if psnr_db >= goal_db:
            low = allowed
            if _bytes(layers, widths) <= _bytes(layers, best):
                best, found_db = widths, psnr_db
            if psnr_db < goal_db + 0.1 or all(width == min(layer.bytes) for layer, width in zip(layers, widths.values(), strict=True)):
                break
        else:
            high = allowed
        allowed *= 10 ** ((psnr_db - goal_db - 0.03) / 10)
        if not low < allowed < high:
            allowed = math.sqrt(low * high) if low else high / 2
    return best, found_db, tries


def _lagrange(layers: Sequence[Layer], fits: Callable[[Mapping[str, int]], bool], narrow_passes: bool) -> dict[str, int]:
    """The widths of the multiplier at the edge of `fits`: the smallest that fits if narrow ones do, else the largest."""
    low, high = -120.0, 40.0  # powers of 2: from all wide to all narrow
    for _ in range(60):
        middle = (low + high) / 2
        narrow = fits({layer.name: layer.best(2.0**middle) for layer in layers}) == narrow_passes
        low, high = (low, middle) if narrow else (middle, high)
    return {layer.name: layer.best(2.0 ** (high if narrow_passes else low)) for layer in layers}


def _bytes(layers: Sequence[Layer], widths: Mapping[str, int]) -> float:
    return sum(layer.bytes[widths[layer.name]] for layer in layers)


def _dense(package: Package, widths: Mapping[str, int], cache: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """Each narrowed weight as a device computes with it; `cache` is filled."""
    for name, width in widths.items():
        if width < FULL and (name, width) not in cache:
            values = package.array(package.weights[name])
            cache[name, width] = torch.from_numpy(narrow(values, width, METHOD, package.newest).dense())
    return {name: cache[name, width] for name, width in widths.items() if width < FULL}
