"""Stable Diffusion XL through the same training code: its losses against diffusers' own calls, whole runs, and what they save."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from click.testing import CliRunner, Result
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from rich.console import Console
from safetensors.torch import load_file

from edgesafe import artifact, model, preparation, presets, previews, sampling
from edgesafe.cli import main
from edgesafe.data import drawn_by, generator, silent
from edgesafe.erasers import ESD
from edgesafe.errors import EdgeSafeError
from edgesafe.problem import DistilAndErase

SMALL = ["--batch", "4", "--inner-steps", "1", *(f"--set={k}" for k in ("concept_bank=4", "erase_batch=2", "warmup=0"))]


@pytest.fixture(autouse=True)
def small_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesafe.previews.SHOWN", 2)
    monkeypatch.setattr(sampling.sample.__wrapped__, "__defaults__", (2, 4.0, None))


def variant(folder: Path, to: Path, prediction_type: str, zeros: bool) -> Path:
    """A copy of the pipeline with another prediction type and another empty prompt."""
    shutil.copytree(folder, to)
    for path, change in (
        (to / "model_index.json", {"force_zeros_for_empty_prompt": zeros}),
        (to / "scheduler" / "scheduler_config.json", {"prediction_type": prediction_type}),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return to


def edgesafe(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)], catch_exceptions=False)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def problem_of(folder: Path, data: Path, out: Path, **settings) -> tuple[preparation.Setup, DistilAndErase]:
    asked = {"model": str(folder), "data": str(data), "prune": "none", "erase": "style:neon", "batch": 8, "erase_batch": 3}
    made = presets.Settings(**asked | settings)
    setup = preparation.set_up(made, torch.device("cpu"))
    return setup, preparation.problem(setup, out, Accelerator(cpu=True), Console(quiet=True))


class Diffusers:
    """The pipeline's own text encoding, time ids and UNet call."""

    def __init__(self, folder: Path) -> None:
        self.pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
        self.noise = DDPMScheduler.from_config(self.pipe.scheduler.config)

    @torch.no_grad()
    def ask(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Each row's prompt is encoded as a picture's own; an empty one as the pipeline's unconditional half."""
        size, pipe = (64, 64), self.pipe
        ids = pipe._get_add_time_ids(size, (0, 0), size, torch.float32, pipe.text_encoder_2.config.projection_dim)
        rows = []
        for i, caption in enumerate(captions):
            given, empty, pooled, empty_pooled = pipe.encode_prompt(caption or "x", do_classifier_free_guidance=True)
            states, embeds = (given, pooled) if caption else (empty, empty_pooled)
            added = {"text_embeds": embeds, "time_ids": ids}
            rows.append(pipe.unet(noisy[i : i + 1], timesteps[i : i + 1], encoder_hidden_states=states, added_cond_kwargs=added).sample)
        return torch.cat(rows)


@pytest.mark.parametrize(("prediction", "zeros"), [("epsilon", True), ("v_prediction", False)])
def test_the_lower_loss_is_that_of_diffusers_calls(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path, prediction: str, zeros: bool):
    """min-SNR-weighted denoising and output KD, half the captions emptied; with the concept's captions left alone."""
    folder = variant(tiny_sdxl, tmp_path / "model", prediction, zeros)
    weights = presets.Weights(denoise=1.0, output=2.0, feature=0.0, min_snr_gamma=5.0)
    setup, problem = problem_of(folder, tiny_images, tmp_path, weights=weights, concept_captions="keep", empty_captions=0.5)
    student = setup.student.unet
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator(0, "away from the teacher", p.numel())))
    loss, terms = problem.lower(student, problem.lower_batch(3))

    batch, draws = setup.source.batch(3), generator(0, "lower", 3)
    noise = torch.randn(batch.latents.shape, generator=draws)
    timesteps = torch.randint(1000, (8,), generator=draws)
    captions = ["" if drop else c for c, drop in zip(batch.captions, torch.rand(8, generator=draws) < 0.5, strict=True)]
    assert 0 < captions.count("") < 8
    theirs = Diffusers(folder)
    noisy = theirs.noise.add_noise(batch.latents, noise, timesteps)
    goal = noise if prediction == "epsilon" else theirs.noise.get_velocity(batch.latents, noise, timesteps)
    taught = theirs.ask(noisy, timesteps, captions)
    theirs.pipe.unet.load_state_dict(student.state_dict())
    made = theirs.ask(noisy, timesteps, captions)
    alpha = theirs.noise.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    weight = torch.minimum(snr, torch.tensor(5.0)) / (snr if prediction == "epsilon" else snr + 1)
    denoise = (F.mse_loss(made, goal, reduction="none").mean((1, 2, 3)) * weight).mean()
    output = F.mse_loss(made, taught)
    assert output > 1e-6
    torch.testing.assert_close(terms["denoise"], denoise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["output"], output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss.detach(), denoise + 2 * output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("prediction", "zeros"), [("epsilon", True), ("v_prediction", False)])
