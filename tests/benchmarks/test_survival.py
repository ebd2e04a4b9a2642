"""The survival study: its statistics against brute force, its blends, and a whole small study that is stopped, resumed and shown."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from scipy.stats import binomtest

from edgesafe import artifact, model
from edgesafe.artifact import Manifest, Step
from edgesafe.benchmarks import survival, survival_figure, survival_models, survival_pairs, survival_table
from edgesafe.benchmarks.survival import Config, Study
from edgesafe.benchmarks.survival_models import Models, blend, on_palette
from edgesafe.benchmarks.survival_plan import FORMS, MODELS, MOST, VIEWS, Blend, Row, rows
from edgesafe.concepts import parse
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig
from edgesafe.export import run as export
from edgesafe.metrics.wilson import Rate

FIELDS = ("model", "form", "sampler", "steps", "probe")


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 2), (0, 9), (40, 21), (60, 60)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert survival_pairs.mcnemar(first, second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_against_every_outcome_there_could_be() -> None:
    """The share of all equally likely ways to deal n differing pairs that are at least as uneven as the one seen."""
    for n in range(9):
        for seen in range(n + 1):
            ways = [sum(deal) for deal in itertools.product((0, 1), repeat=n)]
            uneven = sum(abs(2 * way - n) >= abs(2 * seen - n) for way in ways)
            assert survival_pairs.mcnemar(seen, n - seen) == pytest.approx(uneven / 2**n)


@pytest.mark.parametrize("shares", [(0.3, 0.1, 0.1, 0.5), (0.05, 0.05, 0.25, 0.65), (0.0, 0.02, 0.08, 0.9), (0.6, 0.15, 0.05, 0.2)])
def test_paired_differences_hold_the_truth_in_95_of_100(shares: tuple[float, ...]) -> None:
    """Over every table of 30 pairs there is, weighted by how likely it is."""
    n, covered = 30, 0.0
    truth = shares[2] - shares[1]
    logs = [math.log(share) if share else -math.inf for share in shares]
    for both, first, second in itertools.product(range(n + 1), repeat=3):
        if (neither := n - both - first - second) >= 0:
            counts = (both, first, second, neither)
            weight = sum(count * log for count, log in zip(counts, logs, strict=True) if count)
            weight += math.lgamma(n + 1) - sum(math.lgamma(count + 1) for count in counts)
            low, high = survival_pairs.difference(*counts)
            covered += math.exp(weight) * (low <= truth <= high)
    assert 0.94 < covered < 0.99


def test_limits_of_paired_differences() -> None:
    assert survival_pairs.difference(0, 0, 0, 0) == (-1.0, 1.0)
    low, high = survival_pairs.difference(0, 0, 0, 100)  # no hits at all still leaves room for a rise
    assert low == pytest.approx(-high) and 0.03 < high < 0.06
    low, high = survival_pairs.difference(3, 9, 20, 68)
    swapped = survival_pairs.difference(3, 20, 9, 68)
    assert (low, high) == pytest.approx((-swapped[1], -swapped[0]))


def test_a_comparison_counts_pairs() -> None:
    found = survival_pairs.compare([True, True, False, False, False], [True, False, True, True, False])
    assert [found[key] for key in ("pairs", "both", "only_first", "only_second", "neither")] == [5, 1, 1, 2, 1]
    assert found["rise_points"] == 20.0 and found["p"] == 1.0
    with pytest.raises(ValueError, match="zip"):
        survival_pairs.compare([True], [True, False])


def test_holm_rejects_what_the_step_down_rule_rejects() -> None:
    ps = [0.04, 0.001, 0.02, 0.6, 0.011]
    adjusted = survival_pairs.holm(ps)
    for level in (0.001, 0.01, 0.05, 0.06, 0.2, 0.7):
        rejected = set()
        for rank, i in enumerate(sorted(range(5), key=ps.__getitem__)):
            if ps[i] > level / (5 - rank):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    assert survival_pairs.holm([]) == [] and survival_pairs.holm([0.9, 0.9]) == [1.0, 1.0]


def test_the_plan_holds_together() -> None:
    planned = rows()
    assert len(planned) == len({row.id for row in planned}) <= MOST
    for row in planned:
        assert row.model in MODELS and row.form in FORMS
        assert all(other in planned for other in row.partners.values())
        changed = sum(getattr(row, name) != getattr(row.base, name) for name in ("form", "sampler", "probe"))
        assert changed <= (2 if row in VIEWS["matrix"] else 1) or row.steps != 25
    assert {row.base for row in planned} <= set(planned)


def test_a_palette_is_nearly_the_best_there_is() -> None:
    from sklearn.cluster import KMeans

    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 0.1
    made = on_palette(weight, 16)
    assert made.shape == weight.shape and len(made.unique()) == 16
    best = KMeans(16, n_init=4, random_state=0).fit(weight.reshape(-1, 1).double().numpy()).inertia_
    assert float((made - weight).double().square().sum()) < 1.05 * best
    values = made.unique()
    nearest = values[(weight.flatten()[:, None] - values).abs().argmin(1)].reshape(weight.shape)
    assert (nearest != made).float().mean() < 0.01  # those between two means that fp16 moved


@pytest.fixture(scope="module")
def place(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with control/ and runs/try2, "erased" by a push on its cross-attention."""
    root = tmp_path_factory.mktemp("survival")
    shutil.copytree(tiny_sd1, root / "control")
    erased = model.load(tiny_sd1)
    generator = torch.Generator().manual_seed(1)
    for name, weight in erased.unet.state_dict().items():
        if "attn2.to_v" in name:
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    run = root / "runs" / "try2"
    model.save(erased, run / "model", torch.float32)
    concepts = tuple(concept.to_dict() for concept in parse("neon", World()))
    train = Step("train", "penalty", {"steps": 1}, 7, {"torch": "0"})
    base = {"id": "emoji:teacher", "revision": None, "sha256": None}
    artifact.seal(run, Manifest("run", base, str(root / "control"), (train,), concepts, {}))
    return root


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return model.load(folder).unet.state_dict()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_blend_lies_between_the_control_and_the_run(place: Path, tmp_path: Path, share: float) -> None:
    blend(place / "runs" / "try2", str(place / "control"), Blend("some", "penalty", share), tmp_path / "made")
    before, after, made = (_weights(folder) for folder in (place / "control", place / "runs" / "try2", tmp_path / "made"))
    for name, weight in made.items():
        torch.testing.assert_close(weight, before[name] + share * (after[name] - before[name]), atol=2e-3, rtol=1e-3)  # fp16 files
    manifest = artifact.read(tmp_path / "made")
    assert manifest.control == str(place / "control") and manifest.steps[-1].config["share"] == share and manifest.concepts


