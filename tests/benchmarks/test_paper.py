"""The paper's table: figures against hand-computed toys and closed forms; the search, the freeze and the table from stored cells."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgesafe import checkpoint, presets
from edgesafe.benchmarks import (
    paper,
    paper_figure,
    paper_models,
    paper_plan,
    paper_record,
    paper_runs,
    paper_scores,
    paper_search,
    paper_table,
    questions,
)  # fmt: skip
from edgesafe.benchmarks.gallery import Drawing
from edgesafe.benchmarks.paper_cells import ANCHOR
from edgesafe.benchmarks.paper_models import Cell, Config
from edgesafe.benchmarks.paper_plan import BASES, DRAWN, ROWS, TEST, TUNING, N, Sizes
from edgesafe.benchmarks.paper_questions import ask, topic_concepts
from edgesafe.benchmarks.paper_runs import Study, missing
from edgesafe.benchmarks.paper_scores import Figure, Seen, Yardstick, average, combine, resamples, share
from edgesafe.concepts import carriers
from edgesafe.emoji import judge
from edgesafe.errors import EdgeSafeError, Stopped
from edgesafe.metrics.frechet import frechet_distance
from edgesafe.metrics.kernel import cubic, kernel_distance

TINY = Sizes(3, 2, 2, 2)
FEW = Drawing(2, 3.0, "ddim")


def seen(vectors: list[list[float]], concept: list[float], shown: list[bool], broken: list[bool] | None = None) -> Seen:
    n = len(vectors)
    flags = torch.ones(n, dtype=torch.bool)
    dead = torch.tensor(broken or [False] * n)
    return Seen(torch.tensor(vectors), torch.tensor(concept), torch.full((n,), 0.5), torch.tensor(shown), flags, flags, dead)


def yardstick(distilled: Seen, anchor: Seen) -> Yardstick:
    asked = {"concept": ask(TUNING[0], replace(TINY, concept=len(distilled.shown)))["concept"]}
    return Yardstick(asked, {"concept": distilled, "anchor": anchor}, {"concept": distilled.embedding[None]})


# Figures


def test_erased_against_figures_by_hand():
    """Distilled pictures along x, the anchor's at cos 0.2 to them, the row's at cos 0.6 and 1: s = 0.8, (0.8 - 0.2) / (1 - 0.2) = 0.75."""
    distilled = seen([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [0.9, 0.8, 0.7, 0.4], [True, True, True, False])
    low = [0.2, math.sqrt(1 - 0.04)]
    anchor = seen([low] * 4, [0.0] * 4, [False] * 4)
    row = seen(
        [[0.6, 0.8], [1.0, 0.0], [3.0, 4.0], [1.0, 0.0]], [0.1, 0.8, 0.2, 0.5], [False, True, False, True], [False, False, True, False]
    )
    found = paper_scores.erased(yardstick(distilled, anchor), row)
    assert found["similarity"].value == pytest.approx(0.8)
    assert found["similarity_normalised"].value == pytest.approx(0.75)
    assert found["alignment"].value == pytest.approx(0.4)
    assert found["cp"].value == 0.5  # lower at the first and the third; equal is not lower
    assert (found["removed"].hits, found["removed"].total) == (1, 3)  # of three positives one leaks still, and one is broken
    assert found["broken"].hits == 1


def test_the_distilled_model_and_the_anchor_are_the_ends_of_the_scale():
    distilled, anchor = (seen(torch.randn(8, 4).tolist(), [0.5] * 8, [True] * 8) for _ in range(2))
    yard = yardstick(distilled, anchor)
    for row, end in ((distilled, 1.0), (anchor, 0.0)):
        found = paper_scores.erased(yard, row)
        assert found["similarity_normalised"].value == pytest.approx(end, abs=1e-6)
        assert found["similarity_to_renders_normalised"].value == pytest.approx(end, abs=1e-6)
        assert found["similarity_normalised"].interval == pytest.approx((end, end), abs=1e-6)
    assert paper_scores.erased(yard, distilled)["cp"].value == 0.0


def prompts(n: int, of: str = "prompt") -> list[str]:
    return [f"{of} {i}" for i in range(n)]


def test_bootstrap_of_a_mean_has_the_standard_error_of_theory():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    low, high = share(values, resamples(prompts(400))).interval
    assert (high - low) / 2 == pytest.approx(1.96 * float(values.std(correction=0)) / 20, rel=0.06)


def test_bootstrap_draws_whole_prompts():
    """Four pictures of each of 25 prompts, alike: as wide as 25 pictures."""
    values = torch.randn(25, generator=torch.Generator().manual_seed(2))
    pictures = resamples([prompt for prompt in prompts(25) for _ in range(4)])
    assert pictures.sum(1).mean() == pytest.approx(100, rel=0.02)
    wide, narrow = share(values.repeat_interleave(4), pictures), share(values, resamples(prompts(25)))
    assert wide.interval == pytest.approx(narrow.interval, abs=1e-9)


def test_topics_that_ask_the_same_prompts_tell_no_more_than_one():
    """A mean over two topics of the same prompts and pictures is as wide as one of them; of others, 1 / sqrt 2 as wide."""
    values, other = torch.randn(2, 200, generator=torch.Generator().manual_seed(4))
    one = share(values, resamples(prompts(200)))
    same, apart = (average([one, figure]) for figure in (one, share(other / other.std() * values.std(), resamples(prompts(200, "other")))))
    width, *widths = (high - low for low, high in (figure.interval for figure in (one, same, apart)))
    assert widths == [pytest.approx(width), pytest.approx(width / math.sqrt(2), rel=0.1)]


def test_what_is_kept_is_the_same_prompt_in_most_topics_so_their_draws_are_shared():
    sketch, mosaic = (ask(topic, DRAWN["test"]) for topic in TEST[:2])
    assert {q.origin for q in sketch["rest"]} == {q.origin for q in mosaic["rest"]}
    a, b = (Yardstick(asked, {}, {}) for asked in (sketch, {"rest": mosaic["rest"][::-1]}))
    assert np.array_equal(a.times("rest").sum(1), b.times("rest").sum(1))
    assert len(np.unique(a.times("rest").sum(1))) > 10


def test_a_draw_without_pictures_is_left_out():
    row, real = torch.randn(3, 4), torch.randn(9, 4)
    times = np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [2, 1, 0]])
    for found in (share(torch.ones(3), times), paper_scores.fid(row, real, times), paper_scores.kid(row, real, times)):
        assert math.isnan(found.draws[1]) and np.isfinite(found.interval).all()


def test_differences_of_two_rows_are_paired():
    a = torch.randn(50, generator=torch.Generator().manual_seed(3))
    times = resamples(prompts(50))
    difference = combine(lambda x, y: x - y, share(a + 1, times), share(a, times))
    assert difference.interval == pytest.approx((1.0, 1.0), abs=1e-6)


def test_average_weighs_topics_alike_and_adds_counts():
    a, b = Figure(0.5, np.array([0.5, 0.5]), 5, 10), Figure(1.0, np.array([1.0, 0.0]), 90, 90)
    found = average([a, b])
    assert (found.value, found.hits, found.total) == (0.75, 95, 100)
    assert found.draws.tolist() == [0.75, 0.25]


def test_kid_draws_leave_out_pairs_of_copies():
    row, real = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (7, 20))
    counts = np.array([2, 0, 1, 1, 3, 0, 0])
    found = paper_scores.kid(row, real, np.stack([np.ones(7), counts]))
    assert found.value == pytest.approx(kernel_distance(row, real))
    assert found.draws[0] == pytest.approx(kernel_distance(row, real))
    rows = np.repeat(np.arange(7), counts)
    k, across = cubic(row.double(), row.double()), cubic(row.double(), real.double())
    pairs = [float(k[i, j]) for i in rows for j in rows if i != j]
    b = cubic(real.double(), real.double())
    within = float(b.sum() - b.trace()) / (20 * 19)
    assert found.draws[1] == pytest.approx(np.mean(pairs) + within - 2 * float(across[rows].mean()))


def test_fid_draws_have_the_estimate_as_their_median():
    row, real = (torch.randn(60, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    found = paper_scores.fid(row, real, resamples(prompts(60)))
    assert found.value == pytest.approx(frechet_distance(row, real))
    assert np.median(found.draws) == pytest.approx(found.value)
    assert found.interval[0] < found.value < found.interval[1]


# The search


def test_loss_takes_the_least_similar_within_limits_first():
    assert paper_scores.loss(0.4, 1.05, 0.05, 0.1) == (False, 0.4, 1.05)
    assert paper_scores.loss(0.1, 1.15, 0.10, 0.2) == (True, pytest.approx(0.1 + 2 * (0.10 + 0.05 + 0.1)), 1.15)
    found = {
        "kept": [(0.4, 1.0, 0.0, 0.0)],
        "hurt": [(0.0, 1.5, 0.0, 0.0)],
        "hurt less": [(0.0, 1.2, 0.0, 0.0)],
        "broke the pictures": [(-0.5, 1.0, 0.0, 0.5)],
        "better": [(0.3, 1.04, 0.0, 0.0)],
    }
    assert paper_scores.best(found, 5) == ["better", "kept", "hurt less", "broke the pictures", "hurt"]
    assert paper_scores.best(found, 2) == ["better", "kept"]


def test_what_is_less_like_the_concept_than_its_anchor_gains_nothing_more():
    assert paper_scores.best({"under": [(-0.4, 1.04, 0.0, 0.0)], "at it": [(0.0, 1.0, 0.0, 0.0)]}, 1) == ["at it"]


def test_best_goes_by_means_over_topics():
    found = {"uneven": [(0.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)], "even": [(0.45, 1.0, 0.0, 0.0), (0.45, 1.0, 0.0, 0.0)]}
    assert paper_scores.best(found, 1) == ["even"]


@pytest.mark.parametrize(("draws", "verdict"), [((-2, -1), "met"), ((1, 2), "not met"), ((-1, 1), "cannot be decided")])
def test_verdict_needs_the_whole_interval(draws: tuple[float, float], verdict: str):
    assert paper_record._verdict(Figure(0.0, np.linspace(*draws, 50)), 0.0)["verdict"] == verdict


# The plan


def test_nothing_is_tuned_on_what_it_is_tested_on():
    names = [{c.name for topic in topics for c in topic_concepts(topic)} for topics in (TUNING, TEST)]
    assert not names[0] & names[1]
    assert [len(TUNING), len(TEST)] == [3, 4]


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row.kind != "reference"])
def test_rows_are_searched_alike_and_iterate_alike(key: str):
    row = ROWS[key]
    assert len(row.candidates) == 4
    assert row.steps + (BASES[row.start]["steps"] if row.start else 0) == N  # type: ignore[index,call-overload]


@pytest.mark.parametrize("topic", [*TUNING, *TEST], ids=lambda topic: topic.name)
def test_candidates_are_settings(topic: paper_plan.Topic):
    study = Study()
    for key, row in ROWS.items():
        for name in row.candidates if missing(row) is None else ():
            training = study.training(Cell("tuning", key, topic, name))
            assert training is not None
            settings = presets.resolve("paper", [("the plan", training.layer)])
            assert settings.steps == row.steps
            assert settings.erase == topic.erase


def test_a_method_that_is_not_there_is_missing_not_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ROWS, "later", replace(ROWS["penalty"], label="later", needs=("solver", "later")))
    study = Study(Config(tmp_path))
    assert missing(ROWS["later"]) == "solver 'later' is not in this installation"
    assert not [cell for cell in study.cells("tuning") if cell.row == "later"]
    assert "later: missing, solver 'later'" in paper.listing(study, ("tuning",))


@pytest.mark.parametrize("topic", [*TUNING, *TEST], ids=lambda topic: topic.name)
def test_questions_ask_for_the_concept_or_for_anything_else(topic: paper_plan.Topic):
    sizes, world, concepts = Sizes(48, 64, 88, 104), questions.judged_world(), topic_concepts(topic)
    asked = ask(topic, sizes)
    assert {name: len(found) for name, found in asked.items()} == vars(sizes)
    assert all(carriers(q.prompt, concepts) and q.anchor and not carriers(q.anchor, concepts) for q in asked["concept"])
    held = {(world.subjects[s].name, world.styles[t]) for s, t in world.pairs(heldout=True).tolist()}
    assert all((q.subject, q.style) in held for q in asked["transfer"])
    for name in paper_scores.KEPT:
        assert not any(carriers(q.prompt, concepts) for q in asked[name])
        assert len({(q.prompt, q.seed) for q in asked[name]}) == len(asked[name])


def test_a_prompt_has_one_seed_in_all_topics_so_that_its_picture_is_shared():
    seeds: dict[tuple[str, int], set[int]] = {}
    for topic in TEST:
        for q in ask(topic, Sizes(4, 16, 8, 16))["rest"]:
            seeds.setdefault((q.prompt, 0), set()).add(q.seed)
    assert all(len(found) == 1 for found in seeds.values())


# Stored cells


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two erased rows, two topics of each kind."""
    only(monkeypatch, "esd", "penalty")


