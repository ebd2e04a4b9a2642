"""Two models on the same prompts and seeds: is the second's rate another one?

    McNemar, exact   b pictures are hits of the first alone, c of the second alone; under no difference c ~ Binomial(b + c, 1/2):
                     p = min(1, 2 P(X <= min(b, c)))                                          (McNemar 1947; two-sided)
    difference       p2 - p1 with Newcombe's interval for paired proportions (1998, method 10): Wilson's intervals of both, squared and
                     added, with phi, the correlation of the pair; also where both rates are 0, so that "no rise" has an upper limit
    Holm             p_(i) <- max_(j <= i) min(1, (m - j + 1) p_(j)), p in rising order, m comparisons made together   (Holm 1979)
"""

import math
from collections.abc import Sequence
from typing import Any

from edgesafe.metrics.wilson import interval


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


def mcnemar(only_first: int, only_second: int) -> float:
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**n)


def difference(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """(low, high) of second - first, each in [-1, 1]; (-1, 1) when nothing was asked."""
    n = both + only_first + only_second + neither
    if not n:
        return -1.0, 1.0
    first, second = both + only_first, both + only_second
    p1, p2 = first / n, second / n
    (low1, high1), (low2, high2) = interval(first, n), interval(second, n)
    spread = first * (n - first) * second * (n - second)
    cross = both * neither - only_first * only_second
    cross = max(cross - n / 2, 0) if cross > 0 else cross  # towards independence
    phi = cross / math.sqrt(spread) if spread else 0.0

    def reach(below: float, above: float) -> float:
        return math.sqrt(max(below * below - 2 * phi * below * above + above * above, 0.0))

    return p2 - p1 - reach(p2 - low2, high1 - p1), p2 - p1 + reach(high2 - p2, p1 - low1)


def holm(ps: Sequence[float]) -> list[float]:
    """In the order given."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted
