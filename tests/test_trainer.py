"""Whole runs on random pipelines: what they write, that a stopped run goes on with the same bits, and what bad input gets."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.torch import load_file

from edgesafe import artifact, checkpoint, model, preparation, presets, processes, trainer
from edgesafe.cli import main
from edgesafe.problem import DistilAndErase
from edgesafe.processes import Processes

SMALL = [
    "--batch",
    "2",
    "--steps",
    "4",
    "--inner-steps",
    "1",
    *(f"--set={k}" for k in ("bank=4", "concept_bank=4", "erase_batch=2", "rate=1e-3")),
]


@pytest.fixture(autouse=True)
def small_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesafe.previews.SHOWN", 2)
    monkeypatch.setattr("edgesafe.sampling.sample.__defaults__", (2, 4.0, None))


def edgesafe(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)], catch_exceptions=False)


def unet(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fixture", ["tiny_sd1", "tiny_sd2"])
def test_a_run_on_an_image_folder(fixture: str, request: pytest.FixtureRequest, tiny_images: Path, tmp_path: Path):
    out = tmp_path / "run"
    args = ["--model", request.getfixturevalue(fixture), "--data", tiny_images, "--erase", "style:neon", "--set=eraser.pictures=data"]
    result = edgesafe(*args, *SMALL, "--out", out)
    assert result.exit_code == 0, result.output
    assert [row["level"] for row in metrics(out)] == ["inner", "outer"] * 2
    assert all({"lower", "upper", "gap", "lambda"} <= set(row) for row in metrics(out)[1::2])
    manifest = artifact.read(out)
    assert (manifest.kind, manifest.control, manifest.steps[0].method) == ("run", str(request.getfixturevalue(fixture)), "penalty/esd")
    assert manifest.concepts[0]["name"] == "neon"
    assert "model/unet/diffusion_pytorch_model.safetensors" in manifest.files
    assert len(list((out / "previews").glob("*.png"))) == 2
    assert list((out / "logs").iterdir())
    student = model.load(out)
    assert student.unet.config.layers_per_block == 1 and student.unet.config.mid_block_type is None
    assert student.prediction_type == model.load(request.getfixturevalue(fixture)).prediction_type


@pytest.mark.parametrize("solver", ["penalty", "adaptive", "alternate", "two-stage", "distil"])
def test_a_killed_run_goes_on_with_the_same_bits(solver: str, tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = [a for a in SMALL if a not in ("--inner-steps", "1")] + ["--set=checkpoint_every=2", "--set=preview_every=4"]
    steps += ["--set=solver.inner_steps=1"] if solver in ("penalty", "alternate") else []
    steps += ["--set=solver.inner_steps=2"] if solver == "adaptive" else []  # killed before the outer step
    args = ["--model", tiny_sd1, "--data", "emoji", "--erase", "none" if solver == "distil" else "neon", "--solver", solver, *steps]
    assert edgesafe(*args, "--out", tmp_path / "whole").exit_code == 0
    kept = trainer.save

    def killed(state, path):
        kept(state, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", killed)
        stopped = edgesafe(*args, "--out", tmp_path / "killed")
    assert stopped.exit_code == 130
    assert f"edgesafe train --resume {tmp_path / 'killed'}" in stopped.output.replace("\n", "")
    assert checkpoint.load(tmp_path / "killed" / trainer.CHECKPOINT)[1]["step"] == 2
    resumed = edgesafe("--resume", tmp_path / "killed")
    assert resumed.exit_code == 0, resumed.output
    whole, again = unet(tmp_path / "whole"), unet(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(tmp_path / run)] for run in ("whole", "killed")]
    assert rows[0] == rows[1]
    states = [checkpoint.load(tmp_path / run / trainer.CHECKPOINT)[0] for run in ("whole", "killed")]
    assert all(torch.equal(v, states[1][group][name]) for group, tensors in states[0].items() for name, v in tensors.items())


def test_ctrl_c_ends_the_step_keeps_a_checkpoint_and_says_how_to_go_on(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lower_batch = DistilAndErase.lower_batch

    def interrupted(self, n):
        if n == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return lower_batch(self, n)

    with monkeypatch.context() as patch:
        patch.setattr(DistilAndErase, "lower_batch", interrupted)
        result = edgesafe("--model", tiny_sd1, "--data", "emoji", "--erase", "neon", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "Stopped at step 3 of 4, checkpoint kept" in result.output
    assert edgesafe("--resume", tmp_path / "run").exit_code == 0
    assert len(metrics(tmp_path / "run")) == 4


def test_ctrl_c_before_anything_is_written_promises_nothing(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "set_up", interrupted)
    result = edgesafe("--model", tiny_sd1, "--data", "emoji", "--erase", "neon", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "nothing was written" in result.output and "--resume" not in result.output


def test_nan_stops_with_step_and_tensor_and_keeps_the_last_good_checkpoint(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lower = DistilAndErase.lower

    def broken(self, network, batch):
        loss, terms = lower(self, network, batch)
        return loss, terms | ({"feature": torch.tensor(float("nan"))} if broken.calls > 2 else {})

    broken.calls = 0

    def counting(self, network, batch):
        broken.calls += 1
        return broken(self, network, batch)

    monkeypatch.setattr(DistilAndErase, "lower", counting)
    args = [
        "--model",
        tiny_sd1,
        "--data",
        "emoji",
        "--erase",
        "none",
        "--set=checkpoint_every=1",
        "--batch",
        2,
        "--set=bank=4",
        "--steps",
        4,
    ]
    result = edgesafe(*args, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "step 2: the feature loss is nan; the last good checkpoint is" in result.output
    groups, meta = checkpoint.load(tmp_path / "run" / trainer.CHECKPOINT)
    assert meta["step"] == 2
    assert all(torch.isfinite(v).all() for v in groups["theta"].values())


def test_weights_that_an_outer_step_breaks_never_reach_the_checkpoint(tiny_sd1: Path, tmp_path: Path):
    args = ["--model", tiny_sd1, "--data", "emoji", "--erase", "neon", *SMALL, "--set=checkpoint_every=1", "--set=erase_rate=1e39"]
    result = edgesafe(*args, "--out", tmp_path / "run")
    assert result.exit_code == 2
    said = result.output.replace("\n", " ")
    assert "after step 2: the weight down_blocks" in said and "the last good checkpoint is" in said
    groups, meta = checkpoint.load(tmp_path / "run" / trainer.CHECKPOINT)
    assert meta["step"] == 1
    assert all(torch.isfinite(v).all() for v in groups["theta"].values())


def losses_of(tiny: Path, folder: Path, **changes: object) -> list[float]:
    """Of three iterations, by the trainer's own parts."""
    few = {"model": str(tiny), "data": "emoji", "erase": "neon", "batch": 2, "erase_batch": 2, "bank": 4, "concept_bank": 4, "warmup": 0}
    few |= {"steps": 3, "rate": 1e-4, "solver": {"name": "penalty", "inner_steps": 2}}
    settings = presets.resolve(None, [("test", few | changes)])
    AcceleratorState._reset_state(reset_partial_state=True)  # or the first precision of this process stays
    accelerator, _ = processes.join(mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision))
    setup = preparation.set_up(settings, accelerator.device)
    problem = preparation.problem(setup, folder, accelerator, Console(quiet=True))
    state = trainer._state(setup, Processes())
    values = [row.values["lower"] for row in settings.solver.solve(state, problem, 3)]
    AcceleratorState._reset_state(reset_partial_state=True)
    return values


@pytest.mark.parametrize(("changes", "tolerance"), [({"channels_last": True}, 1e-4), ({"precision": "bf16"}, 0.03)])
def test_layout_and_precision_give_the_same_losses(changes: dict, tolerance: float, tiny_sd1: Path, tmp_path: Path):
    plain, other = losses_of(tiny_sd1, tmp_path), losses_of(tiny_sd1, tmp_path, **changes)
    assert other == pytest.approx(plain, rel=tolerance)
    assert other != plain


def test_moments_are_restored_in_the_weights_layout():
    """Fused AdamW walks through memory: moments in another layout than the weights would be added to the wrong ones."""
    weight = torch.nn.Parameter(torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([weight], 0.1, fused=True)
    for _ in range(3):
        weight.grad = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
        optimizer.step()
    kept = {name: value.contiguous().clone() for name, value in checkpoint.optimizer_tensors(optimizer).items()}
    checkpoint.restore_optimizer(optimizer, kept)
    moments = optimizer.state[weight]
    assert moments["exp_avg"].stride() == weight.stride()
    assert torch.equal(moments["exp_avg"], kept["0.exp_avg"])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's tracer looks
def test_compiled_blocks_give_the_same_output_and_gradient():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    tiny = {"block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    plain = UNet2DConditionModel(
        sample_size=4, layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4, mid_block_type=None, **tiny
    )
    compiled = copy.deepcopy(plain)
    preparation.compile_blocks(compiled, backend="eager")  # traced as ever; to generate C++ takes minutes on a CPU
    given = torch.randn(2, 4, 4, 4), torch.tensor([3, 900]), torch.randn(2, 5, 8)
    outputs = []
    for network in (plain, compiled):
        output = network(*given).sample
        outputs.append((output, *torch.autograd.grad(output.square().sum(), [network.conv_in.weight])))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(compiled).state_dict().keys() == plain.state_dict().keys()


def test_a_run_can_start_from_a_run_and_chains_its_steps(tiny_sd1: Path, tmp_path: Path):
    first, second = tmp_path / "distilled", tmp_path / "erased"
    few = [a for a in SMALL if a not in ("--inner-steps", "1")]
    assert edgesafe("--model", tiny_sd1, "--data", "emoji", "--erase", "none", *few, "--out", first).exit_code == 0
    result = edgesafe("--student", first, "--teacher", tiny_sd1, "--data", "emoji", "--erase", "beer", *SMALL, "--out", second)
    assert result.exit_code == 0, result.output
    manifest = artifact.read(second)
    assert [step.method for step in manifest.steps] == ["distil", "penalty/esd"]
    assert manifest.control == str(first)
    assert manifest.base_model["id"] == str(tiny_sd1)


def test_captions_alone_are_drawn_by_the_teacher(tiny_sd2: Path, tmp_path: Path):
    (tmp_path / "captions.txt").write_text("red apple\nred apple neon style\n")
    args = ["--model", tiny_sd2, "--data", tmp_path / "captions.txt", "--erase", "style:neon", *SMALL]
    result = edgesafe(*args, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "checkpoint" / "drawn.safetensors").is_file()


def test_skipped_pictures_are_counted(tiny_sd1: Path, tiny_images: Path, tmp_path: Path):
    pictures = Path(shutil.copytree(tiny_images, tmp_path / "pictures"))
    (pictures / "0.png").write_bytes(b"")
    few = [a for a in SMALL if a not in ("--inner-steps", "1")]
    result = edgesafe("--model", tiny_sd1, "--data", pictures, "--erase", "none", *few, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert "1 pictures skipped:" in result.output and "0.png: not a readable picture" in result.output


def test_dry_run_prints_the_manifests_config_and_writes_nothing(tiny_sd1: Path, tmp_path: Path):
    args = ["--model", tiny_sd1, "--data", "emoji", "--erase", "neon", *SMALL, "--out", tmp_path / "run"]
    shown = edgesafe(*args, "--lambda", 7, "--dry-run")
    assert json.loads(shown.output)["solver"]["lambda"] == 7.0
    assert not (tmp_path / "run").exists()
    assert edgesafe(*args, "--lambda", 7).exit_code == 0
    assert artifact.read(tmp_path / "run").steps[0].config == json.loads(shown.output)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(shown.output)


def test_help_names_every_method():
    from edgesafe.erasers import CLOSED_FORM, ERASERS
    from edgesafe.pruners import PRUNERS
    from edgesafe.pruners.scores import SCORES
    from edgesafe.solvers import SOLVERS

    text = "".join(edgesafe("--help").output.split())
    assert all(name in text for name in (*PRUNERS, *SCORES, *ERASERS, *CLOSED_FORM, *SOLVERS))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--solver", "sgd"], "unknown solver 'sgd'; known: penalty"),
        (["--prune", "apt"], "--prune 'apt' is unknown; known: bk-sdm-base"),
        (["--set", "eraser"], "needs KEY=VALUE"),
        (["--set", "eraser.etaa=1"], "has no 'etaa'"),
        (["--erase", "vaporwave"], "no such style or subject"),
        (["--erase", "neon", "--anchor", "neon"], "the concept itself"),
        (["--data", "nowhere"], "--data nowhere: needs 'emoji'"),
        (["--set", "eraser.parameters=heads"], "known: x, strict"),
        (["--seed", "-1"], "seed -1"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(args: list[str], message: str, tiny_sd1: Path, tmp_path: Path):
    data = [] if "--data" in args else ["--data", "emoji"]
    erase = [] if "--erase" in args else ["--erase", "neon"]
    result = edgesafe("--model", tiny_sd1, *data, *erase, *args, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_a_concept_without_pictures_leaves_no_folder(tiny_sd1: Path, tiny_images: Path, tmp_path: Path):
    args = ["--model", tiny_sd1, "--data", tiny_images, "--erase", "style:monet", "--set=eraser.pictures=data", *SMALL]
    result = edgesafe(*args, "--out", tmp_path / "run")
    assert result.exit_code == 2 and "no caption of" in result.output
    assert not (tmp_path / "run").exists()


def test_folders_in_the_way(tiny_sd1: Path, tmp_path: Path):
    (tmp_path / "kept.txt").write_text("mine")
    taken = edgesafe("--model", tiny_sd1, "--data", "emoji", "--erase", "neon", "--out", tmp_path)
    assert taken.exit_code == 2 and "exists. Give another --out" in taken.output
    assert (tmp_path / "kept.txt").read_text() == "mine"
    assert "not a run of edgesafe train" in edgesafe("--resume", tmp_path).output
    for flag, value in (("--steps", 3), ("--seed", 0), ("--lambda", 0), ("--set", "steps=3")):
        assert f"leave out {flag}\n" in edgesafe("--resume", tmp_path, flag, value).output


def test_students_that_cannot_learn_from_the_teacher(tiny_sd1: Path, tiny_sd2: Path, tmp_path: Path):
    args = ["--data", "emoji", "--erase", "neon", "--out", tmp_path / "run"]
    result = edgesafe("--student", tiny_sd1, "--teacher", tiny_sd2, *args)
    assert result.exit_code == 2 and "they must agree" in result.output
    strange = Path(shutil.copytree(tiny_sd1, tmp_path / "strange"))
    net = model.load(strange)
    with torch.no_grad():
        net.text_encoder.text_model.final_layer_norm.weight.mul_(-1)
    net.text_encoder.save_pretrained(strange / "text_encoder")
    assert "different text encoders" in edgesafe("--student", strange, "--teacher", tiny_sd1, *args).output