def only(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    rows = {key: row for key, row in ROWS.items() if row.kind == "reference" or key in keys}
    known = {"ROWS": rows, "TUNING": TUNING[:2], "TEST": TEST[:2]}
    for module in (paper, paper_models, paper_search, paper_runs, paper_record, paper_table, paper_figure):
        for name in known.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, known[name])


def study_at(work: Path) -> Study:
    return Study(Config(work, drawn=dict.fromkeys(("tuning", "test", "captions"), TINY), drawing=FEW))


def store(study: Study, cell: Cell, similarity: float, kept: float = 1.0, broken: bool = False) -> None:
    """What `make` would have written of a model whose pictures of the concept have this floor-normalised similarity."""
    groups = {}
    asked = dict(study.asked(cell.topic, cell.stage)) | ({ANCHOR: study.asked(cell.topic, cell.stage)["concept"]})
    for name, found in asked.items():
        n, d = len(found), 8
        noise = torch.randn(n, d, generator=torch.Generator().manual_seed(len(name))) * (0 if name in ("concept", ANCHOR) else 1)
        cosine = {"concept": similarity, ANCHOR: 0.0}.get(name, 1.0)
        noise[:, 0] += cosine
        noise[:, 1] += math.sqrt(1 - cosine**2)
        right = torch.arange(n) < round(kept * n)
        dead = torch.full((n,), broken and name == "concept")
        shown = torch.full((n,), name == "concept" and similarity > 0.5)
        noise = torch.cat([noise, torch.zeros(n, judge.EMBEDDING - d)], 1)
        groups[name] = Seen(noise, torch.full((n,), similarity), right.float(), shown, right, right.clone(), dead).tensors()
    facts = {"id": cell.id, "key": study.key(cell), "status": "measured", "reason": None, "at": 0.0}
    checkpoint.save(study.file(cell), groups, facts)


