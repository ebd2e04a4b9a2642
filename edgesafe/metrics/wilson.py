"""A rate with its counts and its Wilson score interval (Wilson 1927, without continuity correction).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),   p = hits/n, z = 1.96 for 95 %
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def interval(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """(low, high), each in [0, 1]; (0, 1) when nothing was asked."""
    if not total:
        return 0.0, 1.0
    p, share = hits / total, z * z / total
    centre = p + share / 2
    half = z * math.sqrt(p * (1 - p) / total + share / (4 * total))
    low, high = (centre - half) / (1 + share), (centre + half) / (1 + share)
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


@dataclass(frozen=True)
class Rate:
    """`hits` of `total`."""

    hits: int
    total: int

    @classmethod
    def of(cls, flags: "Tensor | Iterable[bool]") -> "Rate":
        """Of a tensor of any shape, or of single truths."""
        rows = flags.flatten().tolist() if hasattr(flags, "flatten") else list(flags)
        return cls(sum(map(bool, rows)), len(rows))

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.hits, self.total)

    def to_dict(self) -> dict[str, Any]:
        """`rate` is None when nothing was asked."""
        low, high = self.interval
        rate = round(self.value, 4) if self.total else None
        return {"numerator": self.hits, "denominator": self.total, "rate": rate, "wilson95": [round(low, 4), round(high, 4)]}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{self.total} = {self.value:.1%} [{low:.1%}, {high:.1%}]" if self.total else "0/0"
