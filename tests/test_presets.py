from pathlib import Path

import pytest

from edgesafe import presets
from edgesafe.concepts import parse
from edgesafe.errors import EdgeSafeError
from edgesafe.solvers import Distil, Penalty, TwoStage


def resolve(preset: str | None = None, **changes) -> presets.Settings:
    return presets.resolve(preset, [("flags", changes)])


@pytest.mark.parametrize("name", ["quick", "full"])
def test_presets_round_trip(name: str):
    settings = resolve(name)
    assert presets.from_dict(presets.to_dict(settings)) == settings
    assert settings.erase == "neon"


def test_without_arguments_the_packaged_student_is_quickly_erased():
    settings = resolve()
    assert (settings.student, settings.teacher_source) == ("emoji:student", "emoji:teacher")
    assert isinstance(settings.solver, Penalty)


def test_the_full_preset_prunes_the_teacher():
    settings = resolve("full", erase="none")
    assert (settings.model, settings.student, settings.prune) == ("emoji:teacher", None, "bk-sdm-small")
    assert settings.solver == Distil()


def test_a_model_of_ones_own_gets_the_papers_settings():
    settings = resolve(model="sd", data="pictures", erase="van gogh")
    assert (settings.solver.lambda_, settings.solver.inner_steps, settings.steps) == (100.0, 20, 20_000)
    assert (settings.eraser.target, settings.eraser.eta) == ("esd", 1.0)


def test_pruning_asks_for_the_teacher_not_the_packaged_student():
    assert resolve(prune="bk-sdm-tiny").model == "emoji:teacher"


def test_another_method_starts_from_its_own_defaults():
    assert resolve(solver={"name": "two-stage"}).solver == TwoStage()
    assert resolve(solver={"name": "penalty", "follow": "once"}).solver.follow == "once"


def test_toml(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text('steps = 7\nrate = 1e-3\n[solver]\nlambda = 2\n[eraser]\nparameters = "full"\n')
    settings = presets.resolve("quick", [("run.toml", presets.read_toml(path))])
    assert (settings.steps, settings.rate, settings.solver.lambda_, settings.eraser.parameters) == (7, 1e-3, 2.0, "full")
    path.write_text("steps = = 7")
    with pytest.raises(EdgeSafeError, match="not valid TOML"):
        presets.read_toml(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; known: model"),
        ({"solver": {"name": "sgd"}}, "unknown solver 'sgd'; known: penalty, adaptive, alternate, two-stage, distil"),
        ({"eraser": {"name": "esb"}}, "unknown eraser 'esb'; known: esd"),
        ({"eraser": {"etaa": 1.0}}, "eraser 'esd' has no 'etaa'; it has: name, parameters"),
        ({"solver": {"name": "alternate", "lambda": 1.0}}, "solver 'alternate' has no 'lambda'"),
        ({"solver": "penalty"}, "is a table"),
        ({"prune": "apt"}, "--prune 'apt' is unknown; known: bk-sdm-base"),
        ({"steps": "many"}, "steps is 'many', needs a whole number"),
        ({"steps": 1.5}, "needs a whole number"),
        ({"gradient_checkpointing": 1}, "needs a true or false"),
        ({"steps": 0}, "nothing would be trained"),
        ({"batch": 0}, "needs 1 or more"),
        ({"rate": 0}, "needs more than 0"),
        ({"weight_decay": float("nan")}, "weight_decay nan: needs 0 or more"),
        ({"weights": {"denoise": float("nan")}}, "weights.denoise nan: needs 0 or more"),
        ({"seed": 2**32}, "seed 4294967296: needs 0 to 4294967295"),
        ({"concept_captions": "drop"}, "known: retarget, mask, keep"),
        ({"precision": "fp16"}, "known: fp32, bf16"),
        ({"weights": {"denoise": 0, "output": 0, "feature": 0}}, "nothing to distil"),
        ({"student": "s"}, "--student needs --teacher"),
        ({"teacher": "t"}, "--teacher needs --student"),
        ({"model": "m", "student": "s", "teacher": "t"}, "give --model, or --student and --teacher"),
        ({"model": "m", "erase": "x"}, "--data is needed"),
        ({"model": "m", "data": "d"}, "--erase is needed"),
    ],
)
def test_messages(changes: dict, message: str):
    with pytest.raises(EdgeSafeError, match=message):
        resolve(**changes)


@pytest.mark.parametrize("erase", ["none", "", " , ", "None,"])
def test_no_concept_is_distilled_only(erase: str):
    settings = resolve(erase=erase)
    assert (settings.erase, type(settings.solver)) == ("none", Distil) and parse(erase, None) == ()


def test_unknown_preset():
    with pytest.raises(EdgeSafeError, match="known: quick, full, paper"):
        resolve("fast")
