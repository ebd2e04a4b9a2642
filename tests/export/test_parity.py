"""The comparison itself, and that a failing one leaves nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import gate, parity


def test_psnr_is_the_peak_over_the_root_mean_square_error() -> None:
    reference = torch.tensor([3.0, -4.0, 0.0, 1.0])
    psnr_db, max_abs, cosine = parity.compare("unet", reference, reference + torch.tensor([0.1, -0.1, 0.1, 0.1]))
    assert psnr_db == pytest.approx(20 * np.log10(4 / 0.1), abs=1e-4)
    assert max_abs == pytest.approx(0.1, abs=1e-6) and 0.999 < cosine < 1
    assert parity.compare("unet", reference, reference)[:2] == (parity.IDENTICAL_DB, 0.0)


def test_values_that_are_not_finite_are_counted_and_named() -> None:
    with pytest.raises(EdgeSafeError, match=r"vae_decoder: 2 of 4 values .* not finite; fp16 cannot hold"):
        parity.compare("vae_decoder", torch.ones(4), torch.tensor([1.0, float("nan"), float("inf"), 1.0]))


def test_torch_against_itself_is_identical(tiny_sd1: Path) -> None:
    loaded = model.load(tiny_sd1)
    recording = parity.record(loaded, ("red apple", "shark"), 64, 128, lambda: None)
    assert recording.picture.shape == (2, 64, 128, 3) and recording.picture.dtype == torch.uint8
    calls = recording.calls["unet"]
    assert [int(inputs[1]) for inputs, _ in calls] == list(range(961, 0, -40))
    assert len({inputs[2].data_ptr() for inputs, _ in calls}) == 1 and {len(inputs[0]) for inputs, _ in calls} == {4}
    made = parity.measure(
        loaded, recording, parity.TorchParts(loaded), ("text_encoder", "unet", "vae_encoder", "vae_decoder"), lambda: None
    )
    assert {row["psnr_db"] for row in made["components"].values()} == {parity.IDENTICAL_DB}
    assert made["picture"] == {"max_levels": 0, "mean_levels": 0.0, "pictures": 2}
    assert not gate.below(made, 299.0)