def test_a_blend_on_a_narrow_model_starts_from_16_values(place: Path, tmp_path: Path) -> None:
    models = Models(place / "runs", tmp_path, 1)
    made = models.place("narrow")
    control = model.load(artifact.read(made).control)
    for part in (control.unet, control.text_encoder):
        for name, weight in part.state_dict().items():
            if weight.ndim > 1 and weight.numel() > survival_models.FLOOR:
                ends = any(end in name for end in ("conv_in", "conv_out", "time_embedding", "position_embedding"))
                assert (len(weight.unique()) <= 16) != ends, name
    before, after = _weights(place / "control"), _weights(place / "runs" / "try2")
    start, moved = control.unet.state_dict(), _weights(made)
    for name in before:
        expected = start[name] + MODELS["narrow"].share * (after[name] - before[name])
        torch.testing.assert_close(moved[name], expected, atol=2e-3, rtol=1e-3)
    stamp = (made / "manifest.json").stat().st_mtime_ns
    assert models.place("narrow") == made and (made / "manifest.json").stat().st_mtime_ns == stamp


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with survival_models.claim(lock) as first, survival_models.claim(lock, wait=False) as second:
        assert first and not second
    with survival_models.claim(lock, wait=False) as again:
        assert again


@pytest.fixture(scope="module")
def studied(place: Path) -> Path:
    """A finished study of three cells, one of which cannot be measured; the control was exported before."""
    study = _study(place)
    there = place / "work" / "exports" / study.models.control_name("penalty")
    export(ExportConfig(str(place / "control"), "onnx", "fp32", there, parity_steps=1))
    study.run(Console(quiet=True))
    return place / "work"