def test_the_erasing_loss_is_that_of_diffusers_calls(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path, prediction: str, zeros: bool):
    """ESD's own target, e_0 - eta (e_c - e_0): e_0 is the pipeline's unconditional half."""
    folder = variant(tiny_sdxl, tmp_path / "model", prediction, zeros)
    setup, problem = problem_of(folder, tiny_images, tmp_path, eraser=ESD(target="esd", eta=1.0))
    batch = problem.upper_batch(1, setup.student.unet)
    loss, _ = problem.upper(setup.student.unet, batch)

    draws, theirs = generator(0, "upper", 1), Diffusers(folder)
    latents, prompts, _ = problem.pictures.draw(3, draws)
    noise = torch.randn(latents.shape, generator=draws)
    timesteps = torch.randint(1000, (3,), generator=draws)
    noisy = theirs.noise.add_noise(latents, noise, timesteps)
    concept, empty = theirs.ask(noisy, timesteps, prompts), theirs.ask(noisy, timesteps, [""] * 3)
    torch.testing.assert_close(loss.detach(), F.mse_loss(concept, empty - (concept - empty)), atol=1e-5, rtol=1e-4)
    assert bool(batch.empty[0].any()) is not zeros and bool(batch.empty[1].any()) is not zeros


def test_guided_drawing_is_the_pipelines(tiny_sdxl: Path, tmp_path: Path):
    """Pictures that the teacher draws, and previews, against StableDiffusionXLPipeline with DDIM."""
    from diffusers import DDIMScheduler

    net, theirs = model.load(tiny_sdxl), Diffusers(tiny_sdxl).pipe
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    prompts = ["red apple", "shark neon style"]

    def stock(seeds: list[int], output: str) -> torch.Tensor:
        noise = sampling.starting_latents(seeds, net.latent_shape)
        size = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
        return theirs(prompts, latents=noise, output_type=output, **size).images

    drawn = drawn_by(net, prompts, 0, tmp_path / "drawn.safetensors", silent)
    torch.testing.assert_close(drawn.mean.float() * drawn.scale, stock([0, 1], "latent"), atol=2e-3, rtol=2e-3)
    seen = previews.draw(net, net.unet, prompts)
    torch.testing.assert_close(seen, stock([previews.SEED, previews.SEED + 1], "pt"), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_distilling_lowers_the_loss(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path, prediction: str):
    folder, out = variant(tiny_sdxl, tmp_path / "model", prediction, True), tmp_path / "run"
    alone = ["weights.output=0", "weights.feature=0", "weights.min_snr_gamma=0", "rate=3e-3", "warmup=0", "preview_every=30"]
    args = ["--model", folder, "--data", tiny_images, "--erase", "none", "--prune", "none", "--batch", "8", "--steps", "30"]
    result = edgesafe(*args, *(f"--set={k}" for k in alone), "--out", out)
    assert result.exit_code == 0, result.output
    losses = [row["denoise"] for row in metrics(out)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("solver", ["penalty", "alternate", "two-stage"])
def test_a_whole_run_loads_in_diffusers(solver: str, tiny_sdxl: Path, tiny_images: Path, tmp_path: Path):
    out = tmp_path / "run"
    small = [a for a in SMALL if solver != "two-stage" or a not in ("--inner-steps", "1")]
    args = ["--model", tiny_sdxl, "--data", tiny_images, "--erase", "style:neon", "--prune", "none", "--solver", solver, "--steps", "4"]
    result = edgesafe(*args, *small, "--set=eraser.pictures=data", "--set=rate=1e-3", "--out", out)
    assert result.exit_code == 0, result.output
    assert [row["level"] for row in metrics(out)].count("outer") in (1, 2)
    assert artifact.read(out).steps[0].method == f"{solver}/esd"
    stock = StableDiffusionXLPipeline.from_pretrained(out / "model", torch_dtype=torch.float32, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of diffusers' Euler scheduler with numpy 2
        picture = stock("red apple", height=64, width=64, num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()
    before, after = (load_file(f / "unet" / "diffusion_pytorch_model.safetensors") for f in (tiny_sdxl, out / "model"))
    assert set(before) == set(after) and any(not torch.equal(before[name].half(), after[name]) for name in before)
    for part in ("text_encoder", "text_encoder_2", "vae"):  # trained along with nothing
        ours, theirs = model.load(out), model.load(tiny_sdxl)
        for a, b in zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True):
            assert torch.equal(a, b.half().float())


def test_a_trained_model_exports_to_onnx(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path):
    from edgesafe.export import ExportConfig, run

    out = tmp_path / "run"
    args = ["--model", tiny_sdxl, "--data", tiny_images, "--erase", "style:neon", "--prune", "none", "--steps", "2", *SMALL]
    assert edgesafe(*args, "--set=eraser.pictures=student", "--out", out).exit_code == 0
    made = artifact.read(run(ExportConfig(str(out), "onnx", "fp32", tmp_path / "onnx", parity_steps=2)))
    assert made.concepts[0]["name"] == "neon" and made.parity["picture"]["max_levels"] <= 1
    assert {"text_encoder", "text_encoder_2", "unet"} <= set(made.parity["components"])


@pytest.mark.parametrize("eraser", ["uce", "rece"])
def test_closed_form_erasers_edit_it(eraser: str, tiny_sdxl: Path, tiny_images: Path, tmp_path: Path):
    from edgesafe.erasers import CLOSED_FORM

    if eraser not in CLOSED_FORM:
        pytest.skip(f"no eraser {eraser!r}")
    out = tmp_path / "run"
    args = ["--model", tiny_sdxl, "--data", tiny_images, "--erase", "style:neon", "--prune", "none", "--eraser", eraser, "--steps", "0"]
    result = edgesafe(*args, "--batch", "4", "--out", out)
    assert result.exit_code == 0, result.output
    before, after = (load_file(f / "unet" / "diffusion_pytorch_model.safetensors") for f in (tiny_sdxl, out / "model"))
    moved = {name for name in before if not torch.equal(before[name].half(), after[name])}
    assert moved == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}


def test_a_pruned_student_learns_from_its_teacher(tiny_sdxl: Path, tiny_images: Path, tmp_path: Path):
    """A run's own model as --student, on pictures that the teacher draws."""
    first, captions = tmp_path / "first", tmp_path / "captions.txt"
    captions.write_text("red apple\na neon style shark\nblue balloon\n")
    data = ["--data", captions, "--erase", "none", "--batch", "2", "--steps", "1", "--set=bank=3"]
    assert edgesafe("--model", tiny_sdxl, "--prune", "none", *data, "--out", first).exit_code == 0
    result = edgesafe("--student", first, "--teacher", tiny_sdxl, *data, "--out", tmp_path / "second")
    assert result.exit_code == 0, result.output
    assert {"denoise", "output", "feature"} <= set(metrics(tmp_path / "second")[0])


def test_students_of_another_kind_are_refused(tiny_sdxl: Path, tiny_sd1: Path, tiny_images: Path, tmp_path: Path):
    def match(student: Path, teacher: Path) -> None:
        asked = presets.Settings(student=str(student), teacher=str(teacher), data=str(tiny_images), prune="none", erase="none")
        preparation.set_up(asked, torch.device("cpu"))

    with pytest.raises(EdgeSafeError, match="has pipeline StableDiffusionPipeline, --teacher .* StableDiffusionXLPipeline: they must"):
        match(tiny_sd1, tiny_sdxl)
    with pytest.raises(EdgeSafeError, match="has zeros for the empty prompt False, --teacher .* True"):
        match(variant(tiny_sdxl, tmp_path / "encoded", "epsilon", False), tiny_sdxl)
    with pytest.raises(EdgeSafeError, match="has prediction type v_prediction"):
        match(variant(tiny_sdxl, tmp_path / "v", "v_prediction", True), tiny_sdxl)
    other = variant(tiny_sdxl, tmp_path / "other", "epsilon", True)
    net = model.load(other)
    with torch.no_grad():
        net.text_encoder_2.text_projection.weight.mul_(-1)
    model.save(net, tmp_path / "turned", torch.float32)
    with pytest.raises(EdgeSafeError, match="have different text encoders"):  # which the pooled state alone tells
        match(tmp_path / "turned", tiny_sdxl)


def test_pruners_of_blocks_say_what_fits(tiny_sdxl: Path, tiny_images: Path):
    with pytest.raises(EdgeSafeError, match="needs a UNet of 4 levels with layers_per_block 2; this one has 2.*--prune width or none"):
        preparation.set_up(presets.Settings(model=str(tiny_sdxl), data=str(tiny_images)), torch.device("cpu"))