def tune(study: Study, similarities: dict[str, list[float]]) -> None:
    for topic in paper_runs.TUNING:
        store(study, Cell("tuning", "distilled", topic), 1.0)
    for key, found in similarities.items():
        for name, similarity in zip(ROWS[key].candidates, found, strict=True):
            for topic in paper_runs.TUNING:
                store(study, Cell("tuning", key, topic, name), similarity)


def test_test_concepts_are_refused_before_the_freeze(tmp_path: Path):
    study = study_at(tmp_path)
    for stage in ("test", "harder"):
        with pytest.raises(EdgeSafeError, match=r"nothing is frozen yet.*--stage tuning"):
            study.cells(stage)
    assert study.cells("captions") == []


def test_finalists_are_known_once_all_candidates_are_measured(tmp_path: Path, short: None):
    study = study_at(tmp_path)
    names = list(ROWS["esd"].candidates)
    store(study, Cell("tuning", "distilled", TUNING[0]), 1.0)
    for name, similarity in zip(names[:3], (0.9, 0.2, 0.5), strict=True):
        store(study, Cell("tuning", "esd", TUNING[0], name), similarity)
    assert study.finalists("esd") == []
    store(study, Cell("tuning", "esd", TUNING[0], names[3]), 0.7)
    assert study.finalists("esd") == [names[1], names[2]]
    waiting = [cell for cell in study.cells("tuning") if cell.row == "esd" and cell.topic == TUNING[1]]
    assert [cell.candidate for cell in waiting] == [names[1], names[2]]
    assert study.freeze() == []


