"""Times as median and interquartile range, ratios of times taken in pairs, and in words when they scatter too much to be compared."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

WIDE = 0.25  # IQR / median


def summary(samples_ms: Sequence[float]) -> dict[str, Any]:
    """Quartiles by linear interpolation, as numpy has them."""
    low, median, high = quartiles(samples_ms)
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


def paired(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """How many times a_i is b_i, where a_i and b_i were taken one after the other: median, quartiles and `sign_interval`."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, median, high = quartiles(ratios)
    interval = sign_interval(ratios)
    share = (high - low) / median
    wide = f"wide spread: the middle half of {len(ratios)} ratios spans {share:.0%} of their median; was the machine busy?"
    return {
        "n": len(ratios),
        "median": round(median, 4),
        "interval95": [round(end, 4) for end in interval] if interval else None,
        "q1": round(low, 4),
        "q3": round(high, 4),
        "warning": wide if share > WIDE else None,
    }


def sign_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The k-th smallest and the k-th largest value, between which the true median lies with at least this confidence; None below 6 values.

    k is the largest with 2 P(Binomial(n, 1/2) < k) <= 1 - confidence, as in the sign test: no assumption on how the values scatter.
    """
    n, ordered = len(values), sorted(values)
    k, tail = 0, 0.0
    while k < n and 2 * (tail := tail + math.comb(n, k) / 2**n) <= 1 - confidence:
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return low, median, high
