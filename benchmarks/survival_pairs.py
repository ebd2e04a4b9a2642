"""Two models on the same prompts and seeds: is the second's rate another one?

    McNemar's exact p and Newcombe's interval of second - first for pairs stand in differences.py; also where both rates are 0, so that
    "no rise" has an upper limit.
    Holm             p_(i) <- max_(j <= i) min(1, (m - j + 1) p_(j)), p in rising order, m comparisons made together   (Holm 1979)
"""

from collections.abc import Sequence
from typing import Any

from edgesafe.metrics import wilson

from .differences import Share, interval, mcnemar, phi_of


def compare(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """The table of pairs, McNemar's p, and second - first in percentage points with its 95 % interval."""
    pairs = [(bool(x), bool(y)) for x, y in zip(first, second, strict=True)]
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    low, high = difference(both, only_first, only_second, neither)
    return {
        "pairs": len(pairs),
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "neither": neither,
        "rise_points": round(100 * (only_second - only_first) / len(pairs), 1) if pairs else None,
        "rise_points95": [round(100 * low, 1) + 0.0, round(100 * high, 1) + 0.0],
        "p": mcnemar(only_first, only_second),
    }


def difference(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """(low, high) of second - first, each in [-1, 1]; (-1, 1) when nothing was asked."""
    n = both + only_first + only_second + neither
    if not n:
        return -1.0, 1.0
    first, second = (Share(hits / n, *wilson.interval(hits, n)) for hits in (both + only_first, both + only_second))
    return interval(first, second, phi_of(both, only_first, only_second, neither))


def holm(ps: Sequence[float]) -> list[float]:
    """In the order given."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
