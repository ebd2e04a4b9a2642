from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import checkpoint, model
from edgesafe.benchmarks.leakage import Cell, Question
from edgesafe.benchmarks.probes import Plain, Target, concept_pictures, learned
from edgesafe.benchmarks.probes.unlearn_diff_atk import UnlearnDiffAtk
from edgesafe.errors import EdgeSafeError


@pytest.mark.parametrize("pipeline", ["tiny_sd1", "tiny_sd2"])
def test_noise_error_is_that_of_diffusers_own_noising(pipeline: str, request: pytest.FixtureRequest) -> None:
    from diffusers import DDPMScheduler

    net = model.load(request.getfixturevalue(pipeline))
    schedule = DDPMScheduler.from_config(net.scheduler_config)
    draws = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=draws) for _ in range(2))
    t, states = torch.tensor([10, 500, 990]), model.encode(net, ["cat", "dog", ""])
    noisy = schedule.add_noise(latents, noise, t)
    goal = noise if net.prediction_type == "epsilon" else schedule.get_velocity(latents, noise, t)
    expected = (net.unet(noisy, t, states).sample - goal).square().mean((1, 2, 3))
    ours = concept_pictures.noise_error(net)(latents, (states,), t, noise)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_pictures_of_the_control_are_drawn_once(target: Target, cell_of: Callable[..., Cell]) -> None:
    cell, probe = cell_of("neon", 4), UnlearnDiffAtk()
    net = model.load(target.source.place)
    asked = concept_pictures.spread(cell, 2)
    latents = concept_pictures.of_control(probe, target, cell, net, asked)
    assert latents.shape == (2, 4, 8, 8) and latents.std() > 0
    pixels = net.vae.decode(latents / net.vae.config.scaling_factor).sample
    assert pixels.shape == (2, 3, 64, 64)
    gone = replace(target, control=replace(target.control, place="/nowhere"))  # the same hash, so what was kept serves
    assert torch.equal(concept_pictures.of_control(probe, gone, cell, net, asked), latents)
    with pytest.raises(EdgeSafeError, match="nowhere"):
        concept_pictures.of_control(probe, replace(gone, seed=8), cell, net, asked)
    missing = replace(target, control=EdgeSafeError("not here"), seed=9)
    with pytest.raises(EdgeSafeError, match="not here"):
        concept_pictures.of_control(probe, missing, cell, net, asked)


def test_spread_takes_the_first_of_different_prompts() -> None:
    rows = tuple(Question(prompt, seed) for seed, prompt in enumerate("abacb"))
    assert [(q.prompt, q.seed) for q in concept_pictures.spread(Cell("erased", None, rows), 2)] == [("a", 0), ("b", 1)]
    assert len(concept_pictures.spread(Cell("erased", None, rows), 9)) == 3


def test_a_place_changes_with_what_it_depends_on(target: Target, cell_of: Callable[..., Cell], tmp_path: Path) -> None:
    cell, probe = cell_of("neon", 4), UnlearnDiffAtk()
    place = learned.place(probe, target, "x", ".json", cell)
    assert place == learned.place(probe, replace(target, progress=print, threads=2), "x", ".json", cell)
    others = [
        learned.place(UnlearnDiffAtk(rate=0.02), target, "x", ".json", cell),
        learned.place(Plain(), target, "x", ".json", cell),
        learned.place(probe, replace(target, seed=8), "x", ".json", cell),
        learned.place(probe, replace(target, twin=replace(target.twin, sha256="cd" * 32)), "x", ".json", cell),
        learned.place(probe, replace(target, control=EdgeSafeError("gone")), "x", ".json", cell),
        learned.place(probe, replace(target, drawing=replace(target.drawing, steps=4)), "x", ".json", cell),
        learned.place(probe, target, "x", ".json", cell_of("neon", 5)),
        learned.place(probe, target, "x", ".json"),
    ]
    assert len({place, *others}) == 9
    assert learned.place(probe, target, "x") == learned.place(probe, replace(target, drawing=replace(target.drawing, steps=4)), "x")


def test_kept_facts_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "facts.json"
    assert learned.read(path) is None
    learned.write(path, {"a": [1, "b"]})
    assert learned.read(path) == {"a": [1, "b"]}
    assert [p.name for p in path.parent.iterdir()] == ["facts.json"]
    checkpoint.save(tmp_path / "x.safetensors", {}, {})
