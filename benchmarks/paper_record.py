"""What the paper table's cells say together: every row's columns over the test concepts, and the paper's claims, met or not.

A column's mean gives each concept the same weight. A claim is "met" or "not met" where its whole 95 % interval is on one side of the
limit, else it "cannot be decided". The paper's claim on erasing compares each bilevel row with the two-stage row of the lowest loss on
the test concepts (`paper_scores.loss`: the least similar one at matched quality); where both sit at the floor, the harder probes decide.
That row may keep its quality by erasing nothing, so each is held against the two-stage row that removes most, too.
It says of both whether they keep within all limits, for whoever breaks pictures is unlike any concept. Failed cells are listed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgesafe import artifact
from edgesafe.emoji import judge

from . import paper_plan, paper_scores
from .paper_cells import ANCHOR
from .paper_models import Cell
from .paper_plan import (
    CAPTIONS,
    CLAIM_RATIO,
    FID_LIMIT,
    FLOOR,
    HARDER,
    LEARNED,
    PROBED,
    ROWS,
    SWITCHED,
    TEST,
    TRANSFER_LIMIT,
    TUNING,
    N,
)
from .paper_runs import Study, missing
from .paper_scores import Figure, average, combine, cosines, normalised, share

SCHEMA_VERSION = 1
Columns = Mapping[str, Figure]
COLUMNS = (
    "alignment", "similarity", "similarity_normalised", "similarity_to_renders", "similarity_to_renders_normalised", "cp", "removed",
    "broken", "broken_more", "neighbours", "broken_kept", "accuracy", "accuracy_loss", "alignment_kept", "fid", "fid_ratio", "kid",
    "transfer", "transfer_style", "transfer_loss",
)  # fmt: skip


def record(study: Study) -> dict[str, Any]:
    """All that is measured, ready for JSON: the shape is the same however much that is, None where a figure is missing."""
    topics = {topic.name: found for topic in TEST if (found := _columns(study, topic))}
    rows = {key: _row(study, key, {name: found[key] for name, found in topics.items() if key in found}) for key in ROWS}
    means = {key: found["mean"] for key, found in rows.items() if found["mean"]}
    harder = _harder(study)
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": _settings(study),
        "rows": [_plain(found) for found in rows.values()],
        "claims": [claim(key, means, harder) for key in _bilevel()],
        "claims_against_most_removed": [claim(key, means, harder, most_removed) for key in _bilevel()],
        "transfer": [
            {"row": key, "loss": found["transfer_loss"].to_dict()} | _verdict(found["transfer_loss"], TRANSFER_LIMIT)
            for key, found in means.items()
            if ROWS[key].kind != "reference"
        ],
        "harder": [
            {"row": key, "probes": {probe: {name: f.to_dict() for name, f in columns.items()} for probe, columns in found.items()}}
            for key, found in harder.items()
        ],
        "captions": _captions(study),
        "search": [{"row": key} | facts for key, facts in study.frozen.items()],
        "failed": [{"cell": cell.id, "reason": facts["reason"]} for cell, facts in _failed(study)],
    }


def tied(study: Study) -> frozenset[str]:
    """Rows of claims that plain prompts cannot decide."""
    topics = [found for topic in TEST if (found := _columns(study, topic))]
    if len(topics) < len(TEST):
        return frozenset()
    means = {key: _mean([found[key] for found in topics]) for key in ROWS if all(key in found for found in topics)}
    made = [claim(key, means, {}, rival) for key in _bilevel() for rival in (_loss, most_removed)]
    return frozenset(row for found in made if found["floor"] for row in (found["row"], found["baseline"]))


def _bilevel() -> list[str]:
    return [key for key, row in ROWS.items() if row.kind == "bilevel"]


def _loss(columns: Columns) -> tuple[bool, float, float]:
    """The least similar row at matched quality comes first; where none matches, the one of the lowest penalised sum."""
    return paper_scores.loss(*(columns[name].value for name in ("similarity_normalised", "fid_ratio", "accuracy_loss", "broken_more")))


def most_removed(columns: Columns) -> tuple[float, ...]:
    """The row that removes most comes first, whatever else it costs."""
    return (-columns["removed"].value, columns["similarity_normalised"].value)


def claim(
    row: str,
    means: Mapping[str, Columns],
    harder: Mapping[str, Mapping[str, Columns]],
    rival: Callable[[Columns], tuple[float, ...]] = _loss,
) -> dict[str, Any]:
    """The paper's claim of one bilevel row, held against the two-stage row that comes first by `rival`."""
    found: dict[str, Any] = {
        "row": row, "baseline": None, "floor": None, "by": None, "erases": None, "keeps": None, "baseline_similarity": None,
        "row_similarity": None, "row_at_matched_quality": None, "baseline_at_matched_quality": None, "baseline_removed": None,
        "baseline_fid_ratio": None, "similarity_limit": CLAIM_RATIO, "fid_limit": FID_LIMIT,
    }  # fmt: skip
    if row not in means or "distilled" not in means:
        return found
    mine = means[row]
    found["row_at_matched_quality"] = not _loss(mine)[0]
    found["keeps"] = {"fid_ratio": mine["fid_ratio"].to_dict()} | _verdict(mine["fid_ratio"], FID_LIMIT)
    baselines = [key for key, other in ROWS.items() if other.kind == "two-stage" and key in means]
    if not baselines:
        return found
    base = min(baselines, key=lambda key: rival(means[key]))
    pair, by = (mine["similarity_normalised"], means[base]["similarity_normalised"]), "plain prompts"
    floor = all(figure.value <= FLOOR for figure in pair)
    if floor:
        probes = [probe for probe in (*HARDER, LEARNED) if all(probe in harder.get(key, {}) for key in (row, base))]
        by = f"harder probes: {', '.join(probes)}" if probes else "nothing yet: both at the floor, harder probes not measured"
        if probes:
            pair = tuple(average([harder[key][probe]["similarity_normalised"] for probe in probes]) for key in (row, base))  # type: ignore[assignment]
    difference = combine(lambda a, b: a - CLAIM_RATIO * b, *pair)
    ratio = combine(lambda a, b: a / b, *pair)
    decided = _verdict(difference, 0.0) if by.startswith(("plain", "harder")) else {"verdict": "cannot be decided"}
    row_similarity, baseline_similarity = (figure.to_dict() for figure in pair)
    # Below its floor a baseline leaves nothing to take a share of.
    shown = ratio.to_dict() if pair[1].interval[0] > 0 else None
    return found | {
        "baseline": base, "baseline_at_matched_quality": not _loss(means[base])[0], "baseline_removed": means[base]["removed"].to_dict(),
        "baseline_fid_ratio": means[base]["fid_ratio"].to_dict(), "floor": floor, "by": by, "row_similarity": row_similarity,
        "baseline_similarity": baseline_similarity, "erases": {"ratio": shown, "excess": difference.to_dict()} | decided,
    }  # fmt: skip


