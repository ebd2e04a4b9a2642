"""The evaluation on a random pipeline and a random judge: counts, files, verdicts and messages."""

import json
from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.emoji import agreement, evaluate, scorecard, sheets
from edgesafe.emoji import judge as judging
from edgesafe.emoji.judge import Judge
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, random_judge: Judge) -> None:
    """The random judge instead of the packaged one, and few renders."""
    monkeypatch.setattr(judging, "sha256", lambda: "random")
    monkeypatch.setattr(evaluate, "load_judge", lambda: random_judge)
    for name, value in {"RENDERS": 24, "VAE_RENDERS": 4, "SHEET_SUBJECTS": 1}.items():
        monkeypatch.setattr(evaluate, name, value)


def test_evenly_spreads_over_pairs(world: World) -> None:
    pairs = world.pairs(heldout=False)
    counts = torch.unique(evaluate.evenly(pairs, 2 * len(pairs) + 5), dim=0, return_counts=True)[1]
    assert len(counts) == len(pairs)
    assert set(counts.tolist()) == {2, 3}
    assert torch.equal(evaluate.evenly(pairs, 7), evaluate.evenly(pairs, 70)[:7])


def test_twins_are_two_pictures_of_one_pair() -> None:
    assert evaluate.twins(torch.tensor([[0, 1], [2, 1], [0, 1], [0, 2], [2, 1], [0, 1]])).tolist() == [[0, 2], [1, 4]]
    assert evaluate.twins(torch.tensor([[0, 1], [0, 2]])).shape == (0, 2)


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(tiny_sd1: Path) -> None:
    net = model.load(tiny_sd1)
    both = evaluate.draw(net, ["shark", "banana"], [0, 1])
    alone = evaluate.draw(net, ["banana"], [1])
    assert both.shape == (2, 3, 64, 64)
    assert torch.allclose(both[1], alone[0], atol=1e-4)


def test_the_whole_evaluation(tiny_sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], world: World) -> None:
    evaluate.main(["--model", str(tiny_sd1), "--pictures", "8", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "evaluate.json").read_text())
    denominators = {name.split(":")[0]: rate["denominator"] for name, rate in report["figures"].items() if isinstance(rate, dict)}
    assert denominators == {"judge, renders of held-out pairs": 24, "model, trained pairs": 8, "model, held-out pairs": 4}
    assert report["verdicts"].keys() == scorecard.TARGETS.keys()
    assert sum(row["subject right"]["denominator"] for row in report["by_style"].values()) == 12
    assert report["distance_to_renders"].keys() == {"generated", "other renders"}
    assert report["world"]["trained_pairs"] + report["world"]["heldout_pairs"] == 12 * 6
    assert {path.name for path in tmp_path.iterdir()} == {"evaluate.json", "generated.png", "renders.png"}
    assert "gate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("subject", "verdict"), [(85, "target met"), (84, "gate met, target not met"), (70, "gate met, target not met"), (69, "gate not met")]
)
def test_verdicts_at_their_edges(subject: int, verdict: str) -> None:
    figures: dict = {name: {"numerator": 100, "denominator": 100} for name in scorecard.TARGETS}
    figures |= {"model, trained pairs: subject right": {"numerator": subject, "denominator": 100}, "VAE, fresh renders: PSNR in dB": 24.99}
    found = scorecard.verdicts(figures)
    assert found["model, trained pairs: subject right"] == verdict
    assert found["VAE, fresh renders: PSNR in dB"] == "target not met"


def _contact(tiny_sd1: Path, out: Path, n: int = 6) -> list[dict]:
    evaluate.main(["--model", str(tiny_sd1), "--contact", str(n), "--out", str(out)])
    return json.loads((out / "key.json").read_text())["asked"]


def _labels(path: Path, rows: list[tuple]) -> Path:
    path.write_text("number,subject,style\n" + "".join(f"{n},{s},{t}\n" for n, s, t in rows))
    return path


def test_labels_as_asked_agree_with_what_was_asked(tiny_sd1: Path, tmp_path: Path, world: World, random_judge: Judge) -> None:
    asked = _contact(tiny_sd1, tmp_path / "out")
    assert sum(row["heldout"] for row in asked) == 2
    rows = [(row["number"], row["subject"], row["style"]) for row in asked[:-1]] + [(6, "none", "none")]
    report = agreement.compare(world, random_judge, _labels(tmp_path / "out" / "labels.csv", rows))
    figures = report["figures"]
    assert [figures[f"{kind}: eye = asked"]["numerator"] for kind in ("subject", "style")] == [5, 5]
    assert figures["none: judge, where the eye says none"]["denominator"] == 1
    assert report["labelled"] == report["pictures"] == 6
    assert not report["judged_again"]


def test_another_judge_sees_the_sheets_again(
    tiny_sd1: Path, tmp_path: Path, world: World, random_judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _contact(tiny_sd1, tmp_path / "out")
    labels = _labels(tmp_path / "out" / "labels.csv", [(row["number"], row["subject"], row["style"]) for row in asked])
    before = agreement.compare(world, random_judge, labels)
    monkeypatch.setattr(judging, "sha256", lambda: "another")
    after = agreement.compare(world, random_judge, labels)
    assert after["judged_again"]
    assert after["figures"] == before["figures"]
    (tmp_path / "out" / "sheet_1.png").unlink()
    with pytest.raises(EdgeSafeError, match="sheet_1.png: missing"):
        agreement.compare(world, random_judge, labels)


def test_sheets_give_their_pictures_back(world: World, tiny_sd1: Path, tmp_path: Path, random_judge: Judge) -> None:
    """41 pictures: the second sheet holds one."""
    pairs = sheets.mixed_pairs(world, 41)
    pictures = (torch.rand(41, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    sheets.write(tmp_path, world, random_judge, model.load(tiny_sd1), pairs, pictures)
    assert torch.allclose(sheets.read_sheets(tmp_path, 41), pictures, atol=1e-6)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["sheet_1.png", "sheet_2.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number,subject\n1,shark\n", "no column 'style'"),
        ("number,subject,style\n9,none,neon\n", "line 2: number '9'"),
        ("number,subject,style\n1,none,neon\n1,none,neon\n", "line 3: number '1'"),
        ("number,subject,style\n1,unicorn,neon\n", "unknown subject 'unicorn'"),
        ("number,subject,style\n1,none,cubism\n", "unknown style 'cubism'"),
        ("number,subject,style\n", "no labels"),
    ],
)
def test_bad_labels_are_named(text: str, message: str, world: World, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(EdgeSafeError, match=message):
        agreement.read_labels(tmp_path / "labels.csv", world, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--pictures", "1"], "--pictures 1"), (["--contact", "0"], "--contact 0"), (["--agreement", "no.csv"], "key.json")],
)
def test_what_a_user_can_cause_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        evaluate.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_labelled_sheets_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(SystemExit):
        evaluate.main(["--contact", "6", "--out", str(tmp_path)])
    assert "holds a key.json" in capsys.readouterr().err
