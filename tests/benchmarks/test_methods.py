"""The table of methods: rows from the registries, commands that the real command line accepts, and a study stopped, resumed and shown."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgesafe import artifact
from edgesafe.benchmarks import findings, methods, methods_table
from edgesafe.benchmarks.methods import TESTS, Study, figures, verdict
from edgesafe.benchmarks.methods_plan import KINDS, Row, reference_test, rows
from edgesafe.commands.train import train
from edgesafe.erasers import CLOSED_FORM, ERASERS, GradientEraser
from edgesafe.erasers.parameters import SUBSETS
from edgesafe.errors import EdgeSafeError
from edgesafe.pruners import PRUNERS
from edgesafe.pruners.scores import SCORES
from edgesafe.solvers import SOLVERS

from . import audits


@dataclass(frozen=True)
class Unheard(GradientEraser):
    """Of a registry's newest line, with no test that knows it."""

    def loss(self, student: Any, frozen: Any, batch: Any) -> Any: ...


class Workshop:
    """Stands in for the command line: leaves the folders that a command leaves, with figures given, and counts the commands."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.asked = failing, []

    def __call__(self, words: tuple[str, ...], threads: int) -> None:
        self.asked.append(words)
        if words[0] == self.failing:
            raise EdgeSafeError(f"edgesafe {words[0]}: the disk caught fire")
        out = Path(words[words.index("--out") + 1] if "--out" in words else words[-1])
        if words[0] == "train":
            out.mkdir(parents=True, exist_ok=True)
            (out / artifact.MANIFEST).write_text("{}")
        elif words[0] == "export":
            audits.sealed(out)
        else:
            out.mkdir(parents=True)
            found = audits.audit(Path(words[1]), plain=audits.flags(3), control=audits.flags(30))
            findings.write(out, *found)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    return lambda **changes: Study(**{"work": tmp_path / "work", "only": ("eraser-uce",), "command": Workshop()} | changes)


def test_every_method_of_every_registry_has_a_row() -> None:
    found = {kind: [row for row in rows() if row.kind == kind] for kind in KINDS}
    assert {row.name for row in found["pruner"]} == set(PRUNERS)
    assert {row.name for row in found["eraser"]} == {*ERASERS, *CLOSED_FORM}
    assert {row.name for row in found["solver"]} == set(SOLVERS)
    assert [row.part[0] for row in found["eraser"] if row.name == "esd" and row.part] == list(SUBSETS)
    assert [row.part[0] for row in found["pruner"] if row.name == "width" and row.part] == list(SCORES)
    assert len({row.id for row in rows()}) == len(list(rows()))


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.id)
def test_the_real_command_line_takes_each_run(row: Row) -> None:
    ended = CliRunner().invoke(train, [*row.train[1:], "--dry-run"], catch_exceptions=False)
    settings = json.loads(ended.stdout)
    assert settings["erase"] == "neon" and settings["batch"] == 16 and settings["steps"] == row.steps
    shown = {"pruner": settings["prune"], "eraser": settings["eraser"]["name"], "solver": settings["solver"]["name"]}
    assert shown[row.kind] == row.name
    if row.name == "esd" and row.part:
        assert settings["eraser"]["parameters"] == row.part[0]


def test_a_new_method_without_a_test_is_experimental_by_itself(monkeypatch: pytest.MonkeyPatch, study: Callable[..., Study]) -> None:
    monkeypatch.setitem(ERASERS, "unheard", Unheard)
    (row,) = (row for row in rows() if row.name == "unheard")
    assert row.id == "eraser-unheard" and reference_test(row, TESTS) is None
    done = study(only=("unheard",))
    done.run(lambda text: None)
    found = {row["id"]: row for row in done.record()["rows"]}
    assert found["eraser-unheard"]["status"] == "measured"
    assert (found["eraser-unheard"]["verdict"], found["eraser-unheard"]["missing"]) == ("experimental", ["no test file makes or names it"])


def test_a_test_file_is_one_that_makes_or_names_the_method(tmp_path: Path) -> None:
    uce = next(row for row in rows() if row.id == "eraser-uce")
    width = next(row for row in rows() if row.id == "pruner-width-taylor")
    (tmp_path / "erasers").mkdir()
    (tmp_path / "pruners").mkdir()
    (tmp_path / "erasers" / "test_others.py").write_text("from x import UCE\nfor eraser in ERASERS: eraser()\n")
    assert reference_test(uce, tmp_path) is None
    (tmp_path / "erasers" / "test_others.py").write_text("UCE(tokens='last')\n")
    assert reference_test(uce, tmp_path) == ("erasers/test_others.py",)
    (tmp_path / "erasers" / "test_uce.py").write_text('ERASERS["uce"]\n')
    assert reference_test(uce, tmp_path) == ("erasers/test_uce.py",)
    (tmp_path / "pruners" / "test_width.py").write_text("Width(macs=0.5)\n")
    assert reference_test(width, tmp_path) is None, "the score has none"
    (tmp_path / "pruners" / "test_scores.py").write_text("Taylor()\n")
    assert reference_test(width, tmp_path) == ("pruners/test_width.py", "pruners/test_scores.py")


def test_figures_can_be_counted_again(tmp_path: Path) -> None:
    export = audits.sealed(tmp_path / "export")
    record, lines = audits.audit(export, plain=audits.flags(3), control=audits.flags(30))
    (tmp_path / "audit").mkdir()
    findings.write(tmp_path / "audit", record, lines)
    found = figures(export, tmp_path / "audit")
    assert found["parity"] == {"worst_db": 65.3, "part": "unet", "gate_db": 35.0}
    assert [found["plain"][who]["numerator"] for who in ("export", "control")] == [3, 30]
    right = {who: sum(line["outcome"] == "right" for line in lines if line["model"] == who) for who in ("export", "control")}
    assert {who: found["kept"][who]["numerator"] for who in right} == right
    assert found["kept"]["export"]["denominator"] == 2 * audits.N
    assert found["leaks_at_most"] == record["verdicts"][0]["upper95_share"]
    assert found["size_mib"]["unet"] == round((export / "unet" / "model.onnx").stat().st_size / 2**20, 2)


def test_an_export_below_the_gate_or_an_audit_without_control_is_not_enough(tmp_path: Path) -> None:
    lossy = audits.sealed(tmp_path / "lossy", parity=audits.PARITY | {"allowed_loss": "a test"})
    with pytest.raises(EdgeSafeError, match="is below the gate"):
        figures(lossy, tmp_path)
    export = audits.sealed(tmp_path / "export")
    findings.write(tmp_path, *audits.audit(export, control=None))
    with pytest.raises(EdgeSafeError, match="it is not here"):
        figures(export, tmp_path)


def test_a_second_start_runs_nothing_and_a_changed_setting_all(study: Callable[..., Study]) -> None:
    shop = Workshop()
    study(command=shop).run(lambda text: None)
    assert [words[0] for words in shop.asked] == ["train", "export", "audit"]
    study(command=shop).run(lambda text: None)
    assert len(shop.asked) == 3
    study(command=shop, pictures=30).run(lambda text: None)
    assert len(shop.asked) == 6


def test_what_failed_is_experimental_with_its_reason_and_goes_on_where_it_was(study: Callable[..., Study]) -> None:
    study(command=Workshop(failing="audit")).run(lambda text: None)
    found = {row["id"]: row for row in study().record()["rows"]}["eraser-uce"]
    assert (found["status"], found["verdict"], found["missing"]) == ("failed", "experimental", ["edgesafe audit: the disk caught fire"])
    shop = Workshop()
    study(command=shop).run(lambda text: None)
    assert [words[0] for words in shop.asked] == ["audit"], "the run and the export were there"
    assert {row["id"]: row for row in study().record()["rows"]}["eraser-uce"]["verdict"] == "supported"


def test_a_stopped_training_is_resumed(study: Callable[..., Study]) -> None:
    shop, made = Workshop(), study()
    (row,) = made.chosen
    run = made.work / "runs" / f"{row.id}-{made.key(row)}"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    study(command=shop).run(lambda text: None)
    assert shop.asked[0] == ("train", "--resume", str(run))


def test_the_table_names_every_method_once_and_says_why(study: Callable[..., Study]) -> None:
    study().run(lambda text: None)
    record = study().record()
    table = methods_table.markdown(record)
    head, tables = table.split("## ", 1)
    assert "- erasers: `uce`" in head and head.count("`esd, x`") == 1
    lines = [line for line in tables.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == len(record["rows"]) + 2 * len(KINDS)
    (uce,) = (row for row in record["rows"] if row["id"] == "eraser-uce")
    assert f"| uce | supported | {100 * uce['leaks_at_most']:.0f} % (plain) | 3/40 | 30/40 | " in tables
    assert "- solver-penalty: not run yet" in tables
    assert verdict({"status": "measured"}, None)["verdict"] == "experimental"


def test_messages_of_the_command(tmp_path: Path) -> None:
    def said(*words: str) -> str:
        return CliRunner().invoke(methods.main, ["--work", str(tmp_path), "--docs", str(tmp_path), *words]).output

    assert "--only 'nothing' fits no method; known: pruner-bk-sdm-base" in said("--only", "nothing")
    assert "--pictures 1: at least 2 are needed" in said("--pictures", "1")
    assert "1 of 1 methods to run: about 2 min on one thread" in said("--dry-run", "--only", "eraser-uce")
    assert "methods.md" in said("--table") and (tmp_path / "methods.md").is_file()
