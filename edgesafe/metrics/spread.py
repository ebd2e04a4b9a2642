"""Times as median and interquartile range, and in words when they scatter too much to be compared."""

import statistics
from collections.abc import Sequence
from typing import Any

WIDE = 0.25  # IQR / median


def summary(samples_ms: Sequence[float]) -> dict[str, Any]:
    """Quartiles by linear interpolation, as numpy has them."""
    low, median, high = statistics.quantiles(samples_ms, n=4, method="inclusive") if len(samples_ms) > 1 else (samples_ms[0],) * 3
    share = (high - low) / median if median else 0.0
    wide = f"wide spread: the middle half of {len(samples_ms)} runs spans {share:.0%} of the median; was the machine busy?"
    return {
        "n": len(samples_ms),
        "median_ms": round(median, 3),
        "q1_ms": round(low, 3),
        "q3_ms": round(high, 3),
        "iqr_ms": round(high - low, 3),
        "warning": wide if share > WIDE else None,
    }