def _columns(study: Study, topic: paper_plan.Topic) -> dict[str, Columns]:
    """By row, of those that are measured on this test concept; nothing while the distilled model is not."""
    if not study.frozen or not study.measured(Cell("test", "distilled", topic)):
        return {}
    cells = [cell for cell in study.cells("test") if cell.topic == topic]
    found = {cell.row: columns for cell in cells if (columns := study.columns(cell))}
    return {key: columns | {"fid_ratio": _ratio(columns["fid"], found["distilled"]["fid"])} for key, columns in found.items()}


def _mean(topics: list[Columns]) -> Columns:
    """Over concepts, of the FID ratio too."""
    return {name: average([columns[name] for columns in topics]) for name in COLUMNS}


def _ratio(a: Figure, b: Figure) -> Figure:
    return combine(lambda x, y: x / y, a, b)


def _verdict(figure: Figure, limit: float) -> dict[str, str]:
    low, high = figure.interval
    return {"verdict": "met" if high <= limit else "not met" if low > limit else "cannot be decided"}


def _row(study: Study, key: str, topics: Mapping[str, Columns]) -> dict[str, Any]:
    row, whole = ROWS[key], len(topics) == len(TEST)
    chosen = study.frozen.get(key, {})
    cells = [] if not study.frozen else [cell for cell in study.cells("test") if cell.row == key]
    failed = [f"{cell.topic.name}: {facts['reason']}" for cell in cells if (facts := study.facts(cell)) and facts["status"] == "failed"]
    why = missing(row) or (f"failed on {'; '.join(failed)}" if failed else None)
    return {
        "key": key,
        "label": row.label,
        "kind": row.kind,
        "status": "measured" if whole else "missing" if missing(row) else "failed" if failed else "not measured",
        "reason": None if whole else why or "not reached yet",
        "candidate": chosen.get("candidate"),
        "mean": _mean([*topics.values()]) if whole else None,
        "topics": {topic.name: topics.get(topic.name) for topic in TEST},
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def figures(columns: Columns | None) -> dict[str, Any] | None:
        return None if columns is None else {name: columns[name].to_dict() for name in COLUMNS}

    return row | {"mean": figures(row["mean"]), "topics": {name: figures(columns) for name, columns in row["topics"].items()}}


def _harder(study: Study) -> dict[str, dict[str, Columns]]:
    """Row -> probe -> columns over all test concepts; only what is measured on each of them."""
    found: dict[str, dict[str, list[Columns]]] = {}
    for topic in TEST if study.frozen else ():
        if not study.measured(Cell("harder", "distilled", topic)):
            return {}
        yard = study.yardstick(topic, "harder")
        times, before, anchor = yard.times("concept"), yard.distilled["concept"], yard.distilled[ANCHOR]
        s_anchor = share(cosines(anchor.embedding, before.embedding), times)
        for key, probe, sets in _probed(study, topic):
            under = study.sets(Cell("harder", "distilled", topic, probe=probe)) or yard.distilled  # what else there is to reach
            s_distilled = share(cosines(under["concept"].embedding, before.embedding), times)
            s = share(cosines(sets["concept"].embedding, before.embedding), times)
            columns = {
                "similarity_normalised": normalised(s, s_distilled, s_anchor),
                "alignment": share(sets["concept"].concept, times),
                "shown": share(sets["concept"].shown & ~sets["concept"].broken, times),
            }
            found.setdefault(key, {}).setdefault(probe, []).append(columns)
    return {
        key: {
            probe: {name: average([columns[name] for columns in rows]) for name in rows[0]}
            for probe, rows in probes.items()
            if len(rows) == len(TEST)
        }
        for key, probes in found.items()
    }


def _probed(study: Study, topic: paper_plan.Topic) -> list[tuple[str, str, dict[str, Any]]]:
    return [(cell.row, cell.probe, sets) for cell in _asked_harder(study, topic) if (sets := study.sets(cell))]


def _asked_harder(study: Study, topic: paper_plan.Topic) -> list[Cell]:
    rows = [("distilled", None), *((key, facts["candidate"]) for key, facts in study.frozen.items())]
    return [Cell("harder", key, topic, name, probe=probe) for key, name in rows for probe in (*HARDER, LEARNED)]


def _failed(study: Study) -> list[tuple[Cell, dict[str, Any]]]:
    """Of all stages, whatever stands in other parts of the record."""
    cells = [Cell("tuning", "distilled", topic) for topic in TUNING]
    cells += [Cell("tuning", key, topic, name) for key, row in ROWS.items() for name in row.candidates for topic in TUNING]
    if study.frozen:
        cells += [cell for stage in ("test", "harder", "captions") for cell in study.cells(stage)]
        cells += [cell for topic in TEST for cell in _asked_harder(study, topic)]
    return [(cell, facts) for cell in dict.fromkeys(cells) if (facts := study.facts(cell)) and facts["status"] == "failed"]


def _captions(study: Study) -> list[dict[str, Any]]:
    """The switch concept_captions on the first tuning concept, with what was chosen for the row; "retarget" is the row as it is."""
    topic, found = TUNING[0], []
    if not study.measured(Cell("tuning", "distilled", topic)):
        return []
    before = study.columns(Cell("tuning", "distilled", topic)) or {}
    for key in SWITCHED:
        if key not in study.frozen:
            continue
        name = study.frozen[key]["candidate"]
        cells = {"retarget": Cell("tuning", key, topic, name)}
        cells |= {captions: Cell("captions", key, topic, name, captions) for captions in CAPTIONS}
        for captions, cell in cells.items():
            if columns := study.columns(cell):
                columns = columns | {"fid_ratio": _ratio(columns["fid"], before["fid"])}
                found.append({"row": key, "captions": captions, "columns": {n: columns[n].to_dict() for n in COLUMNS}})
    return found


def _settings(study: Study) -> dict[str, Any]:
    d = study.config.drawing
    return {
        "iterations": N,
        "training": dict(paper_plan.SHARED) | dict(study.config.shrink),
        "pictures": {stage: vars(study.config.drawn[stage]) for stage in ("tuning", "test")} | {"a harder probe": PROBED},
        "drawing": {"sampler": d.sampler, "steps": d.steps, "guidance": d.guidance},
        "tuning": {topic.name: topic.erase for topic in TUNING},
        "test": {topic.name: topic.erase for topic in TEST},
        "frozen_sha256": study.frozen_sha256,
        "judge_sha256": judge.sha256(),
        "versions": artifact.versions("torch", "diffusers", "transformers"),
    }
