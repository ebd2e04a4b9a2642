"""The paper's table as Markdown: rows over all test concepts, the claims, each concept, the harder probes, the switch, the search."""

from collections.abc import Mapping, Sequence
from typing import Any

from .paper_plan import CLAIM_RATIO, FID_LIMIT, HARDER, LEARNED, ROWS

Cell = Mapping[str, Any]
# (heading, figure, percent?, digits)
MAIN = (
    ("prompt alignment ↓", "alignment", False, 2),
    ("style similarity ↓", "similarity", False, 2),
    ("floor-normalised ↓", "similarity_normalised", False, 2),
    ("… to real renders ↓", "similarity_to_renders_normalised", False, 2),
    ("CP ↑", "cp", True, 0),
    ("removed ↑", "removed", True, 0),
    ("broken", "broken", True, 0),
    ("neighbours kept ↑", "neighbours", True, 0),
    ("all kept ↑", "accuracy", True, 0),
    ("alignment, rest ↑", "alignment_kept", False, 2),
    ("FID, rest ↓", "fid", False, 2),
    ("KID, rest ↓", "kid", False, 3),
)
HOLLOW = 0.5  # a row that removes less than this share does not erase
SEARCHED = {
    "similarity_normalised": "similarity", "fid_ratio": "FID ratio", "accuracy_loss": "accuracy lost", "broken_more": "more broken",
    "loss": "loss",
}  # fmt: skip
TOPIC = (*MAIN[2:3], *MAIN[4:8], ("FID / distilled ↓", "fid_ratio", False, 2))