def test_freeze_keeps_what_it_wrote_and_refuses_another_plan(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7]})
    assert study.freeze() == ["esd"]
    assert study.frozen["esd"]["candidate"] == list(ROWS["esd"].candidates)[1]
    first = study.frozen_sha256
    tune(study, {"esd": [0.1, 0.3, 0.5, 0.7]})
    assert study.freeze() == []
    assert study.frozen_sha256 == first
    tune(study, {"penalty": [0.1, 0.3, 0.5, 0.7]})
    before = study.frozen["esd"]
    assert study.freeze() == ["penalty"]
    assert study.frozen["esd"] == before
    monkeypatch.setitem(paper_runs.ROWS, "esd", replace(ROWS["esd"], candidates=dict(list(ROWS["esd"].candidates.items())[1:])))
    with pytest.raises(EdgeSafeError, match="'esd' was frozen under another plan"):
        study.cells("test")


def test_table_from_stored_cells(tmp_path: Path, short: None):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7], "penalty": [0.2, 0.3, 0.5, 0.7]})
    study.freeze()
    for cell in study.cells("test"):
        store(study, cell, {"esd": 0.6, "penalty": 0.3}.get(cell.row, 1.0))
    record = paper_record.record(study)
    rows = {row["key"]: row for row in record["rows"]}
    assert rows["penalty"]["mean"]["similarity_normalised"]["value"] == pytest.approx(0.3, abs=1e-4)
    assert set(rows["penalty"]["mean"]) == set(paper_record.COLUMNS)
    (claim,) = record["claims"]
    assert (claim["baseline"], claim["floor"], claim["by"]) == ("esd", False, "plain prompts")
    assert claim["erases"]["ratio"]["value"] == pytest.approx(0.5, abs=1e-3)
    assert (claim["erases"]["verdict"], claim["keeps"]["verdict"]) == ("met", "met")
    assert json.loads(json.dumps(record)) == record
    text = paper_table.markdown(record)
    assert "| penalty (the paper) | distilled + ESD | 0.30 (0.30–0.30) to 0.60 (0.60–0.60) | 0.50 (0.50–0.50) | met |" in text
    assert f"`{study.frozen_sha256[:12]}`" in text  # type: ignore[index]
    with Image.open(str(paper_figure.draw(record, tmp_path / "paper.png"))) as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 3  # a colour a kind of row, and white