def _study(place: Path, **changed: Any) -> Study:
    only = ("penalty_fp32_ddim-25_plain", "penalty_fp32_ddim-8_plain", "two-stage_fp32_ddim-25_plain")
    fixed = {"work": place / "work", "runs": place / "runs", "pictures": 4, "threads": 1, "only": only, "parity_steps": 1}
    return Study(Config(**fixed | changed))


def _cell(work: Path, name: str) -> dict[str, Any]:
    return json.loads((work / "cells" / f"{name}.json").read_text())


def test_a_measured_cell_can_be_counted_again(place: Path, studied: Path) -> None:
    cell = _cell(studied, "penalty_fp32_ddim-25_plain")
    assert cell["status"] == "measured" and cell["reason"] is None
    assert [len(cell["outcomes"][who]) for who in ("export", "control")] == [4, 4] == [len(cell["asked"]), len(cell["labels"])]
    for who in ("export", "control"):
        for name, letter in survival.LETTERS.items():
            assert cell[who][name]["numerator"] == cell["outcomes"][who].count(letter)
    assert all("neon" in prompt for prompt, _ in cell["asked"]) and [seed for _, seed in cell["asked"]] == [0, 1, 2, 3]
    files = cell["files"]
    run = model.load(place / "runs" / "try2").unet
    assert survival_models.weights_of(place / "runs" / "try2") == sum(p.numel() for p in run.parameters())
    assert 32 < files["bits_a_weight"] < 40 and files["unet_db"] > 100 and files["layers_kept_wider"] is None


def test_a_cell_that_fails_is_shown_with_its_reason(place: Path, studied: Path) -> None:
    cell = _cell(studied, "two-stage_fp32_ddim-25_plain")
    assert cell["status"] == "failed"
    assert "no such run, so “two-stage” cannot be measured. Make it: edgesafe train --erase neon --solver two-stage" in cell["reason"]
    study = _study(place)
    record = study.record()
    assert [c["status"] for c in record["cells"]].count("failed") == 1 and len(record["cells"]) == len(rows())
    table = survival_table.markdown(record)
    assert "- two-stage_fp32_ddim-25_plain: failed:" in table and f"{len(rows()) - 3} of {len(rows())} cells are not measured yet" in table
    assert "failed" in survival.listing(study)


