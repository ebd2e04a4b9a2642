import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import model
from edgesafe.artifact import Manifest
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target, fine_tune
from edgesafe.benchmarks.probes.fine_tune import FineTune, of_world
from edgesafe.concepts import carriers, parse
from edgesafe.data import Pictures
from edgesafe.emoji.world import World
from edgesafe.errors import EdgeSafeError

QUICK = FineTune(steps=3, batch=2, pictures=3)


def pictures(net: model.TextToImage) -> Pictures:
    mean = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    return Pictures(mean, torch.zeros_like(mean), ["cat", "dog", "red apple", "egg"], net.vae.config.scaling_factor)


def tuned(folder: Path, probe: FineTune, saved: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    net = model.load(folder)

    def progress(step: int) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    probe.tune(net, pictures(net), 7, saved, progress)
    assert not net.unet.training and not any(p.requires_grad for p in net.unet.parameters())
    return net.unet.state_dict()


def test_one_step_is_adamws_own(tiny_sd1: Path, tmp_path: Path) -> None:
    """The first step of AdamW moves every weight by the rate against its gradient's sign, after the decay."""
    probe = FineTune(steps=1, rate=1e-3, warmup=0, batch=2, empty_captions=1.0)
    before, after = model.load(tiny_sd1).unet.state_dict(), tuned(tiny_sd1, probe, tmp_path / "saved")
    moved = torch.cat([((after[name] - before[name] * (1 - 1e-3 * 0.01)) / 1e-3).flatten() for name in before])
    assert moved.abs().max() < 1.01
    assert (moved.abs() > 0.9).float().mean() > 0.7  # the others have next to no gradient, such as biases before a normalisation


def test_a_rate_of_zero_leaves_every_weight_as_it_was(target: Target, cell_of: Callable[..., Cell]) -> None:
    source, runtime = replace(QUICK, rate=0.0, steps=1).model(target, cell_of("neon", 2))
    assert runtime == "torch"
    for name, part in model.load(source.place).modules().items():
        own = getattr(model.load(target.source.place), name).state_dict()
        assert all(torch.equal(own[key], value) for key, value in part.state_dict().items()), name


def test_training_lowers_the_loss_on_its_data(tiny_sd1: Path, tmp_path: Path) -> None:
    from edgesafe.benchmarks.probes.concept_pictures import noise_error

    net = model.load(tiny_sd1)
    shown, t = pictures(net), torch.full((4,), 900)
    latents = shown.mean.float() * shown.scale
    noise, states = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)), model.conditions(net, shown.captions)
    before = noise_error(net)(latents, states, t, noise).mean()
    FineTune(steps=8, rate=3e-3, batch=4, warmup=0).tune(net, shown, 7, tmp_path / "saved", lambda step: None)
    assert noise_error(net)(latents, states, t, noise).mean() < before


def test_a_stopped_training_goes_on_with_the_same_bits(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FineTune(steps=3, rate=1e-3, batch=1)
    monkeypatch.setattr(fine_tune, "KEEP_EVERY", 2)
    whole = tuned(tiny_sd1, probe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny_sd1, probe, tmp_path / "saved", stop_at=2)
    steps: list[int] = []
    net = model.load(tiny_sd1)
    probe.tune(net, pictures(net), 7, tmp_path / "saved", steps.append)
    assert steps == [2]
    assert all(torch.equal(whole[name], value) for name, value in net.unet.state_dict().items())


def test_it_is_trained_once_and_drawn_by_torch(target: Target, cell_of: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    target = replace(target, progress=said.append)
    source, runtime = QUICK.model(target, cell_of("neon", 2))
    assert source.name.startswith("fine-tuned-3-steps") and source.sha256
    assert said == [
        "fine-tune: gathering pictures without the concept",
        "fine-tune: step 0 of 3",
        "fine-tune: step 1 of 3",
        "fine-tune: step 2 of 3",
    ]
    assert [path.name for path in target.cache.iterdir()] == [source.name]
    assert runtimes.load(source.place, runtime, 1).generate(["egg"], [0], steps=2).shape == (1, 64, 64, 3)
    monkeypatch.setattr(FineTune, "tune", None)
    assert QUICK.model(target, cell_of("egg", 2)) == (source, "torch")
    assert "3 steps of AdamW at 5e-05, batch 2" in QUICK.found(target, cell_of("neon", 2))


@pytest.mark.parametrize("concept", ["neon", "penguin", "beer mug"])
def test_the_worlds_pictures_show_no_erased_concept(concept: str, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    concepts, drawn = parse(concept, World()), []
    render = World.sample

    def noted(self: World, n: int, draws: torch.Generator) -> object:
        drawn.append(render(self, n, draws))
        return drawn[-1]

    monkeypatch.setattr(World, "sample", noted)
    found = of_world(concepts, model.load(tiny_sd1), 40, 3)
    assert len(found.captions) == len(found.mean) == 40
    assert not any(carriers(caption, concepts) for caption in found.captions)
    world, kept = World(), iter(found.captions)
    names = [s.name for s in world.subjects]
    wanted = next(kept)
    for batch in drawn:  # whatever was kept, its picture shows neither
        for caption, s, t in zip(batch.captions, batch.subjects.tolist(), batch.styles.tolist(), strict=True):
            if caption == wanted and concept not in (names[s], world.styles[t]):
                wanted = next(kept, None)
    assert wanted is None


def test_data_are_the_worlds_for_the_embedded_model_and_the_anchors_for_others(target: Target, cell_of: Callable[..., Cell]) -> None:
    net = model.load(target.source.place)
    base = {"id": "emoji:teacher", "revision": None, "sha256": None}
    embedded = replace(target, source=replace(target.source, manifest=Manifest("run", base, "emoji:student", (), (), {})))
    assert QUICK.gather(embedded, net).captions == of_world(target.concepts, net, 3, target.seed).captions
    found = QUICK.gather(target, net)
    assert len(found.captions) == len(found.mean) == 3
    assert set(found.captions) <= {anchor for _, anchor in target.concepts[0].pairs}


def test_a_folder_and_captions_of_ones_own(target: Target, tiny_images: Path, tmp_path: Path) -> None:
    net = model.load(target.source.place)
    rows = [json.loads(line) for line in (tiny_images / "metadata.jsonl").read_text().splitlines()]
    found = replace(QUICK, pictures=99, data=str(tiny_images)).gather(target, net)
    assert found.captions == [row["text"] for row in rows if "neon" not in row["text"]]
    lines = tmp_path / "captions.txt"
    lines.write_text("a cat\nneon cat\n")
    assert set(replace(QUICK, data=str(lines)).gather(target, net).captions) == {"a cat"}
    lines.write_text("neon cat\n")
    with pytest.raises(EdgeSafeError, match="every caption carries an erased concept"):
        replace(QUICK, data=str(lines)).gather(target, net)
    with pytest.raises(EdgeSafeError, match="fine-tune.data 'nowhere': needs 'emoji', a folder"):
        replace(QUICK, data="nowhere").gather(target, net)