def test_at_the_floor_the_harder_probes_decide(tmp_path: Path, short: None):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7], "penalty": [0.2, 0.3, 0.5, 0.7]})
    study.freeze()
    for cell in study.cells("test"):
        store(study, cell, {"esd": 0.05, "penalty": 0.02}.get(cell.row, 1.0))
    assert paper_record.tied(study) == {"esd", "penalty"}
    (claim,) = paper_record.record(study)["claims"]
    assert claim["by"].startswith("nothing yet")
    assert claim["erases"]["verdict"] == "cannot be decided"
    study.tied = paper_record.tied(study)
    for cell in study.cells("harder"):
        store(study, cell, {"esd": 0.5, "penalty": 0.45}.get(cell.row, 1.0))
    (claim,) = paper_record.record(study)["claims"]
    assert claim["by"] == "harder probes: noise, completion, textual-inversion"
    assert claim["erases"]["verdict"] == "not met"


def test_a_row_that_meets_the_claim_with_broken_pictures_is_told(tmp_path: Path, short: None):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7], "penalty": [0.2, 0.3, 0.5, 0.7]})
    study.freeze()
    for cell in study.cells("test"):
        store(study, cell, {"esd": 0.6, "penalty": 0.3}.get(cell.row, 1.0), broken=cell.row == "penalty")
    record = paper_record.record(study)
    (claim,) = record["claims"]
    assert (claim["erases"]["verdict"], claim["row_at_matched_quality"], claim["baseline_at_matched_quality"]) == ("met", False, True)
    assert "| penalty (the paper), whose quality is worse | distilled + ESD | " in paper_table.markdown(record)


