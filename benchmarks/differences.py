"""Whether two measured figures differ by more than noise.

    mcnemar    exact, two-sided, on pictures of the same prompt and seed: b seen only in the one, c only in the other (McNemar 1947);
               p = min(1, 2 P(X <= min(b, c))),  X ~ Binomial(b + c, 1/2)
    interval   of q - p, from the limits l, u of each share, whatever they allow for (Newcombe 1998; Zou 2007); z = phi of pairs, or 0:
               d - sqrt((q - l_q)^2 - 2 z (q - l_q)(u_p - p) + (u_p - p)^2),   d + sqrt((u_q - q)^2 - 2 z (u_q - q)(p - l_p) + (p - l_p)^2)
    phi        (ad - bc) / sqrt((a + b)(c + d)(a + c)(b + d)) of the fourfold table, with ad - bc - n/2, not under 0, where ad > bc, so that
               pairs without a difference still leave room for one (Newcombe 1998, paired data, method 10); 0 where it is not defined
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05


@dataclass(frozen=True)
class Share:
    """A measured share and its 95 % limits."""

    rate: float
    low: float
    high: float


def mcnemar(only_first: int, only_second: int) -> float:
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def phi(pairs: Sequence[tuple[bool, bool]]) -> float:
    return phi_of(*(sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))))


def phi_of(a: int, b: int, c: int, d: int) -> float:
    """a: pairs that both show, b: the first alone, c: the second alone, d: neither."""
    scale = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    return (max(product - (a + b + c + d) / 2, 0.0) if product > 0 else product) / math.sqrt(scale) if scale else 0.0


def interval(p: Share, q: Share, likeness: float = 0.0) -> tuple[float, float]:
    """(low, high) of q - p."""

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * likeness * x * y + y * y, 0.0))

    d = q.rate - p.rate
    return d - reach(q.rate - q.low, p.high - p.rate), d + reach(q.high - q.rate, p.rate - p.low)
