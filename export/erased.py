"""Would rounding take the erasure away? Each layer's erased change against the error of its narrow form.

    D = W_erased - W_control        E = narrow(W_erased) - W_erased        each as (C, n)
    a layer's change survives at a width, where   ||D||_2 > ||E||_2        the largest singular values

Rounding does not undo a change on average: the weights' own spread dithers it, so that <narrow(W_erased) - narrow(W_control), D> / |D|^2
stays near 1 even where 9 of 10 codes are the same. What it does is bury it: E acts as noise that is independent of D. A change along few
directions, which is what erasing a concept makes, is still the strongest direction of D + E while its singular value is above the noise's
(Baik, Ben Arous and Peche 2005); below, the layer computes the change and something as large that nobody chose. Such a layer is listed,
and kept at the next width at which its change survives.

Costs, for each layer and width tried, one narrowing and two rounds of power iteration.
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
CRITERION = "largest singular value of the erased change above that of the rounding error"


def keep(package: Package, part: str, bits: Mapping[str, int], method: str, job: Job) -> tuple[dict[str, int], dict[str, Any]]:
    """Widths by name -> the same, wider where needed, and the manifest's facts. `job.control` must be there."""
    ours, theirs = _states(job.model, part), _states(job.control(), part)
    widths, rows, lost, same = dict(bits), [], [], 0
    for name, weight in package.weights.items():
        if bits[name] == FULL:
            continue
        values = package.array(weight)
        key = match(weight, values, ours)
        if key is None or theirs.get(key, values).size != values.size or key not in theirs:
            lost.append(name)
            continue
        before = theirs[key].astype(values.dtype).reshape(values.shape)
        if np.array_equal(before, values):
            same += 1
            continue
        row = _survival(values, before, bits[name], method, package.newest)
        widths[name] = row.pop("bits")
        rows.append({"layer": name, "asked": bits[name], "bits": widths[name], **row})
    wider = sorted((row for row in rows if row["bits"] > row["asked"]), key=lambda row: row["change_to_error"])
    facts = {
        "criterion": CRITERION,
        "changed_layers": len(rows),
        "unchanged_layers": same,
        "not_found_in_the_control": lost,
        "kept_wider": wider,
    }
    return widths, facts


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


def _survival(values: np.ndarray, before: np.ndarray, asked: int, method: str, newest: bool) -> dict[str, Any]:
    """At the width asked for: how much larger the change is than the rounding error; and the first width at which it survives."""
    change = _matrix(values) - _matrix(before)
    strength = norm(change)
    made: dict[str, Any] = {}
    for width in (width for width in WIDTHS[method] if width >= asked):
        form = narrow(values, width, method, newest)
        error = _matrix(form.dense()) - _matrix(values)
        ratio = strength / max(norm(error), 1e-30)
        if not made:
            control = narrow(before, width, method, newest)
            kept = float(((_matrix(form.dense()) - _matrix(control.dense())) * change).sum() / (change * change).sum())
            made = {
                "change_to_error": round(ratio, 3),
                "rms_change_to_error": round(float(np.sqrt((change**2).mean() / max((error**2).mean(), 1e-30))), 3),
                "codes_equal_to_the_controls": round(float((form.codes == control.codes).mean()), 3),
                "share_left": round(kept, 3),
            }
        if ratio > 1:
            return made | {"bits": width}
    return made | {"bits": FULL}


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
