"""Core ML: a part's weights in fewer bits, layer by layer, and what is written about it into the manifest.

The VAE stays fp16: it is small beside the UNet, and its error is in every picture's every pixel. The small ends of the others stay too.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe.errors import EdgeSafeError

from . import erased, mixed
from .compression import Compression
from .job import Job
from .mlpackage import Package, Weight, rewrite
from .palettes import FULL, WIDTHS, Form, narrow

PARTS = ("text_encoder", "text_encoder_2", "unet")
ENDS = re.compile(r"conv_in_|conv_out_|(time|add|class)_embedding_|position_embedding_")  # in a weight's name
MIB = 2**20


def check(compression: Compression | None, deployment: str) -> Compression | None:
    """Raises: EdgeSafeError for what the deployment's systems cannot load."""
    if compression and compression.method == "quantize" and compression.bits == 4 and deployment != "iOS18":
        raise EdgeSafeError(
            f"--quantize int4 needs --deployment iOS18: {deployment} knows integer weights of 8 bits only. --palettize 4 runs there"
        )
    return compression


def wider(compression: Compression) -> tuple[Compression, ...]:
    """The next widths, narrowest first."""
    if compression.method == "palettize":
        return tuple(Compression("palettize", bits, keep_erased=compression.keep_erased) for bits in (6, 8) if bits > compression.bits)
    if compression.method == "quantize":
        return (Compression("quantize", 8, keep_erased=compression.keep_erased),) if compression.bits < 8 else ()
    return tuple(Compression("palettize", bits, keep_erased=compression.keep_erased) for bits in (6, 8))


def compress(part: str, wide: Path, to: Path, compression: Compression, job: Job, advance: Callable[[float], None]) -> dict[str, Any]:
    """`wide` and `to` are packages; facts for the manifest."""
    package, method = Package(wide), "quantize" if compression.method == "quantize" else "palettize"
    searching = compression.method == "mixed" and part == "unet"
    asked = min(WIDTHS[method]) if searching else compression.bits or 8  # --mixed leaves the text encoder at 8
    bits, facts = {name: FULL if ENDS.search(name) else asked for name in package.weights}, {}
    if compression.keep_erased and job.control is not None:
        bits, facts["erased"] = erased.keep(package, part, bits, method, job)
    before = 0.9 if searching else 0.0
    if searching:
        bits, facts["mixed"] = mixed.choose(package, bits, compression.goal, job, lambda done: advance(before * done))

    def form(weight: Weight, values: np.ndarray) -> Form | None:
        return None if bits[weight.name] == FULL else narrow(values, bits[weight.name], method, package.newest)

    rewrite(package, to, form, lambda done: advance(before + (1 - before) * done))
    counts = Counter(bits.values())
    sizes = {"wide_mib": package.bytes / MIB, "mib": Package(to).bytes / MIB}
    return {
        "layers_by_bits": {str(width): counts[width] for width in sorted(counts)},
        **{key: round(size, 3) for key, size in sizes.items()},
        "bits": bits,
        "ends_kept": [name for name in bits if ENDS.search(name)],
        **facts,
    }
