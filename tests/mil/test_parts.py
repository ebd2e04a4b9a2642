"""A Core ML export as a pipeline's functions: fixed batches, a UNet in two chunks, what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesafe.errors import EdgeSafeError
from edgesafe.mil import PROVES
from edgesafe.mil.parts import CoreMLParts

BATCH, TEXT, TOKENS = 2, 3, 5
INPUTS = {"sample": (BATCH, 4, 6, 8), "timestep": (BATCH,), "encoder_hidden_states": (BATCH, TEXT, 1, TOKENS)}


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def scaled(sample: Any, timestep: Any) -> Any:
    from coremltools.converters.mil import Builder as mb

    return mb.mul(x=sample, y=mb.reshape(x=timestep, shape=[BATCH, 1, 1, 1]))


def summed(states: Any) -> Any:
    from coremltools.converters.mil import Builder as mb

    return mb.reduce_sum(x=states, axes=[1, 3], keep_dims=True)  # (B, 1, 1, 1)


@pytest.fixture(scope="module")
def folder(saver: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """noise_pred = sample x timestep + the sum of the text; image = 2 z in three channels; the text encoder gives ids and their sum."""
    made = tmp_path_factory.mktemp("whole")

    def unet(sample: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        return mb.add(x=scaled(sample, timestep), y=summed(encoder_hidden_states), name="noise_pred")

    def decoder(z: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        return mb.mul(x=mb.slice_by_size(x=z, begin=[0, 0, 0, 0], size=[-1, 3, -1, -1]), y=2.0, name="image")

    def text(input_ids: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        states = mb.tile(x=mb.expand_dims(x=input_ids, axes=[2]), reps=[1, 1, TEXT], name="last_hidden_state")
        return states, mb.reduce_mean(x=states, axes=[1], name="pooled_outputs")

    saver(unet, **arrays(**INPUTS)).rename(made / "Unet.mlpackage")
    saver(decoder, **arrays(z=(1, 4, 6, 8))).rename(made / "VAEDecoder.mlpackage")
    saver(text, **arrays(input_ids=(1, TOKENS))).rename(made / "TextEncoder.mlpackage")
    return made


@pytest.fixture(scope="module")
def chunked(saver: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same UNet; the first chunk's output has a name of its own, and the second asks for the text and not for the sample."""
    made = tmp_path_factory.mktemp("chunked")

    def first(sample: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        made = scaled(sample, timestep)
        return mb.add(x=made, y=mb.mul(x=summed(encoder_hidden_states), y=0.25), name="hidden_states")

    def second(encoder_hidden_states: Any, hidden_states: Any) -> Any:
        from coremltools.converters.mil import Builder as mb

        return mb.add(x=hidden_states, y=mb.mul(x=summed(encoder_hidden_states), y=0.75), name="noise_pred")

    given = {"encoder_hidden_states": INPUTS["encoder_hidden_states"], "hidden_states": INPUTS["sample"]}
    saver(first, **arrays(**INPUTS)).rename(made / "UnetChunk1.mlpackage")
    saver(second, **arrays(**given)).rename(made / "UnetChunk2.mlpackage")
    return made


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["folder", "chunked"])
def test_any_batch_goes_through_a_fixed_one(request: pytest.FixtureRequest, kind: str, rows: int) -> None:
    parts = CoreMLParts(request.getfixturevalue(kind), BATCH, half=False)
    sample, states = torch.randn(rows, 4, 6, 8), torch.randn(rows, TOKENS, TEXT)
    made = parts.unet(sample, torch.tensor(3), states)
    torch.testing.assert_close(made, 3 * sample + states.sum((1, 2)).reshape(rows, 1, 1, 1))
    assert parts.latent_shape == (4, 6, 8)


def test_other_parts_go_one_by_one(folder: Path) -> None:
    parts = CoreMLParts(folder, BATCH)
    z, ids = torch.randn(3, 4, 6, 8).half().float(), torch.randint(0, 9, (3, TOKENS))
    torch.testing.assert_close(parts.vae_decoder(z), 2 * z[:, :3])
    states, pooled = parts.text_encoder(ids)
    torch.testing.assert_close(states, ids.float()[..., None].expand(3, TOKENS, TEXT))
    torch.testing.assert_close(pooled, ids.float().mean(1, True).expand(3, TEXT))
    assert parts.tokens == TOKENS and parts.proves == PROVES


def test_what_is_missing_is_named(folder: Path, chunked: Path) -> None:
    with pytest.raises(EdgeSafeError, match=r"VAEEncoder.mlpackage: no such package"):
        CoreMLParts(folder, BATCH).vae_encoder(torch.zeros(1, 3, 8, 8))
    with pytest.raises(EdgeSafeError, match=r"TextEncoder.mlpackage: no such package"):
        CoreMLParts(chunked, BATCH).text_encoder(torch.zeros(1, TOKENS))
    with pytest.raises(EdgeSafeError, match=r"Unet.mlpackage: no such package"):
        CoreMLParts(chunked / "nowhere", BATCH).unet(torch.zeros(1, 4, 6, 8), torch.tensor(1), torch.zeros(1, TOKENS, TEXT))
