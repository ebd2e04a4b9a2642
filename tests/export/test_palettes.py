"""One weight's narrow forms, and a whole UNet's: errors by width, groups, ends that stay, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import mil, sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, narrow, palettes, parity
from edgesafe.export.compression import Compression
from edgesafe.export.job import Job
from edgesafe.export.mlpackage import Package
from edgesafe.model import TextToImage

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((96, 64, 3, 3)) * RNG.uniform(0.01, 0.1, (6, 1)).repeat(16, 0).reshape(96, 1, 1, 1)).astype(np.float16)


def error(form: palettes.Form, weight: np.ndarray = WEIGHT) -> float:
    return float(np.square(form.dense().astype(np.float64) - weight).sum() / np.square(weight.astype(np.float64)).sum())


def test_error_falls_with_bits_and_with_groups() -> None:
    plain, grouped = ([error(palettes.palettize(WEIGHT, bits, groups)) for bits in (4, 6, 8)] for groups in (False, True))
    assert plain[0] > 10 * plain[1] > 100 * plain[2] > 0
    assert grouped[0] < 0.9 * plain[0] and all(a <= b for a, b in zip(grouped, plain, strict=True))


def test_palettes_of_groups_stay_a_small_share() -> None:
    made = palettes.palettize(WEIGHT, 4, True)
    assert len(made.lut) == 6 and made.lut.nbytes <= palettes.SHARE * WEIGHT.size / 2
    assert len(palettes.palettize(WEIGHT[:17], 4, True).lut) == 1 and len(palettes.palettize(WEIGHT[:, :, 0, 0], 6, True).lut) == 1


def test_int4_blocks_beat_the_largest_value_as_the_scale() -> None:
    made = palettes.quantize(WEIGHT, 4)
    assert made.scale.shape == (96, 2) and made.codes.min() >= -8 and made.codes.max() <= 7
    values = WEIGHT.astype(np.float64).reshape(96, 2, -1)
    scale = np.abs(values).max(-1, keepdims=True) / 7
    assert error(made) < 0.95 * np.square(np.rint(values / scale) * scale - values).sum() / np.square(values).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_channel_of_zeros_stays_zero(bits: int) -> None:
    weight = WEIGHT.copy()
    weight[3] = 0
    assert np.array_equal(palettes.quantize(weight, bits).dense()[3], weight[3])


def test_float32_weights_of_any_size() -> None:
    for factor in (1e-12, 1.0, 1e12):
        weight = WEIGHT.astype(np.float32) * factor
        made = palettes.palettize(weight, 6, False)
        assert made.lut.dtype == np.float32 and error(made, weight) == pytest.approx(error(palettes.palettize(WEIGHT, 6, False)), rel=0.02)


def test_broken_weights_are_refused() -> None:
    weight = WEIGHT.copy()
    weight[0, 0, 0, 0] = np.inf
    with pytest.raises(EdgeSafeError, match="not finite"):
        palettes.palettize(weight, 4, False)


@pytest.fixture(scope="module")
def job(small_unet: tuple[TextToImage, dict[str, Path]]) -> Job:
    loaded = small_unet[0]
    return Job(loaded, parity.Recording((), torch.zeros(1, 77), sampling.starting_latents([0], (4, 8, 8))), None)


@pytest.mark.parametrize(
    ("deployment", "method", "bits"),
    [("iOS17", "palettize", 6), ("iOS18", "palettize", 4), ("iOS17", "quantize", 8), ("iOS18", "quantize", 4)],
)
def test_a_unet_in_fewer_bits(
    small_unet: tuple[TextToImage, dict[str, Path]], job: Job, tmp_path: Path, deployment: str, method: str, bits: int
) -> None:
    wide, shares = small_unet[1][deployment], []
    facts = narrow.compress("unet", wide, tmp_path / "Unet.mlpackage", Compression(method, bits), job, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert set(facts["layers_by_bits"]) == {str(bits), "16"} and facts["mib"] < facts["wide_mib"] * (bits / 16 + 0.25)
    ends = {name.removeprefix("unet_").removesuffix("_weight_to_fp16") for name in facts["ends_kept"]}
    assert ends == {"time_embedding_linear_1", "time_embedding_linear_2"}  # conv_in and conv_out are below the floor here
    before, after = mil.load(wide), mil.load(tmp_path / "Unet.mlpackage")
    inputs = {
        "sample": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        "timestep": torch.tensor([981.0, 1.0]),
        "encoder_hidden_states": torch.randn(2, 32, 1, 77, generator=torch.Generator().manual_seed(1)),
    }
    full, made = (program(**inputs)["noise_pred"] for program in (before, after))
    forms = {
        weight.name: torch.from_numpy(palettes.narrow(Package(wide).array(weight), bits, method, deployment == "iOS18").dense())
        for weight in Package(wide).weights.values()
        if weight.name not in facts["ends_kept"]
    }
    torch.testing.assert_close(made, before.replaced(forms)(**inputs)["noise_pred"])
    assert parity.compare("unet", full, made)[0] > {8: 40, 6: 32, 4: 18}[bits]


def test_wider_ends_where_nothing_is_wider() -> None:
    assert [c.bits for c in narrow.wider(Compression("palettize", 4))] == [6, 8] and narrow.wider(Compression("palettize", 8)) == ()
    assert [c.name for c in narrow.wider(Compression("quantize", 4, keep_erased=False))] == ["int8"]
    assert all(not c.keep_erased for c in narrow.wider(Compression("quantize", 4, keep_erased=False)))


def test_int4_before_ios18_is_refused_with_the_reason() -> None:
    with pytest.raises(EdgeSafeError, match="int4 needs --deployment iOS18: iOS17 knows integer weights of 8 bits only"):
        narrow.check(ExportConfig(quantize="int4").compression(), "iOS17")
    assert narrow.check(ExportConfig(quantize="int4").compression(), "iOS18").bits == 4
