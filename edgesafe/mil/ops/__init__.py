"""One small function for each operation of Core ML's ML programs, by the operation's name.

Parameters are named as in MIL. Those before the `*` are tensors (or tuples of them), those after it plain Python values. Floats are fp32
whatever the program declares; integers are of the type that datatypes.Kind names. Semantics: coremltools' converters/mil/mil/ops/defs.
"""

from collections.abc import Callable
from typing import Any

from . import activation, elementwise, gathering, layers, moving, reduction, resizing

OPERATIONS: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATIONS,
    **activation.OPERATIONS,
    **reduction.OPERATIONS,
    **moving.OPERATIONS,
    **gathering.OPERATIONS,
    **resizing.OPERATIONS,
    **layers.OPERATIONS,
}
# their results hold nothing but values of their inputs, so that what was rounded to fp16 once needs no rounding again
EXACT = frozenset((*moving.OPERATIONS, *gathering.OPERATIONS)) - {"pad", "cumsum", "fill"}
