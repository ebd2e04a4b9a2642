"""The plan of the rows, what they are cut to, the table, and that what was measured is not measured again."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from edgesafe.benchmarks import pruning
from edgesafe.errors import EdgeSafeError, Stopped
from edgesafe.metrics.wilson import Rate
from edgesafe.pruners import PRUNERS
from edgesafe.pruners.scores import SCORES

SPEED = {"unet_mib": 10.0, "row": {"median_ms": 5.0}, "times_as_fast": {"median": 1.5, "interval95": [1.4, 1.6]}}
RATES = {"subject right": Rate(3, 4).to_dict(), "style right": Rate(4, 4).to_dict()}


def test_every_pruner_and_score_has_a_row():
    rows = pruning.plan()
    assert {row.prune for row in rows.values()} == set(PRUNERS)
    assert {row.table["score"] for row in rows.values() if row.prune == "width"} == set(SCORES)
    assert [name for name, row in rows.items() if "quality" not in row.parts] == [f"width-taylor-{n}" for n in pruning.MULTIPLES]


@pytest.mark.parametrize("name", pruning.plan())
def test_rows_that_can_are_cut_to_the_same_share(name: str, tmp_path: Path):
    row = pruning.plan()[name]
    settings = pruning.Study(pruning.Config(macs=0.55), tmp_path, Console(quiet=True)).settings(row)
    assert settings.prune == row.prune
    if settings.pruner.calibrates:
        assert settings.pruner.target == ("macs", 0.55)
        assert all(getattr(settings.pruner, key) == value for key, value in row.table.items())


def test_the_teachers_cost_and_a_students(tmp_path: Path):
    study = pruning.Study(pruning.Config(), tmp_path, Console(quiet=True))
    (tmp_path / "models").mkdir()
    whole, tiny = study.cost("teacher"), study.cost("bk-sdm-tiny")
    assert whole["macs_share"] == whole["params_share"] == 1.0
    assert tiny["params_share"] == pytest.approx(tiny["params"] / whole["params"], abs=1e-4)
    assert whole["params"] == sum(p.numel() for p in study.teacher.unet.parameters())
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["bk-sdm-tiny-pruned"]


def run(out: Path, *options: str) -> Result:
    return CliRunner().invoke(pruning.main, ["--rows", "teacher,aptp", "--pictures", "4", "--out", str(out), *options])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured, with measurements that take no time; the latency of the row aptp fails."""
    done: list[str] = []

    def latency(self: pruning.Study, name: str, threads: int, pairs: int) -> dict:
        done.append(f"latency of {name}")
        if name == "aptp":
            raise EdgeSafeError("no such luck")
        return {"threads": threads, **SPEED}

    def quality(self: pruning.Study, source: object) -> dict:
        done.append(f"quality of {source}")
        return {"pictures": 4, "rates": RATES, "fid": 12.34, "kid": 0.1}

    size = {"macs": 100_000_000, "params": 2_000_000, "macs_share": 0.6, "params_share": 0.5}
    monkeypatch.setattr(pruning.Study, "latency", latency)
    monkeypatch.setattr(pruning.Study, "quality", quality)
    monkeypatch.setattr(pruning.Study, "cost", lambda self, name: size)
    monkeypatch.setattr(pruning.Study, "pruned", lambda self, name: f"{name}, pruned")
    monkeypatch.setattr(pruning.Study, "distilled", lambda self, name: f"{name}, distilled")
    return done


def test_what_was_measured_is_not_measured_again(measured: list[str], tmp_path: Path):
    first = run(tmp_path)
    assert first.exit_code == 0, first.output
    assert "aptp, latency: no such luck" in first.output
    qualities = ["quality of emoji:teacher", "quality of aptp, pruned", "quality of aptp, distilled"]
    assert sorted(measured) == sorted([*qualities, "latency of teacher", "latency of aptp"])
    measured.clear()
    run(tmp_path)
    assert measured == ["latency of aptp"], "the failed part alone"
    measured.clear()
    run(tmp_path, "--parts", "latency", "--force")
    assert measured == ["latency of teacher", "latency of aptp"]


def test_a_stopped_distillation_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def stopped(*_given: object, **_options: object) -> None:
        raise Stopped("Stopped at step 3 of 150")

    monkeypatch.setattr(pruning.trainer, "train", stopped)
    monkeypatch.setattr(pruning.Study, "quality", lambda self, source: {"rates": RATES, "fid": 1.0, "kid": 0.1})
    monkeypatch.setattr(pruning.Study, "pruned", lambda self, name: "emoji:student")
    assert run(tmp_path, "--parts", "quality").exit_code == 1
    assert list(json.loads((tmp_path / "pruning.json").read_text())["rows"]["aptp"]) == ["pruned"]


def test_the_table(measured: list[str], tmp_path: Path):
    run(tmp_path)
    record = json.loads((tmp_path / "pruning.json").read_text())
    heads, _, teacher, aptp = (line.strip("| \n").split(" | ") for line in (tmp_path / "pruning.md").read_text().splitlines())
    assert record["machine"]["processor"] and record["config"]["iterations"] == 150
    cells = dict(zip(heads, teacher, strict=False))
    assert cells["MACs"] == "100.0 M (60%)" and cells["parameters"] == "2.0 M (50%)"
    assert cells["times as fast (95 %)"] == "1.50 (1.40 to 1.60)"
    assert cells["ms a GMAC"] == "25.0", "5 ms for two rows, with and without the prompt, of 0.1 GMACs"
    assert cells["pruned: subject right"] == "75% (30% to 95%)" and cells["FID"] == "12.3"
    assert aptp[0] == "aptp" and "failed" in aptp


def test_other_settings_want_another_folder(measured: list[str], tmp_path: Path):
    run(tmp_path)
    result = run(tmp_path, "--macs", "0.5")
    assert result.exit_code == 2 and "Give another --out" in result.output


def test_unknown_names_are_told():
    result = CliRunner().invoke(pruning.main, ["--parts", "beauty"])
    assert result.exit_code == 2 and "unknown 'beauty'; known: quality, latency" in result.output
    result = CliRunner().invoke(pruning.main, ["--rows", "dep-graph"])
    assert result.exit_code == 2 and "unknown 'dep-graph'; known: teacher, bk-sdm-base" in result.output
