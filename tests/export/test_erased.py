"""Whether rounding takes an erased change away: weights where it must, weights where it cannot, and matching names to modules."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import sampling
from edgesafe.export import erased, parity
from edgesafe.export.job import Job
from edgesafe.export.mlpackage import Package
from edgesafe.model import TextToImage

RNG = np.random.default_rng(0)
WIDE = RNG.standard_normal((64, 512)) * 0.05
STEPS = RNG.choice(np.linspace(-0.1, 0.1, 16), (64, 512))  # on 16 values, as a weight of 4 bits is
CHANGE = np.outer(RNG.standard_normal(64), RNG.standard_normal(512)) * 4e-4
SPREAD = RNG.standard_normal((64, 512)) * 4e-4


def survival(before: np.ndarray, change: np.ndarray, bits: int) -> dict[str, float]:
    return erased.survival((before + change).astype(np.float16), before.astype(np.float16), bits, "palettize", False)


def test_ordinary_weights_dither_a_change_far_below_the_step() -> None:
    found = survival(WIDE, CHANGE, 4)
    assert found["rms_change_to_error"] < 0.1 and found["same_codes"] > 0.9 and found["left"] == pytest.approx(1, abs=0.2)


def test_weights_on_few_values_lose_it() -> None:
    assert survival(STEPS, CHANGE, 4)["left"] < 0.1
    assert survival(STEPS, 100 * CHANGE, 4)["left"] > 0.5  # as large as the step


def test_a_change_along_one_direction_stands_above_noise_that_buries_the_same_change_spread_out() -> None:
    assert survival(WIDE, 5 * CHANGE, 4)["above"] > 1 > survival(WIDE, 5 * SPREAD, 4)["above"]


def test_norm_is_the_largest_singular_value() -> None:
    matrix = (WIDE + 10 * CHANGE).astype(np.float32)
    assert erased.norm(matrix) == pytest.approx(np.linalg.norm(matrix, 2), rel=0.02)


def job(ours: TextToImage, control: TextToImage) -> Job:
    empty = parity.Recording((), torch.zeros(1, 77), sampling.starting_latents([0], (4, 8, 8)))
    return Job(ours, empty, lambda: control)


def test_every_weight_of_the_unet_is_found_by_name(small_unet: tuple[TextToImage, dict[str, Path]]) -> None:
    loaded, path = small_unet[0], small_unet[1]["iOS17"]
    package, state = Package(path), {key: value.numpy() for key, value in loaded.unet.state_dict().items() if value.ndim > 1}
    found = {name: erased.match(weight, package.array(weight), state) for name, weight in package.weights.items()}
    assert len(found) > 20 and len(set(found.values())) == len(found) and None not in found.values()
    assert all(name.removesuffix("_to_fp16").endswith(key.replace(".", "_")) for name, key in found.items())
    first = next(iter(package.weights.values()))
    assert erased.match(replace(first, name="op_17"), package.array(first), state) == found[first.name]  # by value
    assert erased.match(first, package.array(first) + np.float16(1), state) is None


def test_only_layers_that_lose_their_change_are_kept_wider(small_unet: tuple[TextToImage, dict[str, Path]]) -> None:
    loaded, path = small_unet[0], small_unet[1]["iOS17"]
    layers = ("mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv2.weight")
    names = {layer: f"unet_{layer.replace('.', '_')}_to_fp16" for layer in layers}
    loaded, control, package = copy.deepcopy(loaded), copy.deepcopy(loaded), Package(path)
    with torch.no_grad():
        steps = torch.linspace(-0.1, 0.1, 16)
        for module in (loaded.unet, control.unet):
            weight = dict(module.named_parameters())[layers[0]]
            weight.copy_(steps[torch.randint(16, weight.shape, generator=torch.Generator().manual_seed(0))])
        for layer, change in zip(layers, (2e-3, 2e-3), strict=True):
            weight = dict(loaded.unet.named_parameters())[layer]
            weight.add_(change * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    arrays = {names[layer]: dict(loaded.unet.named_parameters())[layer].half().numpy() for layer in layers}
    kept = package.array
    package.array = lambda weight: arrays.get(weight.name, kept(weight))  # what an export of the changed model would hold
    widths, facts = erased.keep(package, "unet", dict.fromkeys(package.weights, 4), "palettize", job(loaded, control))
    assert [row["layer"] for row in facts["kept_wider"]] == [names[layers[0]]] and widths[names[layers[0]]] > 4
    assert {name for name, width in widths.items() if width > 4} == {names[layers[0]]}
    assert facts["changed_layers"] == 2 and facts["not_found_in_the_control"] == []
    assert facts["unchanged_layers"] == len(package.weights) - 2
