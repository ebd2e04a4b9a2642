"""Would rounding take the erasure away? Each layer's erased change against what rounding does to it.

    D = W_erased - W_control     E = narrow(W_erased) - W_erased     each as (C, n)
    left = <narrow(W_erased) - narrow(W_control), D> / <D, D>        1: all of the change is there on average; 0: none
    above = ||D||_2 / ||E||_2                                        largest singular values

A layer's change is rounded away where `left` is under LEFT: the narrow weights no longer hold it. Such a layer is listed, and kept at the
next width that leaves enough. It happens where weights sit on few values and the change is smaller than the step between those: a model
that was narrow before it was trained, or a change below what fp16 tells apart. Ordinary weights dither the rounding: `left` stays
near 1 even where 9 of 10 codes are the same. There the change can only be buried: `above` under 1, so that its strongest direction is no
longer the strongest of D + E (Baik, Ben Arous and Peche 2005). Buried layers are counted, not widened: see LOG.md for the measurement.

Costs two narrowings of each layer that changed, and two rounds of power iteration.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from edgesafe.model import TextToImage

from .job import Job
from .mlpackage import Package, Weight
from .palettes import FULL, WIDTHS, narrow

TURNS = 12  # of power iteration
MARKS = ("_to_fp16", "_palettized", "_quantized")  # that Core ML's converter adds to a weight's name
LEFT = 0.5  # least share of the change


def keep(package: Package, part: str, bits: Mapping[str, int], method: str, job: Job) -> tuple[dict[str, int], dict[str, Any]]:
    """Widths by name -> the same, wider where needed, and the manifest's facts. `job.control` must be there."""
    ours, theirs = _states(job.model, part), _states(job.control(), part)
    widths, rows, lost, same = dict(bits), [], [], 0
    for name, weight in package.weights.items():
        if bits[name] == FULL:
            continue
        values = package.array(weight)
        key = match(weight, values, ours)
        if key is None or key not in theirs or theirs[key].size != values.size:
            lost.append(name)
            continue
        before = theirs[key].astype(values.dtype).reshape(values.shape)
        if np.array_equal(before, values):
            same += 1
            continue
        row = survival(values, before, bits[name], method, package.newest)
        if row["left"] < LEFT:
            widths[name] = _enough(values, before, bits[name], method, package.newest)
        rows.append({"layer": name, "asked": bits[name], "bits": widths[name], **row})
    return widths, {
        "rounded_away_below": LEFT,
        "changed_layers": len(rows),
        "unchanged_layers": same,
        "not_found_in_the_control": lost,
        "buried_layers": sum(row["above"] < 1 for row in rows),
        "least_left": min((row["left"] for row in rows), default=None),
        "kept_wider": [row for row in rows if row["bits"] > row["asked"]],
    }


def match(weight: Weight, values: np.ndarray, state: Mapping[str, np.ndarray]) -> str | None:
    """The module weight that a package's constant is: by name where the values agree, else by value."""
    name = weight.name
    for mark in MARKS:
        name = name.removesuffix(mark)
    named = [key for key in state if name.endswith(key.replace(".", "_"))]
    for key in sorted(named, key=len, reverse=True) + [key for key in state if key not in named]:
        found = state[key]
        if found.size == values.size and np.array_equal(found.astype(values.dtype).reshape(values.shape), values):
            return key
    return None


def _enough(values: np.ndarray, before: np.ndarray, asked: int, method: str, newest: bool) -> int:
    """The narrowest width above `asked` that leaves LEFT of the change."""
    wider = (width for width in WIDTHS[method] if width > asked)
    return next((width for width in wider if survival(values, before, width, method, newest)["left"] >= LEFT), FULL)


def survival(values: np.ndarray, before: np.ndarray, width: int, method: str, newest: bool) -> dict[str, float]:
    """Of one layer at one width; `before`, the control's weight, differs from `values`."""
    form, control = narrow(values, width, method, newest), narrow(before, width, method, newest)
    change, made = _matrix(values) - _matrix(before), _matrix(form.dense())
    error = made - _matrix(values)
    return {
        "left": round(float(np.vdot(made - _matrix(control.dense()), change) / np.vdot(change, change)), 3),
        "above": round(norm(change) / max(norm(error), 1e-30), 3),
        "rms_change_to_error": round(float(np.linalg.norm(change) / max(np.linalg.norm(error), 1e-30)), 3),
        "same_codes": round(float((form.codes == control.codes).mean()), 3),
    }


def norm(matrix: np.ndarray) -> float:
    """The largest singular value, by power iteration from a fixed start; a lower bound, within a few percent."""
    x = np.random.default_rng(0).standard_normal(matrix.shape[1], np.float32)
    for _ in range(TURNS):
        x = (matrix @ x) @ matrix
        x /= max(float(np.linalg.norm(x)), 1e-30)
    return float(np.linalg.norm(matrix @ x))


def _matrix(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).reshape(len(values), -1)


def _states(model: TextToImage, part: str) -> dict[str, np.ndarray]:
    module: nn.Module = model.modules()[part]
    return {key: value.numpy() for key, value in module.state_dict().items() if value.ndim > 1}