def test_a_rival_that_keeps_its_quality_by_erasing_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only(monkeypatch, "esd", "uce", "penalty")
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7], "uce": [0.9, 0.3, 0.5, 0.7], "penalty": [0.2, 0.3, 0.5, 0.7]})
    study.freeze()
    for cell in study.cells("test"):
        similarity, kept = {"esd": (0.8, 1.0), "uce": (0.04, 0.5), "penalty": (0.02, 1.0)}.get(cell.row, (1.0, 1.0))
        store(study, cell, similarity, kept)
    assert paper_record.tied(study) == {"uce", "penalty"}
    record = paper_record.record(study)
    (claim,), (other,) = record["claims"], record["claims_against_most_removed"]
    assert (claim["baseline"], claim["erases"]["verdict"], claim["baseline_removed"]["value"]) == ("esd", "met", 0)
    assert (other["baseline"], other["erases"]["verdict"], other["baseline_removed"]["value"]) == ("uce", "cannot be decided", 1)
    assert (claim["baseline_at_matched_quality"], other["baseline_at_matched_quality"]) == (True, False)
    assert "distilled + ESD keeps it by removing next to nothing" in paper_table.markdown(record)


def test_failed_cells_of_every_stage_are_listed(tmp_path: Path, short: None):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7], "penalty": [0.2, 0.3, 0.5, 0.7]})
    study.freeze()
    assert paper_record.record(study)["failed"] == []
    assert "Failed" not in paper_table.markdown(paper_record.record(study))
    name = next(iter(ROWS["esd"].candidates))
    chosen = study.frozen["esd"]["candidate"]
    cells = [
        Cell("tuning", "esd", TUNING[0], name),
        Cell("tuning", "distilled", TUNING[1]),
        Cell("captions", "penalty", TUNING[0], study.frozen["penalty"]["candidate"], "mask"),
        Cell("test", "esd", TEST[0], chosen),
        Cell("harder", "esd", TEST[1], chosen, probe="textual-inversion"),
    ]
    for cell in cells:
        facts = {"id": cell.id, "key": study.key(cell), "status": "failed", "reason": "no memory left", "at": 0.0}
        checkpoint.save(study.file(cell), {}, facts)
    record = paper_record.record(study)
    assert {found["cell"] for found in record["failed"]} == {cell.id for cell in cells}
    text = paper_table.markdown(record)
    assert all(f"- {cell.id}: no memory left" in text for cell in cells)


def test_the_table_is_written_before_anything_is_measured(tmp_path: Path):
    study = study_at(tmp_path)
    assert [path.name for path in paper.publish(study, tmp_path / "out")] == ["paper.json", "paper.md"]
    assert "No row is measured" in (tmp_path / "out" / "paper.md").read_text()


# Cells that are made


