"""`edgesafe compare A.json B.json`: audits or reports, each against the first, row by row: value, difference, and whether that is noise.

Other settings are refused unless asked for, and named then too: steps, sampler, seeds, prompts, a detector's hash or threshold, a probe's
settings. Pictures of the same prompt and seed are paired where pictures.jsonl lies beside both records.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesafe.errors import EdgeSafeError, NamingFullDisk

from . import differences
from .differences import LEVEL, Share
from .records import Key, Record, other_settings, unlike, words

FORMATS = (".md", ".json")
NOISE, DIFFERS = "within noise", "differs"
NONE, UNMEASURED = "–", "not measured in both"


@dataclass(frozen=True)
class CompareConfig:
    records: tuple[Path, ...]
    out: Path | None = None
    force: bool = False
    anyway: bool = False  # in spite of other settings

    def __post_init__(self) -> None:
        if len(self.records) < 2:
            raise EdgeSafeError(f"{len(self.records)} record: two or more are needed, audit.json or report.json files")
        if self.out is not None and self.out.suffix not in FORMATS:
            raise EdgeSafeError(f"--out {self.out}: unknown format {self.out.suffix!r}; known: {', '.join(FORMATS)}")
        if self.out is not None and self.out.exists() and not self.force:
            raise EdgeSafeError(f"{self.out} exists. Give another --out, or --force to replace it")


@dataclass(frozen=True)
class Row:
    section: str  # "leakage" | "kept" | "quality" | "speed" | "memory" | "size" | "parity"
    what: str
    values: tuple[str, ...]  # one a record; "–" where it was not measured
    differences: tuple[str, ...]  # of each but the first against it
    verdicts: tuple[str, ...]  # "within noise", "differs", or why it cannot be said


@dataclass(frozen=True)
class Comparison:
    names: tuple[str, ...]
    other_settings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


def run(config: CompareConfig) -> Comparison:
    """Writes `config.out`, too. Raises: EdgeSafeError for records of other settings, naming them, unless `anyway`."""
    records = [Record(path) for path in config.records]
    other = tuple(line for record in records[1:] for line in other_settings(records[0], record))
    if other and not config.anyway:
        raise EdgeSafeError(f"not measured alike: {'; '.join(other)}. Measure them alike, or compare them all the same with --anyway")
    rows = tuple(row for section in (_leaks, _kept, _quality, _speed, _memory, _sizes, _parity) for row in section(records))
    if not rows:
        raise EdgeSafeError(f"{' and '.join(str(path) for path in config.records)} have nothing measured in common")
    found = Comparison(tuple(record.name for record in records), other, tuple(_notes(records, rows)), rows)
    if config.out:
        text = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n" if config.out.suffix == ".json" else markdown(found)
        with NamingFullDisk(config.out):
            config.out.write_text(text, encoding="utf-8")
    return found


def _leaks(records: Sequence[Record]) -> Iterator[Row]:
    tables = [
        {(r["probe"], r["concept"], r["detector"]): (r["export"] or {}).get("leaked") for r in (record.audit or {}).get("cells", [])}
        for record in records
    ]
    for probe, concept, detector in _keys(tables):
        what, cell = f"“{concept}” leaked, {probe}, {detector}", (probe, f"erased {concept}", detector)
        yield _rates("leakage", what, [table.get((probe, concept, detector)) for table in tables], [r.flags(*cell) for r in records])


def _kept(records: Sequence[Record]) -> Iterator[Row]:
    tables = [
        {(r["cell"], r["concept"], r["detector"]): (r["export"] or {}).get("right") for r in (record.audit or {}).get("kept", [])}
        for record in records
    ]
    for kind, concept, detector in _keys(tables):
        title = f"{kind} of {concept}" if concept else kind
        flags = [record.flags("plain", title, detector) for record in records]
        yield _rates("kept", f"{title} right, {detector}", [table.get((kind, concept, detector)) for table in tables], flags)


def _rates(section: str, what: str, rates: Sequence[dict[str, Any] | None], flags: Sequence[dict[Key, bool]]) -> Row:
    shares = [_limits(rate) if rate and rate["denominator"] else None for rate in rates]
    values = tuple(_value(rate, share) for rate, share in zip(rates, shares, strict=True))
    found = [_difference(shares[0], share, _pairs(rates, flags, i)) for i, share in enumerate(shares[1:], 1)]
    return Row(section, what, values, tuple(d for d, _ in found), tuple(v for _, v in found))


def _value(rate: dict[str, Any] | None, share: Share | None) -> str:
    return f"{rate['numerator']}/{rate['denominator']} [{100 * share.low:.1f}, {100 * share.high:.1f}] %" if rate and share else NONE


def _pairs(rates: Sequence[dict[str, Any] | None], flags: Sequence[dict[Key, bool]], i: int) -> list[tuple[bool, bool]] | None:
    """Flags of the same questions in the first record and in record i; None unless they are all that both rates count."""
    if not flags[0] or flags[0].keys() != flags[i].keys():
        return None
    for rate, own in ((rates[0], flags[0]), (rates[i], flags[i])):
        if not rate or (rate["numerator"], rate["denominator"]) != (sum(own.values()), len(own)):
            return None
    return [(flags[0][key], flags[i][key]) for key in flags[0]]


def _difference(first: Share | None, other: Share | None, pairs: list[tuple[bool, bool]] | None) -> tuple[str, str]:
    """(difference in points with its interval, verdict)"""
    if first is None or other is None:
        return NONE, UNMEASURED
    low, high = differences.interval(first, other, differences.phi(pairs) if pairs else 0.0)
    text = f"{100 * (other.rate - first.rate):+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    apart = not low <= 0 <= high
    if pairs is None:
        return text, f"{DIFFERS if apart else NOISE}, not paired"
    only_first, only_other = (sum(pair == kind for pair in pairs) for kind in ((True, False), (False, True)))
    p = differences.mcnemar(only_first, only_other)
    counts = f"{only_first} only in the first, {only_other} only here, p {p:.2g}"
    return text, f"{DIFFERS if apart and p < LEVEL else NOISE}: {counts}"


def _quality(records: Sequence[Record]) -> Iterator[Row]:
    tables = [
        {(r["detector"], r["generated_pictures"]): r["fid"] for r in (record.audit or {}).get("quality", []) if r["what"] == "export"}
        for record in records
    ]
    for key in _keys(tables):
        what = f"FID, {key[1]} pictures, {key[0]}"
        yield _plain("quality", what, [table.get(key) for table in tables], "{:.2f}", "no interval: it is one draw of pictures")


def _speed(records: Sequence[Record]) -> Iterator[Row]:
    tables = _by_runtime(records, "latency", ("part", "batch", "threads"))
    for runtime, part, batch, threads in _keys(tables):
        rows = [table.get((runtime, part, batch, threads)) for table in tables]
        values = tuple(f"{r['median_ms']:.4g} [{r['q1_ms']:.4g}, {r['q3_ms']:.4g}] ms" if r else NONE for r in rows)
        found = [_slower(rows[0], row) for row in rows[1:]]
        what = f"{part.replace('_', ' ')}, {runtime}, batch {batch}, {threads} threads"
        yield Row("speed", what, values, tuple(d for d, _ in found), tuple(v for _, v in found))


def _slower(first: dict[str, Any] | None, other: dict[str, Any] | None) -> tuple[str, str]:
    if first is None or other is None:
        return NONE, UNMEASURED
    overlap = first["q1_ms"] <= other["q3_ms"] and other["q1_ms"] <= first["q3_ms"]
    verdict = f"{NOISE}: the middle halves overlap" if overlap else DIFFERS
    return f"x {other['median_ms'] / first['median_ms']:.2f}", f"{verdict}, not timed in one run"


def _memory(records: Sequence[Record]) -> Iterator[Row]:
    tables = _by_runtime(records, "memory", ("threads",))
    for runtime, threads in _keys(tables):
        rows = [table.get((runtime, threads)) for table in tables]
        peaks = [row["peak_mib"] if row else None for row in rows]
        yield _plain("memory", f"peak, {runtime}, {threads} threads", peaks, "{:.1f} MiB", "one run each")


def _sizes(records: Sequence[Record]) -> Iterator[Row]:
    tables = [_rows(record, "sizes", ()) for record in records]
    if any(tables):
        totals = [table[()]["total_mib"] if () in table else None for table in tables]
        yield _plain("size", "all files", totals, "{:.2f} MiB", "exact")


def _parity(records: Sequence[Record]) -> Iterator[Row]:
    tables = [{(r["a"], r["b"]): r for r in (record.report or {}).get("parity", []) if r["status"] == "measured"} for record in records]
    for key in _keys(tables):
        rows = [table.get(key) for table in tables]
        lowest = [row["lowest_psnr_db"] if row else None for row in rows]
        yield _plain("parity", f"{key[0]} and {key[1]}, worst picture", lowest, "{:.1f} dB", "exact for these pictures")


def _plain(section: str, what: str, numbers: Sequence[float | None], form: str, verdict: str) -> Row:
    """A row of numbers without limits."""
    values = tuple(NONE if x is None else form.format(x) for x in numbers)
    first, found = numbers[0], []
    for x in numbers[1:]:
        if first is None or x is None:
            found.append((NONE, UNMEASURED))
        else:
            found.append((("-" if x < first else "+") + form.format(abs(x - first)), verdict))
    return Row(section, what, values, tuple(d for d, _ in found), tuple(v for _, v in found))


def _by_runtime(records: Sequence[Record], table: str, by: Sequence[str]) -> list[dict[Any, dict[str, Any]]]:
    """A record's measured rows by (runtime, ...); where no runtime ran them all, each record's first one, under the names of them all."""
    tables = [_rows(record, table, ("runtime", *by)) for record in records]
    names = [list(dict.fromkeys(key[0] for key in found)) for found in tables]
    if not all(names) or set(names[0]).intersection(*names[1:]):
        return tables
    title = ", ".join(first for first, *_ in names)
    pairs = zip(tables, names, strict=True)
    return [{(title, *key[1:]): row for key, row in found.items() if key[0] == first} for found, (first, *_) in pairs]


def _rows(record: Record, table: str, by: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """Measured rows of the export."""
    rows = (record.report or {}).get(table, [])
    return {tuple(row[name] for name in by): row for row in rows if row["what"] == "export" and row["status"] == "measured"}


def _keys(tables: Sequence[Mapping[Any, Any]]) -> list[Any]:
    """Of all, in order of first sight."""
    return list(dict.fromkeys(key for table in tables for key in table))


def _notes(records: Sequence[Record], rows: Sequence[Row]) -> Iterator[str]:
    tested = sum(verdict.startswith((NOISE, DIFFERS)) for row in rows if row.section in ("leakage", "kept") for verdict in row.verdicts)
    if tested > 1:
        yield f"{tested} rates are compared at {LEVEL:.0%} each: about {LEVEL * tested:.2f} would differ by chance alone."
    for record in records:
        if record.audit is None:
            yield f"{record.path} holds no audit: {record.head['audit_reason']}."
        elif record.pictures is None:
            yield f"{record.path}: no {record.audit['pictures']} beside it, so its pictures are not paired with others."
    for record in records[1:]:
        for key in ("runtime", "control", "machine", "versions"):
            one, two = ((r.audit or r.head).get(key) for r in (records[0], record))
            if one != two and None not in (one, two):
                yield f"Another {key}: {words(unlike(one, two))} and {words(unlike(two, one))}."


def _limits(rate: dict[str, Any]) -> Share:
    """The widest of its intervals."""
    return Share(rate["rate"], min(rate["wilson95"][0], rate["clustered95"][0]), max(rate["wilson95"][1], rate["upper95"]))


def show(found: Comparison, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in _heads(found):
        table.add_column(Text(head), overflow="fold")
    for _, rows in groupby(found.rows, key=lambda row: row.section):
        for row in rows:
            table.add_row(*(Text(cell) for cell in _line(row)))
        table.add_section()
    for line in found.other_settings:
        console.print(f"Other settings: {line}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for line in found.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def markdown(found: Comparison) -> str:
    lines = [_heads(found), ["---"] * len(_heads(found)), *(_line(row) for row in found.rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    above = "".join(f"- **Other settings**: {line}\n" for line in found.other_settings)
    below = "".join(f"- {line}\n" for line in found.notes)
    return "\n".join(part for part in (f"# {' against '.join(found.names)}\n", above, table + "\n", below) if part)


def _heads(found: Comparison) -> list[str]:
    others = [head for name in found.names[1:] for head in (name, "difference", "verdict")]
    return ["", found.names[0], *others]


def _line(row: Row) -> list[str]:
    others = zip(row.values[1:], row.differences, row.verdicts, strict=True)
    return [row.what, row.values[0], *(cell for triple in others for cell in triple)]
