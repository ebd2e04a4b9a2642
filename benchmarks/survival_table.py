"""The survival study as Markdown: one thing changed at a time, solver by bits by probe, and the model that was narrow before."""

from collections.abc import Mapping, Sequence
from typing import Any

from .survival_plan import CROSSED, FACTORS, MODELS, SWEPT, VIEWS, Blend, Row

Cells = Mapping[str, dict[str, Any]]
PROBES = ("plain", "completion", "noise")  # columns of the second table


def markdown(record: dict[str, Any]) -> str:
    """Finished cells only; failed ones are listed below with their reasons, and the rest counted."""
    cells = {cell["id"]: cell for cell in record["cells"]}
    done = [cell for cell in cells.values() if cell["status"] == "measured"]
    parts = [_factors(cells), _matrix(cells), _narrow(cells)] if done else []
    failed = [f"- {cell['id']}: failed: {cell['reason']}" for cell in cells.values() if cell["status"] == "failed"]
    missing = len(cells) - len(done) - len(failed)
    parts += ["\n".join(failed)] if failed else []
    parts += [f"{missing} of {len(cells)} cells are not measured yet."] if missing else []
    if any(cell["compared"] for cell in done):
        parts.append(
            "Whole pictures that show what was erased, of all asked, with Wilson's 95 % interval. p: McNemar's exact test against the "
            "base, by pictures of the same prompt and seed; * where it stays under 0.05 after Holm's correction for all "
            f"{record['comparisons']} comparisons."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _factors(cells: Cells) -> str:
    heads = ["changed", "bits a weight", "UNet dB", "un-erased control"]
    for model in SWEPT:
        heads += [f"{MODELS[model].label}: leaks", "removed", "p"]
    lines = []
    for factor in ("base", *FACTORS):
        labels = dict.fromkeys(row.label for model in reversed(SWEPT) for row in VIEWS[factor] if row.model == model)
        for label in labels:
            found = [next((cells[row.id] for row in VIEWS[factor] if (row.model, row.label) == (model, label)), None) for model in SWEPT]
            made = [cell for cell in found if _done(cell)]
            if not made:
                continue
            files = made[-1]["files"]
            decibels = "" if files["unet_db"] is None else f"{files['unet_db']:.0f}{' (refused)' if files['below_the_gate'] else ''}"
            line = [f"**{label}**" if factor == "base" else label, f"{files['bits_a_weight']:.1f}", decibels, _rate(made[-1]["control"])]
            for cell in found:
                line += [_rate(cell["export"]), _count(cell["export"]["removed"]), _p(cell, "base")] if _done(cell) else ["", "", ""]
            lines.append(line)
    return _table(heads, lines)


def _matrix(cells: Cells) -> str:
    lines = []
    for model in (*CROSSED, "steps-60"):
        for form, bits in (("fp32", "fp32"), ("4bit", "4-bit palettes")):
            found = [cells.get(Row(model, form, probe=probe).id) for probe in PROBES]
            if not any(map(_done, found)):
                continue
            line = [f"{MODELS[model].label}, {bits}"]
            for cell in found:
                if cell is None or not _done(cell):
                    line.append("")
                    continue
                p = _p(cell, "base" if cell["probe"] == "plain" else "same probe, unrounded") if form == "4bit" else ""
                line.append(f"{_rate(cell['export'])}{f', p {p}' if p else ''}")
            line += [_count(found[0]["export"]["removed"]), _count(found[0]["export"]["none"])] if _done(found[0]) else ["", ""]
            lines.append(line)
    return _table(["erased by, bits", *(f"{probe}: leaks" for probe in PROBES), "plain: removed", "plain: broken"], lines)


def _narrow(cells: Cells) -> str:
    lines = []
    for row in VIEWS["narrow"]:
        cell = cells[row.id]
        if not _done(cell):
            continue
        files, share = cell["files"], MODELS[row.model]
        amount = f"{100 * share.share:.0f} %" if isinstance(share, Blend) else ""
        kept = "" if files["layers_kept_wider"] is None else str(files["layers_kept_wider"])
        label = f"{row.label}, choice on" if kept else row.label
        line = [amount, label, f"{files['bits_a_weight']:.1f}", kept, _rate(cell["export"]), _p(cell, "base"), _rate(cell["control"])]
        lines.append(line)
    heads = ["share of the change", "files", "bits a weight", "layers kept wider", "leaks", "p", "un-erased 4-bit control"]
    return _table(heads, lines)


def _done(cell: dict[str, Any] | None) -> bool:
    return cell is not None and cell["status"] == "measured"


def _rate(outcomes: dict[str, Any]) -> str:
    leaked = outcomes["leaked"]
    low, high = leaked["wilson95"]
    return f"{_count(leaked)} ({100 * low:.0f}–{100 * high:.0f} %)"


def _count(rate: dict[str, Any]) -> str:
    return f"{rate['numerator']}/{rate['denominator']}"


def _p(cell: dict[str, Any], partner: str) -> str:
    found = next((row for row in cell["compared"] if row["with"] == partner), None)
    if found is None:
        return ""
    shown = "< 0.001" if found["p"] < 0.001 else f"{found['p']:.2g}"
    return shown + ("*" if found["p_holm"] < 0.05 else "")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines))