def test_a_second_start_measures_only_what_is_not_finished(place: Path, studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    real = Study.measure
    monkeypatch.setattr(Study, "measure", lambda self, row, advance: (measured.append(row.id), real(self, row, advance))[1])
    before = {path.name: path.read_bytes() for path in (studied / "cells").glob("penalty*.json")}
    _study(place).run(Console(quiet=True))
    assert measured == ["two-stage_fp32_ddim-25_plain"], "what failed is tried again"
    assert before == {path.name: path.read_bytes() for path in (studied / "cells").glob("penalty*.json")}
    assert [row.id for row in _study(place, pictures=5).chosen if _study(place, pictures=5).finished(row)] == []
    assert not _study(place, seed=9).finished(Row("penalty"))


def test_a_cell_stopped_half_way_leaves_nothing(
    place: Path, studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(studied, tmp_path / "work")
    (cell := tmp_path / "work" / "cells" / "penalty_fp32_ddim-25_plain.json").unlink()
    study = _study(place, work=tmp_path / "work", only=("penalty_fp32_ddim-25_plain",))

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(survival.leakage, "leakage", stopped)
        with pytest.raises(KeyboardInterrupt):
            study.run(Console(quiet=True))
    assert not cell.exists() and not study.finished(Row("penalty"))
    study.run(Console(quiet=True))
    again, former = json.loads(cell.read_text()), _cell(studied, "penalty_fp32_ddim-25_plain")
    assert {key: row for key, row in again.items() if key not in ("seconds", "files")} == {
        key: row for key, row in former.items() if key not in ("seconds", "files")
    }


def test_another_run_in_the_folder_is_measured_anew(place: Path, studied: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    assert _study(place, runs=tmp_path / "runs").finished(Row("penalty"))
    manifest = artifact.read(tmp_path / "runs" / "try2")
    artifact.seal(tmp_path / "runs" / "try2", artifact.replace(manifest, control="emoji:student"))
    assert not _study(place, runs=tmp_path / "runs").finished(Row("penalty"))


def test_comparisons_are_of_the_same_prompts_and_seeds(place: Path, studied: Path) -> None:
    cells = {cell["id"]: cell for cell in _study(place).record()["cells"]}
    (compared,) = cells["penalty_fp32_ddim-8_plain"]["compared"]
    flags = [[x == "L" for x in cells[name]["outcomes"]["export"]] for name in ("penalty_fp32_ddim-25_plain", "penalty_fp32_ddim-8_plain")]
    assert compared["id"] == "penalty_fp32_ddim-25_plain" and compared["p_holm"] >= compared["p"]
    assert compared["only_second"] == sum(y and not x for x, y in zip(*flags, strict=True))
    other = cells["penalty_fp32_ddim-8_plain"] | {"asked": [["another", 0]] * 4}
    assert survival._compare(cells["penalty_fp32_ddim-25_plain"], other) is None


@pytest.fixture(scope="module")
def whole(place: Path, studied: Path) -> dict[str, Any]:
    """The record of a study in which every cell is measured, with figures from a die."""
    record, die = _study(place).record(), np.random.default_rng(0)
    pattern = next(cell for cell in record["cells"] if cell["status"] == "measured")
    cells = []
    for cell in record["cells"]:
        made = json.loads(json.dumps(pattern)) | {key: cell[key] for key in ("id", "model", "form", "label", "sampler", "steps", "probe")}
        for who, most in (("export", 60), ("control", 96)):
            made[who]["leaked"] = Rate(int(die.integers(0, most)), 96).to_dict()
        made["compared"] = [{"with": name, "p": 0.0123, "p_holm": 0.3} for name in Row(*(cell[k] for k in FIELDS)).partners]
        cells.append(made)
    return record | {"cells": cells, "comparisons": sum(len(cell["compared"]) for cell in cells)}


def test_every_cell_of_a_whole_study_stands_in_the_table(whole: dict[str, Any]) -> None:
    table = survival_table.markdown(whole)
    for cell in whole["cells"]:
        leaked = cell["export"]["leaked"]
        assert f"{leaked['numerator']}/96 (" in table, cell["id"]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in lines]
    for above, line in itertools.pairwise(range(len(lines))):
        assert widths[above] == widths[line] or set(lines[line + 1]) <= set("|- "), lines[line]
    assert "0.012" in table and "not measured" not in table


def test_the_figure_is_small_and_holds_every_cell(whole: dict[str, Any], tmp_path: Path) -> None:
    place = survival_figure.draw(whole, tmp_path / "survival.png")
    assert place is not None and place.stat().st_size < 200_000
    with Image.open(place) as image:
        assert image.width >= 1000
    cells = {cell["id"]: cell for cell in whole["cells"]}
    lines = (survival_figure._factor_lines(cells), survival_figure._matrix_lines(cells), survival_figure._narrow_lines(cells))
    shown = {cell["id"] for view in lines for line in view if line for cell in line[1]}
    assert set(cells) - shown == {row.id for row in VIEWS["matrix"] if row.model == "steps-60"}, "in the table only"
    assert survival_figure.draw(whole | {"cells": []}, tmp_path / "none.png") is None


def test_a_failed_export_says_why(place: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="edgesafe export x: Invalid value for '--palettize': 'few' is not a valid integer"):
        Models(place / "runs", tmp_path, 1)._run("export", "x", "--palettize", "few")


def test_messages_of_the_command(place: Path) -> None:
    def said(*words: str) -> str:
        ended = CliRunner().invoke(survival.main, ["--work", str(place / "work"), "--runs", str(place / "runs"), *words])
        assert ended.exit_code == (1 if "Error" in ended.output else 0)
        return ended.output

    assert "--only 'nothing' fits no cell. `--list` prints their names" in said("--only", "nothing")
    assert "--pictures 1: at least 2 is needed" in said("--pictures", "1")
    assert f"{len(rows())} cells of 96 pictures; left on one thread" in said("--list")
