"""Weights read a few at a time are those that from_pretrained reads, and other files are left to it."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from edgesafe import widen


@pytest.mark.parametrize(("cls", "name"), [(UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_as_from_pretrained(cls: type, name: str, dtype: torch.dtype, tiny_sd2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_sd2 / name
    expected = cls.from_pretrained(folder, torch_dtype=dtype, local_files_only=True).state_dict()
    for at_once in (2**27, 1000):
        monkeypatch.setattr(widen, "AT_ONCE", at_once)
        part = widen.read(cls, folder, sorted(folder.glob("*.safetensors")), dtype)
        got = part.state_dict()
        assert list(got) == list(expected) and not part.training
        assert all(torch.equal(got[key], value) and got[key].dtype == dtype for key, value in expected.items())


def test_other_weights_than_the_config_says_are_left_alone(tiny_sd1: Path, tiny_sd2: Path) -> None:
    files = sorted((tiny_sd1 / "unet").glob("*.safetensors"))
    assert widen.read(UNet2DConditionModel, tiny_sd2 / "unet", files, torch.float32) is None
