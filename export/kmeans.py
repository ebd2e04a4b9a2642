"""The palette of 2^bits values with the least squared error, for weights that are 16-bit floats: 1-D k-means on a histogram.

    min over cuts b_1 <= ... <= b_{k-1}   sum_j sum_{b_j <= i < b_{j+1}} c_i (v_i - m_j)^2     (Wu 1991: in one dimension cells are ranges)

v_i the distinct values in order (fp16 has 65,536 at most), c_i how often each occurs, m_j the mean of cell j. As the sum of c v^2 is fixed,
this is the largest sum of (cell's sum)^2 / (cell's count), two differences of running sums. The cuts start where the density f of the
weights puts them for many cells, in steps of f^(1/3) (Panter and Dite 1951); then all of them move at once to the best of 2R + 1 places
each by dynamic programming, the places ever closer together, down to neighbouring values. Against the exact programme over all values:
within 0.02 % on trained and on normal weights, 4 to 8 bits, at a tenth of its time; the tests hold it to 0.1 %.

G groups of channels, each with a palette of its own, are solved in one go. Costs O(G k R^2) a pass, about twenty passes.
"""

from dataclasses import dataclass

import numpy as np

R, R_GROUPS = 32, 16  # places tried on either side of a cut, of one palette and of many in one go
SPANS, SHRINK = (2.0, 1.0, 0.5), 8  # reach of a cut's places in cells, for each round of search; divided once no group gets better
CODES = 2**16
CHUNK = 2**22  # weights at a time, because numpy turns codes into 64-bit indices

_ALL = np.arange(CODES, dtype=np.uint16).view(np.float16)
ORDER = np.argsort(_ALL.astype(np.float32), kind="stable")[: int(np.isfinite(_ALL).sum()) + 2]  # codes by value; NaN left out
VALUES = _ALL[ORDER].astype(np.float64)


@dataclass(frozen=True)
class Palettes:
    lut: np.ndarray  # (G, 2^bits) float16, ascending
    codes: np.ndarray  # (G, n) uint8
    squared_error: float  # sum over all weights


def palettize(weights: np.ndarray, bits: int) -> Palettes:
    """weights (G, n) float16, finite."""
    k, rows = 2**bits, [_histogram(row) for row in weights]
    offsets = np.concatenate([[0], np.cumsum([len(places) for places, _ in rows])])
    places, counts = np.concatenate([places for places, _ in rows]), np.concatenate([found for _, found in rows]).astype(np.float64)
    values = VALUES[places]
    lut = cluster(values, counts, offsets, k).astype(np.float16)
    error, codes, table = 0.0, np.empty(weights.shape, np.uint8), np.empty(CODES, np.uint8)
    for group, row in enumerate(weights):
        here, entries = slice(offsets[group], offsets[group + 1]), lut[group].astype(np.float64)
        nearest = np.searchsorted((entries[1:] + entries[:-1]) / 2, values[here])
        error += float((counts[here] * (values[here] - entries[nearest]) ** 2).sum())
        table[ORDER[places[here]]] = nearest
        _look_up(table, row, codes[group])
    return Palettes(lut, codes, error)


