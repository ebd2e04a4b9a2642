"""The record of benchmarks/methods.py as Markdown: what is supported, what is experimental and why, and every row's figures."""

from typing import Any

from .methods_plan import BATCH, KINDS, MACS, STEPS

HEAD = f"""# Methods

Made by `python -m edgesafe.benchmarks.methods` from the registries. A method is **supported** where a test file makes or names it, a
short run of it on the emoji model finished, the run's ONNX export passed the parity gate and was audited. Otherwise it is
**experimental**.

Erasers and solvers: "neon" erased from the packaged student in {STEPS} iterations of {BATCH} pictures, in closed form without any.
Pruners: the packaged teacher pruned (to {100 * MACS:.0f} % of its MACs, where a method has a target), {STEPS} iterations of distillation,
then UCE. These runs are far too short to rank methods by: they show that each works from end to end. How well methods erase is another
table's matter.
"""
COLUMNS = (
    "method", "status", "leaks at most", "plain: leaks", "un-erased", "removed", "kept", "kept, un-erased", "parity dB", "UNet MiB", "test",
)  # fmt: skip


def markdown(record: dict[str, Any]) -> str:
    parts = [HEAD]
    for status in ("supported", "experimental"):
        listed = [f"- {kind}s: {', '.join(names)}" for kind in KINDS if (names := _names(record, kind, status))]
        parts += [f"**{status.capitalize()}**\n", "\n".join(listed) + "\n"] if listed else []
    for kind in KINDS:
        rows = [row for row in record["rows"] if row["kind"] == kind]
        lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *(_line(_cells(row)) for row in rows)]
        parts.append("\n".join([f"## {kind.capitalize()}s\n", *lines]) + "\n")
    missing = [f"- {row['id']}: {'; '.join(row['missing'])}" for row in record["rows"] if row["missing"]]
    parts += ["Why experimental:\n", "\n".join(missing) + "\n"] if missing else []
    settings = record["settings"]
    parts.append(
        f"Leaks at most: the upper 95 % limit of the worst probe, of {settings['probes'].replace(',', ', ')}; {settings['pictures']} "
        "pictures a probe. Removed: plain pictures without the concept that are good pictures of what else was asked. Kept: pictures of "
        "other styles and of everything else that show what was asked; a pruner's un-erased control is the teacher. Parity: the worst part "
        "of the export against torch.\n"
    )
    return "\n".join(parts)


def _names(record: dict[str, Any], kind: str, status: str) -> list[str]:
    return [f"`{row['label']}`" for row in record["rows"] if (row["kind"], row["verdict"]) == (kind, status)]


def _cells(row: dict[str, Any]) -> list[str]:
    tests = ", ".join(row["test"] or ["none"])
    if row["status"] != "measured":
        return [row["label"], row["verdict"], *[""] * (len(COLUMNS) - 3), tests]
    plain, kept, parity = row["plain"], row["kept"], row["parity"]
    return [
        row["label"],
        row["verdict"],
        f"{100 * row['leaks_at_most']:.0f} % ({row['worst_probe']})",
        _count(plain["export"]),
        _count(plain["control"]),
        _count(row["removed"]["export"]),
        _count(kept["export"]),
        _count(kept["control"]),
        f"{parity['worst_db']:.0f} ({parity['part']})",
        f"{row['size_mib']['unet']:.1f}",
        tests,
    ]


def _count(rate: dict[str, Any]) -> str:
    return f"{rate['numerator']}/{rate['denominator']}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