def markdown(record: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """pictures: names of the figures beside it."""
    s, rows = record["settings"], record["rows"]
    test = ", ".join(s["test"])
    shown = {"paper.png": "who erases, and who keeps", "paper-pictures.jpg": "the same prompts and seeds for every row"}
    parts = [
        "# The paper's table on the emoji world",
        f"Made by `python -m edgesafe.benchmarks.paper`. Each row: {s['iterations']} iterations in all, the same batches from the same "
        f"pruned student; searched alike on {', '.join(s['tuning'])}, frozen, then measured once on {test}. "
        f"Means over these concepts, with 95 % intervals by bootstrap over prompts, one training seed. Frozen search: "
        f"`{(s['frozen_sha256'] or 'none')[:12]}`.",
        *(f"![{shown[name]}]({name})" for name in pictures),
        "## Rows",
        _rows(rows),
        _missing(rows),
        _legend(s),
        "## The paper's claim",
        _claims(record["claims"], "best two-stage"),
        _hollow(record["claims"]),
        _claims(record["claims_against_most_removed"], "two-stage row that removes most"),
        "## Style transfer",
        _transfer(record),
        *(part for topic in s["test"] for part in (f"## {topic}", _topic(rows, topic))),
        "## Harder probes",
        _harder(record["harder"]),
        "## Captions that carry the concept",
        _captions(record["captions"]),
        "## The search",
        _search(record["search"]),
        _failed(record["failed"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figure(found: Mapping[str, Any] | None, percent: bool = False, digits: int = 2, interval: bool = True) -> str:
    if found is None or found["value"] is None:
        return ""
    scale = 100 if percent else 1
    text = f"{scale * found['value']:.{digits}f}"
    if interval and found["low95"] is not None:
        text += f" ({scale * found['low95']:.{digits}f}–{scale * found['high95']:.{digits}f})"
    return text


def _rows(rows: Sequence[Cell]) -> str:
    lines = []
    for row in rows:
        if row["mean"]:
            cells = [figure(row["mean"][name], percent, digits) for _, name, percent, digits in MAIN]
            cells[5] += _count(row["mean"]["removed"])
            lines.append([row["label"], *cells])
    return _table(["", *(heading for heading, *_ in MAIN)], lines) or "No row is measured on all test concepts yet."


def _count(found: Mapping[str, Any]) -> str:
    return f" of {found['of']}" if found["of"] else ""


def _missing(rows: Sequence[Cell]) -> str:
    return "\n".join(f"- {row['label']}: {row['status']}, {row['reason']}" for row in rows if row["status"] != "measured")


def _legend(settings: Mapping[str, Any]) -> str:
    n = settings["pictures"]["test"]
    others = n["neighbours"] + n["transfer"] + n["rest"]
    return (
        f"{n['concept']} pictures of each concept and {others} of other prompts. Prompt alignment: the judge's probability of the "
        "concept's class (the paper: CLIP). Style similarity: cosine of the judge's embeddings to the distilled model's picture of the "
        "same prompt and seed (the paper: CSD); floor-normalised: 0 is where the distilled model's pictures of the anchor lie, 1 the "
        "distilled model itself; to real renders: the same against renders of what was asked. CP, %: the concept's probability is lower "
        "than in the distilled model's picture; an un-erased but different model (“distilled again”) is its control. Removed, %: of the "
        "pictures in which the distilled model shows the concept (their number follows “of”), those that show it no more and are not "
        "broken. Kept, %: subject and style as asked. FID and KID in the judge's embedding, against renders of the same prompts."
    )


def _claims(claims: Sequence[Mapping[str, Any]], rival: str) -> str:
    lines = []
    for found in claims:
        label = ROWS[found["row"]].label + _quality(found["row_at_matched_quality"])
        if found["keeps"] is None:
            lines.append([label, "not measured", "", "", "", "", "", ""])
            continue
        keeps, erases = found["keeps"], found["erases"]
        line = [label]
        if erases:
            base = ROWS[found["baseline"]].label + _quality(found["baseline_at_matched_quality"])
            ratio = figure(erases["ratio"]) or "the baseline is at its floor"
            line += [base, f"{figure(found['row_similarity'])} to {figure(found['baseline_similarity'])}", ratio, erases["verdict"]]
            line[3] += f", by {found['by']}" if found["floor"] else ""
        else:
            line += ["no baseline measured", "", "", ""]
        lines.append([*line, figure(keeps["fid_ratio"]), keeps["verdict"], figure(found["baseline_fid_ratio"])])
    heads = ["", rival, "normalised similarity", "ratio", f"≤ {CLAIM_RATIO} × it?", "FID / distilled", f"≤ {FID_LIMIT}?", "its FID"]
    return _table(heads, lines)


def _hollow(claims: Sequence[Mapping[str, Any]]) -> str:
    """What a rival at matched quality is worth that has hardly erased."""
    weak = {found["baseline"] for found in claims if found["baseline_removed"] and found["baseline_removed"]["value"] < HOLLOW}
    if not weak:
        return ""
    names = " and ".join(ROWS[key].label for key in ROWS if key in weak)
    return (
        f"The rule for the best two-stage row, fixed before the test concepts were looked at, asks for matched quality first, and {names} "
        "keeps it by removing next to nothing: where that is the rival, “met” is hollow. So the same again, against the two-stage "
        "row that removes most, whatever its quality; this comparison was added after the figures were seen."
    )


def _quality(matched: bool | None) -> str:
    return ", whose quality is worse" if matched is False else ""


def _transfer(record: Mapping[str, Any]) -> str:
    means = {row["key"]: row["mean"] for row in record["rows"] if row["mean"]}
    verdicts = {found["row"]: found["verdict"] for found in record["transfer"]}
    lines = [
        [
            ROWS[key].label,
            figure(mean["transfer_style"], True, 0),
            figure(mean["transfer"], True, 0),
            figure(mean["transfer_loss"], True, 1) if key in verdicts else "",
            verdicts.get(key, ""),
        ]
        for key, mean in means.items()
    ]
    return _table(["", "style right, %", "style and subject right, %", "less than distilled, points", "within 2 points?"], lines)


def _topic(rows: Sequence[Cell], topic: str) -> str:
    lines = []
    for row in rows:
        if found := row["topics"][topic]:
            cells = [figure(found[name], percent, digits) for _, name, percent, digits in TOPIC]
            cells[2] += _count(found["removed"])
            lines.append([row["label"], *cells])
    return _table(["", *(heading for heading, *_ in TOPIC)], lines) or "Not measured yet."


def _harder(harder: Sequence[Mapping[str, Any]]) -> str:
    probes = [probe for probe in (*HARDER, LEARNED) if any(probe in found["probes"] for found in harder)]
    lines = []
    for found in harder:
        line = [ROWS[found["row"]].label]
        for probe in probes:
            columns = found["probes"].get(probe)
            line += [figure(columns["similarity_normalised"]), figure(columns["shown"], True, 0)] if columns else ["", ""]
        lines.append(line)
    heads = ["", *(head for probe in probes for head in (f"{probe}: normalised similarity ↓", "shows the concept, % ↓"))]
    return _table(heads, lines) if lines and probes else "Not measured yet."


def _captions(found: Sequence[Mapping[str, Any]]) -> str:
    names = (*MAIN[2:3], *MAIN[4:9], ("FID / distilled ↓", "fid_ratio", False, 2))
    lines = [
        [ROWS[row["row"]].label, row["captions"], *(figure(row["columns"][name], percent, digits) for _, name, percent, digits in names)]
        for row in found
    ]
    return _table(["", "concept_captions", *(heading for heading, *_ in names)], lines) or "Not measured yet."


def _search(search: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in search:
        for name, first in row["searched"]["first"].items():
            mean = row["searched"]["finalists"].get(name)
            marked = f"**{name}**" if name == row["candidate"] else name
            cells = [f"{facts[key]:.2f}" if facts else "" for facts in (first, mean) for key in SEARCHED]
            lines.append([ROWS[row["row"]].label, marked, *cells])
    heads = ["", "candidate", *(f"{where}: {what}" for where in ("first concept", "mean of all") for what in SEARCHED.values())]
    return _table(heads, lines) or "Nothing is frozen yet."


def _failed(failed: Sequence[Cell]) -> str:
    return "\n".join(["## Failed cells\n", *(f"- {found['cell']}: {found['reason']}" for found in failed)]) if failed else ""


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)) if lines else ""
