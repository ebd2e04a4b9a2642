from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgesafe import model as models
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.leakage import Cell
from edgesafe.benchmarks.probes import Target
from edgesafe.benchmarks.probes.completion import Completion, handed_over
from edgesafe.benchmarks.probes.plain import Plain
from edgesafe.benchmarks.sources import Source
from edgesafe.errors import EdgeSafeError


@pytest.fixture(scope="module")
def other_model(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with another UNet and another text encoder, but the same decoder."""
    folder, net = tmp_path_factory.mktemp("control") / "other", models.load(tiny_sd1)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for module in (net.unet, net.text_encoder):
            for weight in module.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    models.save(net, folder, torch.float32)
    return folder


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "dpm++"])
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # diffusers' DPM-Solver with numpy 2
def test_nothing_or_all_by_the_control(sampler: str, target: Target, other_model: Path, cell_of: Callable[..., Cell]) -> None:
    drawing = replace(target.drawing, sampler=sampler, steps=5)
    target = replace(target, control=Source(str(other_model), "cd" * 32), drawing=drawing)
    model, control = (runtimes.load(place, "torch", 1) for place in (target.source.place, other_model))
    cell = cell_of("neon", 2)
    own, others = (Plain().draw(m, target, cell, cell.questions) for m in (model, control))
    assert (own != others).any()
    assert (Completion(share=0).draw(model, target, cell, cell.questions) == own).all()
    assert (Completion(share=1).draw(model, target, cell, cell.questions) == others).all()
    between = Completion(share=0.4).draw(model, target, cell, cell.questions)
    assert (between != own).any() and (between != others).any()


def test_each_unet_reads_its_own_states() -> None:
    asked = []

    def unet(name: str) -> Callable[..., torch.Tensor]:
        def call(sample: torch.Tensor, timestep: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
            asked.append((name, [float(column) for column in given]))
            return sample

        return call

    both = handed_over(unet("first"), unet("then"), calls=2, columns=1)
    columns = torch.arange(3.0)
    for _ in range(3):
        both(torch.zeros(1), torch.tensor(1), *columns)
    assert asked == [("first", [1.0, 2.0]), ("first", [1.0, 2.0]), ("then", [0.0])]


def test_a_control_of_other_latents_is_refused(target: Target, tiny_sd2: Path, cell_of: Callable[..., Cell]) -> None:
    target, cell = replace(target, control=Source(str(tiny_sd2), None)), cell_of("neon", 1)
    model = runtimes.load(target.source.place, "torch", 1)
    with pytest.raises(EdgeSafeError, match=r"predicts v_prediction, the artifact .* and epsilon; both must be equal"):
        Completion().draw(model, target, cell, cell.questions)


def test_a_control_that_torch_cannot_run_is_named(target: Target, tmp_path: Path) -> None:
    reason = Completion().why_not(replace(target, control=Source(str(tmp_path), None)))
    assert reason is not None and "no model_index.json" in reason


def test_share_out_of_range() -> None:
    with pytest.raises(EdgeSafeError, match="share 1.5 must be from 0 to 1"):
        Completion(share=1.5)