def cluster(values: np.ndarray, counts: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """(G, k) centres, ascending. Group g's distinct values, ascending: values[offsets[g]:offsets[g + 1]]; k or fewer are kept as is."""
    return _Cuts(values, counts, offsets, k).solve()


class _Cuts:
    """Running sums, the scale on which the cuts start evenly, and the search."""

    def __init__(self, values: np.ndarray, counts: np.ndarray, offsets: np.ndarray, k: int) -> None:
        self.k, self.first, self.last = k, offsets[:-1, None], offsets[1:, None]
        self.r = R if len(offsets) == 2 else R_GROUPS
        group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        sums = np.add.reduceat(counts * values, offsets[:-1]), np.add.reduceat(counts, offsets[:-1])
        self.mean = sums[0] / sums[1]
        self.count = np.concatenate([[0], np.cumsum(counts)])
        self.sum = np.concatenate([[0], np.cumsum(counts * (values - self.mean[group]))])  # about the mean: its square loses no digits
        at, reach = np.arange(len(values)), np.maximum(np.diff(offsets) // 64, 1)[group]
        low, high = np.maximum(at - reach, self.first[group, 0]), np.minimum(at + reach, self.last[group, 0] - 1)
        width = np.maximum(values[high] - values[low], 1e-12)
        before, after = values[np.maximum(at - 1, self.first[group, 0])], values[np.minimum(at + 1, self.last[group, 0] - 1)]
        gap = np.minimum((after - before) / 2, 4 * width / np.maximum(high - low, 1))  # an empty stretch between two heaps gets no cuts
        self.scale = np.concatenate([[0], np.cumsum(np.cbrt((self.count[high] - self.count[low]) / width) * gap)])
        ends = self.scale[self.first], self.scale[self.last]
        self.cell = np.maximum(ends[1] - ends[0], 1e-30) / k  # (G, 1) a cell's share of the scale

    def solve(self) -> np.ndarray:
        scaled = self.scale[self.first] + np.arange(1, self.k) * self.cell
        even = np.clip(np.searchsorted(self.scale, scaled.ravel()).reshape(scaled.shape), self.first, self.last)
        each = np.minimum(self.first + np.arange(1, self.k), self.last)
        cuts = np.where(self.last - self.first <= self.k, each, even)
        reached = self._reached(cuts)
        for span in SPANS:
            while True:
                places = self._around(cuts, span)
                moved = self._best(places)
                now = self._reached(moved)
                better = now > reached * (1 + 1e-9)
                cuts, reached = np.where(better[:, None], moved, cuts), np.where(better, now, reached)
                if not better.any():
                    if np.abs(np.diff(places, axis=-1)).max(initial=0) <= 1:
                        break
                    span /= SHRINK
        return self._centres(cuts)

    def _around(self, cuts: np.ndarray, span: float) -> np.ndarray:
        """(G, k - 1, 2R + 1) places within `span` cells of each cut, at least one value apart"""
        steps = np.arange(-self.r, self.r + 1)
        scaled = self.scale[cuts][..., None] + steps * (span / self.r) * self.cell[..., None]
        far = np.searchsorted(self.scale, scaled.ravel()).reshape(scaled.shape)
        near = cuts[..., None] + steps
        places = np.where(steps < 0, np.minimum(far, near), np.where(steps > 0, np.maximum(far, near), near))
        return np.clip(places, self.first[..., None], self.last[..., None])

    def _best(self, places: np.ndarray) -> np.ndarray:
        """(G, k - 1) the best choice of one place for each cut, in order"""
        groups, cuts, _ = places.shape
        count, total = self.count[places], self.sum[places]
        value = _gain(count[:, 0] - self.count[self.first], total[:, 0] - self.sum[self.first])  # (G, 2R + 1) of the first cell
        back = np.zeros(places.shape, np.intp)
        for j in range(1, cuts):
            here = _gain(count[:, j, None, :] - count[:, j - 1, :, None], total[:, j, None, :] - total[:, j - 1, :, None])
            here += value[:, :, None]
            back[:, j] = here.argmax(1)
            value = np.take_along_axis(here, back[:, j, None], 1)[:, 0]
        value = value + _gain(self.count[self.last] - count[:, -1], self.sum[self.last] - total[:, -1])
        chosen, pick, each = np.empty((groups, cuts), np.intp), value.argmax(1), np.arange(groups)
        for j in range(cuts - 1, -1, -1):
            chosen[:, j], pick = places[each, j, pick], back[each, j, pick]
        return chosen

    def _cells(self, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bounds = np.concatenate([self.first, cuts, self.last], 1)
        return np.diff(self.count[bounds], axis=1), np.diff(self.sum[bounds], axis=1)

    def _reached(self, cuts: np.ndarray) -> np.ndarray:
        return _gain(*self._cells(cuts)).sum(1)

    def _centres(self, cuts: np.ndarray) -> np.ndarray:
        count, total = self._cells(cuts)
        centres = np.where(count > 0, total / np.maximum(count, 1), np.nan) + self.mean[:, None]
        spare = np.nanmax(centres, 1, keepdims=True)  # an empty cell repeats the largest value
        return np.sort(np.where(np.isnan(centres), spare, centres), axis=1)


def _gain(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """sum^2 / count; 0 for an empty cell, -inf for one whose ends are the wrong way round"""
    made = total * total
    made /= np.maximum(count, 0.5)
    made[count < 0] = -np.inf
    return made


def _histogram(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places in ORDER of the values that occur, and how often."""
    codes, counts = np.ascontiguousarray(row).view(np.uint16), np.zeros(CODES, np.int64)
    for start in range(0, len(codes), CHUNK):
        counts += np.bincount(codes[start : start + CHUNK], minlength=CODES)
    counts = counts[ORDER]
    places = np.flatnonzero(counts)
    return places, counts[places]


def _look_up(table: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    codes = np.ascontiguousarray(row).view(np.uint16)
    for start in range(0, len(codes), CHUNK):
        np.take(table, codes[start : start + CHUNK], out=out[start : start + CHUNK])
