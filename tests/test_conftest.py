"""The toy models really have the shapes that tests rely on."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from . import conftest


@pytest.mark.parametrize(("fixture", "prediction", "linear"), [("tiny_sd1", "epsilon", False), ("tiny_sd2", "v_prediction", True)])
def test_toy_pipeline_draws_and_has_its_familys_shape(fixture: str, prediction: str, linear: bool, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.prediction_type == prediction
    assert pipeline.unet.config.use_linear_projection is linear
    assert len(pipeline.unet.down_blocks) == 4 and pipeline.vae_scale_factor == 8
    picture = pipeline("shark neon style", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (64, 64)


@pytest.mark.browser
def test_browser_tests_fail_where_there_is_no_browser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    conftest.pytest_runtest_setup(request.node)
    monkeypatch.setattr(conftest.shutil, "which", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="no browser on the PATH .* apt install chromium. To leave these tests out"):
        conftest.pytest_runtest_setup(request.node)
