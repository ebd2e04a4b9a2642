"""What an artifact costs against what it leaks and what it keeps: points for small scatter plots, drawn as SVG by templates/plots.html.

A leak or a quality is known only of the file and the runtime that the audit drew with. Everything else that was timed or weighed stands
in a strip of its own, as not measured: a twin in another format is another artifact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

WIDTH, HEIGHT = 400, 270  # of the drawing
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 44  # margins
STRIP = 26  # height of the strip of points without a figure


@dataclass(frozen=True)
class Point:
    what: str
    runtime: str | None  # None: its latency is not known
    latency_ms: float | None = None
    size_mib: float | None = None
    leak: dict[str, Any] | None = None  # a rate: the worst probe's of the worst concept
    kept: dict[str, Any] | None = None  # a rate: right pictures of what has nothing to do with what was erased

    @property
    def label(self) -> str:
        return f"{self.what}, {self.runtime}" if self.runtime else self.what


AXES = {
    "latency_ms": "a picture, warm, median (ms)",
    "size_mib": "on disk (MiB)",
    "leak": "leaked, worst probe",
    "kept": "right, unrelated prompts",
}


def points(record: dict[str, Any], name: str = "export") -> list[Point]:
    """Of one report.json. `name` stands for its export, where several reports share a plot."""
    sizes = {row["what"]: row["total_mib"] for row in record["sizes"]}
    base = (record["artifact"]["base_model"] or {}).get("id")
    drawn_by = (record["audit"] or {}).get("runtime")
    known = {"export": _judged(record["audit"], "export"), "control": _judged(record["audit"], "control")}
    if base is not None and base == record["control"]["id"]:
        known["base model"] = known["control"]
    found = []
    for row in record["latency"]:
        if row["part"] == "picture" and row["status"] == "measured":
            what, runtime = row["what"], row["runtime"]
            leak, kept = known.get(what, (None, None)) if what != "export" or runtime == drawn_by else (None, None)
            found.append(Point(name if what == "export" else what, runtime, row["median_ms"], sizes.get(what), leak, kept))
    timed = {point.what for point in found}
    for what, mib in sizes.items():
        named = name if what == "export" else what
        if mib is not None and named not in timed:
            found.append(Point(named, None, None, mib, *known.get(what, (None, None))))
    return found


def charts(found: Sequence[Point]) -> dict[str, Any]:
    """{"key": [(letter, label)], "charts": [...]}: each of the charts that has at least one point with both of its figures."""
    letters = [(ascii_uppercase[i % 26], point) for i, point in enumerate(found)]
    drawn = [_chart(letters, x, y) for y in ("leak", "kept") for x in ("latency_ms", "size_mib")]
    return {"key": [(letter, point.label) for letter, point in letters], "charts": [chart for chart in drawn if chart]}


def ticks(high: float, n: int = 5) -> list[float]:
    """About n round steps from 0 to `high`, which is above 0."""
    raw = high / n
    step = 10 ** math.floor(math.log10(raw))
    step *= next(times for times in (1, 2, 5, 10) if times * step >= raw * 0.999)
    return [i * step for i in range(math.floor(high / step * 1.001) + 1)]


def _chart(letters: Sequence[tuple[str, Point]], x: str, y: str) -> dict[str, Any] | None:
    across = [(letter, point, getattr(point, x)) for letter, point in letters if getattr(point, x) is not None]
    if not any(getattr(point, y) for _, point, _ in across):
        return None
    unknown = any(not getattr(point, y) for _, point, _ in across)
    far = 1.12 * max(value for _, _, value in across) or 1.0
    floor = HEIGHT - BOTTOM - (STRIP if unknown else 0)

    def at_x(value: float) -> float:
        return round(LEFT + value / far * (WIDTH - LEFT - RIGHT), 1)

    def at_y(share: float) -> float:
        return round(floor - share * (floor - TOP), 1)

    marks = []
    for letter, point, value in across:
        rate = getattr(point, y)
        mark = {"letter": letter, "label": point.label, "x": at_x(value), "y": at_y(rate["rate"]) if rate else HEIGHT - BOTTOM - STRIP / 2}
        if rate:
            low, high = rate["clustered95"]
            mark |= {"low": at_y(min(low, rate["wilson95"][0])), "high": at_y(max(high, rate["upper95"])), "share": rate["rate"]}
        marks.append(mark)
    return {
        "title": f"{AXES[y]}, by {'latency' if x == 'latency_ms' else 'size'}",
        "x": AXES[x],
        "y": AXES[y],
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "floor": floor,
        "bottom": HEIGHT - BOTTOM,
        "unknown": unknown,
        "x_ticks": [(at_x(t), f"{t:g}") for t in ticks(far)],
        "y_ticks": [(at_y(t / 100), f"{t} %") for t in (0, 25, 50, 75, 100)],
        "marks": _apart(marks),
    }


def _apart(marks: list[dict[str, Any]], gap: float = 17) -> list[dict[str, Any]]:
    """Moves a mark to the right as long as another one covers it."""
    placed: list[dict[str, Any]] = []
    for mark in sorted(marks, key=lambda m: m["x"]):
        x = mark["x"]
        while any(math.hypot(x - other["at"], mark["y"] - other["y"]) < gap for other in placed):
            x += 2
        placed.append(mark | {"at": x})
    return placed


def _judged(audit: dict[str, Any] | None, model: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(leak of the worst probe of the worst concept, right of the unrelated prompts), as the audit has them of this model."""
    if audit is None:
        return None, None
    worst = max(audit["verdicts"], key=lambda v: v["upper95_share"], default=None)
    leak = kept = None
    if worst:
        same = ("concept", worst["concept"]), ("detector", worst["detector"]), ("probe", worst["worst_probe"])
        cell = next((c for c in audit["cells"] if all(c[k] == value for k, value in same)), None)
        leak = cell[model]["leaked"] if cell and cell[model] else None
    rest = [row[model]["right"] for row in audit["kept"] if row["cell"] == "rest" and row[model] and row[model]["right"]]
    kept = rest[0] if rest else None
    return tuple(rate if rate and rate["denominator"] else None for rate in (leak, kept))  # type: ignore[return-value]
