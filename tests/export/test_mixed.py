"""Widths by layer: sensitivities against the UNet run with one layer narrowed, and goals against the UNet run with all of them."""

import copy
from itertools import product
from pathlib import Path

import pytest
import torch

from edgesafe import mil
from edgesafe.errors import EdgeSafeError
from edgesafe.export import mixed, narrow, parity
from edgesafe.export.compression import Compression
from edgesafe.export.job import Job
from edgesafe.export.mixed import FULL, Layer
from edgesafe.export.mlpackage import Package
from edgesafe.export.recorded import Recorded
from edgesafe.model import TextToImage

Small = tuple[TextToImage, dict[str, Path]]


@pytest.fixture(scope="module")
def job(small_unet: Small) -> Job:
    loaded = small_unet[0]
    recording = parity.Recording(("a", "b"), torch.zeros(3, 77, dtype=torch.long), torch.zeros(2, 4, 8, 8))
    draw = torch.Generator().manual_seed(0)
    for t in (981, 1):
        inputs = torch.randn(2, 4, 8, 8, generator=draw), torch.tensor(t), torch.randn(2, 77, 32, generator=draw)
        with torch.no_grad():
            made = loaded.unet(*inputs, return_dict=False)[0]
        recording.calls.setdefault("unet", []).append((inputs, (made,)))
    return Job(loaded, recording, None)


def compress(small_unet: Small, job: Job, to: Path, amount: float, unit: str) -> tuple[dict, float]:
    facts = narrow.compress("unet", small_unet[1]["iOS17"], to, Compression("mixed", goal=(amount, unit)), job, lambda _: None)
    return facts, Recorded(to, job.recording.calls["unet"], every=True).psnr({})


def test_a_decibel_goal_is_reached_on_the_written_file_below_the_size_of_even_widths(small_unet: Small, job: Job, tmp_path: Path) -> None:
    narrow.compress("unet", small_unet[1]["iOS17"], tmp_path / "six.mlpackage", Compression("palettize", 6), job, lambda _: None)
    six = Recorded(tmp_path / "six.mlpackage", job.recording.calls["unet"], every=True).psnr({})
    facts, psnr_db = compress(small_unet, job, tmp_path / "Unet.mlpackage", six, "dB")
    assert six <= psnr_db < six + 1 and facts["mixed"]["psnr_db"] == pytest.approx(psnr_db, abs=0.02)
    assert len(facts["layers_by_bits"]) >= 3 and facts["mixed"]["tries"] <= mixed.TRIES
    assert Package(tmp_path / "Unet.mlpackage").bytes < Package(tmp_path / "six.mlpackage").bytes


def test_a_size_goal_is_kept_to_and_used(small_unet: Small, job: Job, tmp_path: Path) -> None:
    goal = 0.5 * Package(small_unet[1]["iOS17"]).bytes / mixed.MIB
    facts, _ = compress(small_unet, job, tmp_path / "Unet.mlpackage", goal, "MiB")
    made = Package(tmp_path / "Unet.mlpackage").bytes / mixed.MIB
    assert 0.95 * goal < made <= goal and facts["mib"] == pytest.approx(made, abs=0.001)


def test_goals_out_of_reach_say_what_can_be_reached(small_unet: Small, job: Job) -> None:
    package = Package(small_unet[1]["iOS17"])
    unet, path = (
        Recorded(package.path, job.recording.calls["unet"], every=True),
        mixed.Path([Layer("a", {4: 100.0, FULL: 400.0}, {4: 1.0, FULL: 0.0})]),
    )
    with pytest.raises(EdgeSafeError, match=r"--mixed 120dB: with no layer narrowed at all the UNet reaches \d\d\.\d dB"):
        mixed._reaching(path, package, unet, 120, lambda _: None)
    with pytest.raises(EdgeSafeError, match=r"as narrow as it may be, this file takes 1\.00 MiB, 1\.00 of which stay"):
        mixed._within(path, 99.0, mixed.MIB)


def test_sensitivity_is_the_measured_change_of_the_output(small_unet: Small, job: Job) -> None:
    package = Package(small_unet[1]["iOS17"])
    unet = Recorded(package.path, job.recording.calls["unet"], every=True)  # two calls of two rows: its probes are all of them, twice
    name = next(name for name in package.weights if "mid_block_resnets_0_conv1" in name)
    (layer,) = mixed._measured(package, [name], dict.fromkeys(package.weights, 4), unet)
    direct, shares = copy.deepcopy(small_unet[0].unet), []
    with torch.no_grad():
        direct.half().float()
        full = [direct(*inputs, return_dict=False)[0] for inputs, _ in job.recording.calls["unet"]]
        direct.mid_block.resnets[0].conv1.weight.copy_(_narrow(package, name))
        for (inputs, _), before in zip(job.recording.calls["unet"], full, strict=True):
            change = (direct(*inputs, return_dict=False)[0] - before).square().flatten(1).mean(1)
            shares += (change / before.square().flatten(1).amax(1)).tolist()
    assert layer.error[4] == pytest.approx(sum(shares) / len(shares), rel=0.02)
    assert layer.error[4] > layer.error[6] > layer.error[8] > layer.error[FULL] == 0


def _narrow(package: Package, name: str) -> torch.Tensor:
    return mixed._dense(package, {name: 4}, {})[name].float()


def test_each_place_of_the_path_is_the_best_of_its_size() -> None:
    draw = torch.Generator().manual_seed(1)
    layers = []
    for i in range(5):
        size, gain = torch.rand(2, generator=draw).tolist()
        errors = {width: gain * 4.0**-width for width in (4, 6, 8)} | {FULL: 0.0}
        layers.append(Layer(str(i), {width: 1000 * (0.1 + size) * width for width in errors}, errors))

    def size(widths: dict[str, int]) -> float:
        return sum(layer.bytes[widths[layer.name]] for layer in layers)

    def lost(widths: dict[str, int]) -> float:
        return sum(layer.error[widths[layer.name]] for layer in layers)

    choices, path = [dict(zip("01234", widths, strict=True)) for widths in product((4, 6, 8, FULL), repeat=5)], mixed.Path(layers)
    for limit in (15000.0, 20000.0, 30000.0):
        place = mixed._within(path, limit, 0.0)
        assert path.bytes[place] == pytest.approx(size(path[place])) and path.bytes[place] <= limit
        assert path.error[place] == pytest.approx(lost(path[place]))
        best = min(lost(widths) for widths in choices if size(widths) <= path.bytes[place] * (1 + 1e-9))
        assert path.error[place] == pytest.approx(best)
    assert set(path[0].values()) == {4} and set(path[len(path) - 1].values()) == {FULL} and path.error[-1] == pytest.approx(0, abs=1e-12)


def test_large_unets_are_called_with_one_batch_of_mixed_rows(small_unet: Small, job: Job) -> None:
    unet = Recorded(small_unet[1]["iOS17"], job.recording.calls["unet"], every=False)
    assert unet.calls == 1 and unet.batch == 2
    assert unet.psnr({}) > 40 and unet.error({}) == 0 and unet.calls == 3
    assert mil.load(small_unet[1]["iOS17"]).inputs["sample"].shape[0] == 2