def test_a_finished_cell_is_not_made_again_and_a_failed_one_is(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    study = study_at(tmp_path)
    tune(study, {"esd": [0.9, 0.3, 0.5, 0.7]})
    study.freeze()
    study = Study(replace(study.config, only=("test_teacher",)))
    cell, other = study.cells("test")
    said: list[str] = []
    with monkeypatch.context() as broken:
        broken.setattr(judge.Judge, "score", fail)
        study.run("test", said.append)
    assert "failed, no memory left" in said[0]
    assert paper_figure.contact(study, tmp_path / "sheet.jpg") is None
    assert study.facts(cell)["status"] == "failed"  # type: ignore[index]
    again = Study(study.config)
    again.run("test", said.append)
    assert again.measured(cell)
    assert again.measured(other)
    written = again.file(cell).stat().st_mtime_ns
    again.run("test", said.append)
    assert len(said) == 4
    assert again.file(cell).stat().st_mtime_ns == written

    sheet = paper_figure.contact(again, tmp_path / "sheet.jpg")
    assert sheet is not None
    with Image.open(sheet) as image:
        drawn = np.asarray(image)[paper_figure.HEADER :, paper_figure.MARGIN :]
    columns = 2 * sum(paper_figure.SHOWN.values())
    assert drawn.shape[:2] == (paper_figure.SIDE + paper_figure.GAP, columns * (paper_figure.SIDE + paper_figure.GAP))
    kept = again.pictures(cell, again.source(cell), "concept", again.asked(cell.topic, "test")["concept"])
    first = Image.fromarray(kept[0]).resize((paper_figure.SIDE, paper_figure.SIDE), Image.Resampling.NEAREST)
    tile = drawn[: paper_figure.SIDE, : paper_figure.SIDE].astype(float)
    assert np.abs(tile - np.asarray(first)).mean() < 8  # levels; the sheet is a JPEG
    other = Image.fromarray(kept[1]).resize((paper_figure.SIDE, paper_figure.SIDE), Image.Resampling.NEAREST)
    assert np.abs(tile - np.asarray(other)).mean() > 16


def fail(*_arguments: object) -> None:
    raise MemoryError("no memory left")


def test_a_stopped_cell_is_not_a_failed_one(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch):
    study = Study(Config(tmp_path, only=("tuning_distilled",), drawn=dict.fromkeys(("tuning", "test", "captions"), TINY), drawing=FEW))
    cell = study.cells("tuning")[0]

    def stop(*_arguments: object) -> None:
        raise Stopped("Stopped at step 3 of 200, checkpoint kept")

    monkeypatch.setattr(Study, "source", stop)
    with pytest.raises(Stopped):
        study.run("tuning", print)
    assert study.facts(cell) is None


def test_one_question_of_a_group_is_drawn(tmp_path: Path):
    """The group's other concepts have none among those asked."""
    study = study_at(tmp_path)
    cell = Cell("test", "teacher", TEST[-1])
    drawn = study.pictures(cell, study.source(cell), "concept", study.asked(cell.topic, "test")["concept"][:1])
    assert len(drawn) == 1


def test_a_model_is_trained_once_and_a_stopped_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgesafe.previews.SHOWN", 2)
    small = {"steps": 2, "bank": 16, "concept_bank": 4, "batch": 2, "erase_batch": 2}
    study = Study(replace(study_at(tmp_path).config, shrink=small))
    training = study.training(Cell("tuning", "esd", TUNING[0], "original, 2.5e-4"))
    assert training is not None and training.start is not None
    stopped = study.folder(training)
    stopped.mkdir(parents=True)
    (stopped / "rest of a start that was killed").touch()
    place = study.place(training)
    manifest = json.loads((place / "manifest.json").read_text())
    assert [step["method"] for step in manifest["steps"]] == ["distil", "two-stage/esd"]
    assert not (place / "checkpoint").exists()
    written = (place / "manifest.json").stat().st_mtime_ns
    assert Study(study.config).place(training) == place
    assert (place / "manifest.json").stat().st_mtime_ns == written
    other = replace(training, layer={**training.layer, "erase_rate": 2e-3})
    assert study.folder(other) != place
